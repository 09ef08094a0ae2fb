"""What explains a candidate's scores, stored under its run: forecasts, behaviour, model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd

from urbanwm.assumptions import load_assumptions
from urbanwm.evaluation.verification import verify
from urbanwm.figures import reliability
from urbanwm.measures import measure_estimates
from urbanwm.model.bundle import Bundle
from urbanwm.model.bundle_files import CARD
from urbanwm.model_card import RELIABILITY_FIGURE, CityData, model_card
from urbanwm.pipeline.forecasts import BASELINE, REFERENCES
from urbanwm.pipeline.outcome import Trained
from urbanwm.pipeline.plan import Plan
from urbanwm.registry import RunLog

CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"
JUDGED_TAG: Final = "champion_judged"
"""Version whose forecasts are stored beside the candidate's, so that the gate need not make them again."""
BEHAVIOUR_TAG: Final = "behaviour_failures"
"""Number of failed behaviour checks, whose sentences are stored, so that the gate need not run them again."""
BEHAVIOUR_FILE: Final = "gate/behaviour.json"


def table_path(name: str) -> str:
    """Return where a run keeps the forecasts of one model."""
    return f"evaluation/{name}.parquet"


def log_evaluation(
    plan: Plan,
    run: RunLog,
    tables: Mapping[str, pd.DataFrame],
    trained: Trained,
    champion: str | None,
    failures: Sequence[str],
) -> None:
    """Store forecasts, behaviour and the model card under the candidate's run.

    Args:
        plan: What was trained, on which data.
        run: Open run.
        tables: Forecasts by model, on the same origins.
        trained: The candidate; its bundle is read for the card.
        champion: The version whose forecasts the table "champion" holds, or None.
        failures: What the behaviour suite found.
    """
    for name in (CHALLENGER, BASELINE, CHAMPION):
        if name in tables:
            run.log_frame(tables[name], table_path(name))
    if champion is not None:
        run.set_tags({JUDGED_TAG: champion})
    run.log_json({"failures": list(failures)}, BEHAVIOUR_FILE)
    run.set_tags({BEHAVIOUR_TAG: str(len(failures))})
    _log_card(plan, run, tables, trained, failures)


def _log_card(
    plan: Plan, run: RunLog, tables: Mapping[str, pd.DataFrame], trained: Trained, failures: Sequence[str]
) -> None:
    """Write the model card from the bundle, the record, the verification and the behaviour suite."""
    references = {name: tables[name] for name in REFERENCES if name in tables}
    verification = verify(tables[CHALLENGER], references)
    bundle = Bundle.load(trained.bundle)
    assumptions = load_assumptions(bundle.assumptions)
    data = {
        name: CityData.of(
            record.city,
            record.frame,
            record.origins,
            measure_estimates(record.city, record.frame, assumptions),
        )
        for name, record in plan.data.records.items()
    }
    card = model_card(bundle, data, verification, parameters=trained.parameters, behaviour_failures=failures)
    run.log_text(card, CARD)
    # The service shows the card of the bundle that it serves. A repeated run writes the same text.
    (trained.bundle / CARD).write_text(card, encoding="utf-8")
    run.log_text(card, f"bundle/{CARD}")
    run.log_figure(reliability(verification.pit), RELIABILITY_FIGURE)
    run.log_json(verification.to_dict(), "evaluation/verification.json")
