"""The model card: what a reader must know before believing a model, written from its run and nothing else.

After Mitchell et al. 2019, "Model Cards for Model Reporting" (doi:10.1145/3287560.3287596). Every figure
comes from the bundle, the record or the verification that are handed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import pandas as pd

from urbanwm.calibration import USUAL_ERRORS
from urbanwm.cities import City
from urbanwm.contracts.signals import SIGNALS, TARGETS
from urbanwm.evaluation.metrics import ALL
from urbanwm.evaluation.verification import Verification
from urbanwm.features import FeatureSpec
from urbanwm.features.recent_errors import DAYS
from urbanwm.markdown import readable, table

RELIABILITY_FIGURE: Final = "figures/reliability.png"
COVERAGE_AIM: Final = (0.84, 0.96)
"""Coverage of a 90 % interval outside of this is listed among the limits."""
BAR_CELLS: Final = 20
UNKNOWN: Final = "unknown"
SCORES: Final = ("mae", "rmse", "bias", "crps", "coverage_50", "coverage_80", "coverage_90", "width_90")


class CardModel(Protocol):
    """What the card needs of a bundle; `urbanwm.model.bundle.Bundle` has it."""

    experiment: dict[str, Any]
    spec: FeatureSpec
    calibration: dict[str, Any]
    assumptions: dict[str, Any]
    provenance: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class CityData:
    """One city's record and where it was cut.

    Attributes:
        city: The city file.
        first: First hour of the record, UTC.
        cut: First held-out origin: rows before it were trained on.
        last: Last hour of the record.
        origins: Number of held-out origins.
        present: Share of hours with a value per target, over the training rows.
        estimates: Effects of marked measures, estimated from the record (`urbanwm.measures`).
    """

    city: City
    first: datetime
    cut: datetime
    last: datetime
    origins: int
    present: dict[str, float]
    estimates: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(
        cls,
        city: City,
        frame: pd.DataFrame,
        origins: Sequence[datetime],
        estimates: Sequence[Mapping[str, Any]] = (),
    ) -> CityData:
        """Describe an hourly frame that is trained on before `origins[0]` and judged from there on."""
        training = frame[frame.index < origins[0]]
        present = {n: float(training[n].notna().mean()) if n in training else 0.0 for n in TARGETS}
        return cls(city, frame.index[0], origins[0], frame.index[-1], len(origins), present, estimates)


def model_card(
    model: CardModel,
    data: Mapping[str, CityData],
    verification: Verification,
    *,
    behaviour_failures: Sequence[str],
    parameters: int | None = None,
) -> str:
    """Return the card as Markdown.

    Args:
        model: The bundle that was judged.
        data: Per city, what it was trained and judged on.
        verification: Its held-out scores beside the references'.
        behaviour_failures: What the behaviour suite found.
        parameters: Number of trained weights.
    """
    parts = [
        _heading(model, parameters),
        _data(data),
        _training(model),
        _scores(verification),
        _references(verification),
        _calibration(model, verification),
        _exceedance(verification),
        _behaviour(behaviour_failures),
        _policy(model, data),
        _limits(model, data, verification),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _heading(model: CardModel, parameters: int | None) -> Iterator[str]:
    """What it is, and where it comes from."""
    changed = " (changed)" if model.provenance.get("git_dirty") else ""
    yield f"# Model card: {model.experiment.get('name', UNKNOWN)}"
    yield ""
    yield "A latent world model that forecasts PM2.5, electricity demand and traffic, 1-168 h ahead, with"
    yield "intervals; a response layer lays policies on the forecast under stated assumptions. Written from"
    yield "the run: every score below is on hours that were not trained on."
    yield ""
    facts = {
        "run": model.provenance.get("run_id", UNKNOWN),
        "code": f"{model.provenance.get('git_sha', UNKNOWN)}{changed}",
        "data": f"lake version {model.provenance.get('dataset_version', UNKNOWN)}",
        "bundle": model.digest,
        "trained weights": UNKNOWN if parameters is None else f"{parameters:,}",
    }
    yield from (f"- {name}: {value}" for name, value in facts.items())


def _data(data: Mapping[str, CityData]) -> Iterator[str]:
    """What it was trained and judged on."""
    yield "## Data and splits"
    yield ""
    rows = [
        {
            "city": name,
            "kind": "simulated" if item.city.simulated else "observed",
            "first": item.first.isoformat(),
            "cut": item.cut.isoformat(),
            "last": item.last.isoformat(),
            "origins": item.origins,
        }
        for name, item in data.items()
    ]
    columns = {"city": "{city}", "data": "{kind}", "trained from": "{first}", "to (exclusive)": "{cut}"}
    yield from table(rows, columns | {"held-out origins": "{origins}", "record ends": "{last}"})
    yield ""
    yield "Origins are local midnights; a forecast knows the hours before its origin and no others."
    yield ""
    rows = [
        {
            "city": name,
            "signal": signal,
            "present": f"{item.present[signal]:.1%}",
            "sources": ", ".join(item.city.preference(signal)) or "none",
        }
        for name, item in data.items()
        for signal in TARGETS
    ]
    columns = {"city": "{city}", "signal": "{signal}", "hours present": "{present}"}
    yield from table(rows, columns | {"sources, most trusted first": "{sources}"})


def _training(model: CardModel) -> Iterator[str]:
    """How it was made."""
    yield "## Model and training"
    yield ""
    spec = model.spec
    yield f"- observed inputs, known up to the origin: {', '.join(spec.observed_names)}"
    yield f"- known ahead: {', '.join(spec.known_names) or 'nothing'}"
    yield f"- levers: {', '.join(spec.action_names)}"
    yield f"- seasonal predictions beside the network: {', '.join(spec.skip_names) or 'none'}"
    yield ""
    settings = [
        {"name": f"{part}.{name}", "value": value}
        for part in ("model", "training")
        for name, value in model.experiment.get(part, {}).items()
    ]
    yield from table(settings, {"setting": "{name}", "value": "{value}"})


def _scores(verification: Verification) -> Iterator[str]:
    """How wrong it is, by lead."""
    yield "## Scores by lead"
    yield ""
    rows = [row | {"unit": SIGNALS[row["signal"]].unit} for row in verification.scores.to_dict("records")]
    columns = {"city": "{city}", "signal": "{signal} ({unit})", "lead, h": "{bucket}", "hours": "{rows}"}
    yield from table(rows, columns | {metric: f"{{{metric}}}" for metric in SCORES})
    yield ""
    yield "MAE of the median, RMSE and bias (forecast minus observed) of the mean; CRPS is twice the mean"
    yield "pinball loss of seven quantiles."


def _references(verification: Verification) -> Iterator[str]:
    """Whether a simple rule would have done."""
    yield "## Against simple rules"
    yield ""
    if verification.ratios.empty:
        yield "Not compared."
    else:
        columns = {"city": "{city}", "signal": "{signal}", "reference": "{reference}"}
        columns |= {"CRPS ÷ reference's": "{ratio}", "95 % interval": "{low} to {high}", "skill": "{skill}"}
        yield from table(_overall_crps(verification).to_dict("records"), columns)
        yield ""
        yield "Below 1 is better. Circular block bootstrap over origin days, blocks of a week."
    yield from (f"{name} is left out: {reason}." for name, reason in verification.left_out.items())


def _overall_crps(verification: Verification) -> pd.DataFrame:
    """Return the CRPS ratios over all leads."""
    ratios = verification.ratios
    return ratios[(ratios["metric"] == "crps") & (ratios["bucket"] == ALL)]


def _calibration(model: CardModel, verification: Verification) -> Iterator[str]:
    """Whether its intervals hold what they promise."""
    yield "## Calibration"
    yield ""
    if model.calibration:
        method, windows = (model.calibration.get(name, UNKNOWN) for name in ("method", "windows"))
        yield f"Calibrated on {windows} validation windows, which were not trained on (`{method}`)."
        if USUAL_ERRORS in model.calibration:
            yield f"How large the errors of the last {DAYS} days were then scales each answer's bands."
    else:
        yield "The quantiles are the network's own; no calibration was fitted."
    yield ""
    yield f"![share of observations below each quantile]({RELIABILITY_FIGURE})"
    yield ""
    rows = verification.pit.to_dict("records")
    for row in rows:
        row["bar"] = "█" * round(min(BAR_CELLS, BAR_CELLS / 2 * row["share"] / row["expected"]))
    columns = {"city": "{city}", "signal": "{signal}", "observed value": "{interval}"}
    columns |= {"expected share": "{expected}", "share": "{share}", "half a bar = as expected": "{bar}"}
    yield from table(rows, columns)


def _exceedance(verification: Verification) -> Iterator[str]:
    """How well it warns of bad air."""
    yield "## Bad-air days"
    yield ""
    if verification.brier.empty:
        yield "PM2.5 was not forecast."
        return
    columns = {"city": "{city}", "day ahead": "{day}", "24 h mean of PM2.5 above": "{threshold} µg/m³"}
    columns |= {"Brier score": "{brier}", "always the observed frequency": "{climatological}"}
    yield from table(verification.brier.to_dict("records"), columns | {"days": "{days}"})


def _behaviour(failures: Sequence[str]) -> Iterator[str]:
    """Whether it keeps the identities."""
    yield "## Behaviour suite"
    yield ""
    if not failures:
        yield "Every check passed."
    for failure in failures:
        yield f"- {failure}"


def _policy(model: CardModel, data: Mapping[str, CityData]) -> Iterator[str]:
    """What a policy is assumed to do; a record's own estimate stands beside it, never in its place."""
    yield "## Policy effects: assumptions, not findings"
    yield ""
    preset = model.assumptions
    yield f"Preset `{preset.get('name', UNKNOWN)}`: {preset.get('title', '')}."
    yield ""
    columns = {"lever": "{lever}", "signal": "{signal}", "central": "{central}", "range": "{low} to {high}"}
    columns |= {"lag, h": "{lag_hours}", "scope": "{scope}", "source": "{source}"}
    yield from table(preset.get("coefficients", []), columns)
    estimates = [(name, found) for name, item in data.items() for found in item.estimates]
    if estimates:
        yield ""
        yield "Estimates from the record, beside the assumption and never in its place:"
        yield ""
        for name, found in estimates:
            yield f"- {name}: {found['text']}"


def _limits(model: CardModel, data: Mapping[str, CityData], verification: Verification) -> Iterator[str]:
    """What it cannot do, as far as this run shows."""
    yield "## Limits"
    yield ""
    yield "- It imagines the status quo. A record can hardly identify a policy's effect (wind moves both wind"
    yield "  power and air): effects are the assumptions above, and no better than those."
    forecast = ", ".join(model.spec.forecast_signals)
    ahead = f"and as forecast ({forecast})" if forecast else "only; it learned from no weather forecasts"
    yield f"- Weather is used up to the origin {ahead}."
    yield "- What the training rows never saw (wildfire smoke, a lockdown) is outside its intervals."
    for name, item in data.items():
        missing = [signal for signal in TARGETS if item.present[signal] == 0.0]
        if missing:
            yield f"- {name}: {', '.join(missing)} not observed, not answered."
        if item.city.notes:
            yield f"- {name}: {readable(item.city.notes)}"
    low, high = COVERAGE_AIM
    for row in verification.scores.to_dict("records"):
        if not low <= row["coverage_90"] <= high:
            where = f"{row['city']}, {row['signal']}, leads {row['bucket']} h"
            yield f"- {where}: the 90 % interval covered {row['coverage_90']:.1%}."
    if not verification.ratios.empty:
        for row in _overall_crps(verification).query("ratio >= 1").to_dict("records"):
            rival = f"no better than {row['reference']} (CRPS ratio {row['ratio']:.3f})"
            yield f"- {row['city']}, {row['signal']}: {rival}."
