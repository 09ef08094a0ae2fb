"""Counterfactual error on the truth city: `python -m benchmarks.truth_city [--train DAYS] [--scenarios N]`.

Asks "what if?" in cities whose effects are known (`urbanwm.evaluation.truth_city`) and prints one JSON
document: error and interval coverage of the effect over leads 25-48 h, and the negative control, in which
renewables do nothing and the tool answers with its default assumptions. Beside them stands the error that
chance leaves to one who knows the city's equations, coefficients and state.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import timedelta
from pathlib import Path

from urbanwm.assumptions import load_assumptions
from urbanwm.baseline import BaselineForecaster
from urbanwm.contracts.scenario import Forecaster
from urbanwm.contracts.signals import TARGETS
from urbanwm.evaluation.truth_city import (
    FIRST_START,
    TRUTH,
    compare_effects,
    questions,
    summarise_effects,
    truth_place,
    unavoidable_error,
)
from urbanwm.synthetic import SyntheticUrbanDataset

TRAINING_SEED = 1_000_000
"""A city of its own: the scenarios count from 0."""
CHANCE_SCENARIOS = 100
"""Scenarios whose possible futures are drawn: each takes sixteen simulations of the city."""
GOALS = {"error": 0.10, "coverage_90": (0.85, 0.95), "contains_zero": 0.95}


def main() -> None:
    """Run the suite and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", type=int, default=200, help="scenarios of each part")
    parser.add_argument("--samples", type=int, default=100, help="members per forecast")
    parser.add_argument("--seed", type=int, default=0, help="of the scenarios")
    answerer = parser.add_mutually_exclusive_group()
    answerer.add_argument("--model", type=Path, help="bundle folder; default: the deterministic baseline")
    answerer.add_argument("--train", type=int, help="train the default experiment on so many days first")
    chosen = parser.parse_args()
    forecaster = _trained(chosen.train) if chosen.train else _forecaster(chosen.model)
    asked = questions(chosen.scenarios, chosen.seed)
    table = compare_effects(forecaster, asked, samples=chosen.samples)
    control = questions(chosen.scenarios, chosen.seed, control=True)
    literature = load_assumptions("literature")
    document = {
        "answered_by": forecaster.served_by,
        "scenarios": chosen.scenarios,
        "all": summarise_effects(table),
        "by_kind": {str(kind): summarise_effects(rows) for kind, rows in table.groupby("kind")},
        "negative_control": summarise_effects(
            compare_effects(forecaster, control, samples=chosen.samples, assumptions=literature)
        ),
        "unavoidable_error": unavoidable_error(asked[:CHANCE_SCENARIOS]),
        "goals": GOALS,
    }
    print(json.dumps(document, indent=2))


def _forecaster(folder: Path | None) -> Forecaster:
    """Return who forecasts the status quo."""
    if folder is None:
        return BaselineForecaster()
    from urbanwm.forecaster import WorldModelForecaster
    from urbanwm.model.bundle import Bundle

    return WorldModelForecaster(Bundle.load(folder))


def _trained(days: int) -> Forecaster:
    """Return the default experiment, trained on the days before any scenario of the central city."""
    from benchmarks.trained import trained_bundle
    from urbanwm.forecaster import WorldModelForecaster
    from urbanwm.model.bundle import Bundle
    from urbanwm.model.config import load_experiment

    place = truth_place()
    record = SyntheticUrbanDataset(TRAINING_SEED, TRUTH).hours(
        FIRST_START - timedelta(days=days), FIRST_START, place.timezone, country="DE"
    )
    frame = record[[*TARGETS, "temperature_c", "wind_speed_ms", "renewable_share"]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = trained_bundle(load_experiment("urban"), place, frame, Path(scratch))
        return WorldModelForecaster(Bundle.load(folder))


if __name__ == "__main__":
    main()
