"""Two ways to carry a policy, measured on the truth city: `python -m benchmarks.carry [--steps N]`.

(a) The response layer on top of the status-quo forecast, as the tool answers. (b) Interventions drawn from
the same assumptions and written into the training record, so that the latent dynamics learn to carry the
levers, and the effect is the difference of two rollouts, under the policy's actions and under the status
quo's. Both answer the same questions from the same record; printed are, per target, the error of the effect
over leads 25-48 h, relative to the mean true effect, and how often (b) breaks an identity that (a) keeps by
construction.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.trained import trained_bundle
from urbanwm.baseline import BaselineForecaster
from urbanwm.contracts.scenario import Policy
from urbanwm.contracts.signals import ACTIONS, MEDIAN, TARGETS
from urbanwm.effects import apply
from urbanwm.evaluation.truth_city import (
    FIRST_START,
    HORIZON_HOURS,
    JUDGED,
    TRUTH,
    Question,
    ask,
    questions,
    truth_assumptions,
    truth_place,
)
from urbanwm.features import serving_windows
from urbanwm.model.bundle import Bundle
from urbanwm.model.config import load_experiment
from urbanwm.policy import Doses, StatusQuo, action_schedule, dose_schedule
from urbanwm.synthetic import SyntheticUrbanDataset

Float = NDArray[np.float64]

TRAINING_DAYS = 600
SPELL_HOURS = 96
SPELL_PROBABILITY = 0.5
QUO = StatusQuo(TRUTH.renewable_status_quo)
SMALL = {"model.hidden_dim": 96, "model.latent_dim": 48, "training.threads": 1, "training.device": "cpu"}
DOSES = (0.25, 0.5, 0.75, 1.0)


def main() -> None:
    """Train with and without interventions in the record, ask both, print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--scenarios", type=int, default=60)
    chosen = parser.parse_args()
    start = FIRST_START - timedelta(days=TRAINING_DAYS)
    # One city answers all questions here: a network learns one city's levels, not those of 200.
    city = SyntheticUrbanDataset(0, TRUTH)
    asked = [replace(q, parameters=TRUTH, seed=0) for q in questions(chosen.scenarios)]
    record = city.hours(start, FIRST_START, truth_place().timezone, country="DE")
    with tempfile.TemporaryDirectory() as scratch:
        bundle = _train(with_interventions(record, seed=1), chosen.steps, Path(scratch))
        print(json.dumps({"steps": chosen.steps, **_compare(bundle, city, asked)}, indent=2))


def with_interventions(record: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the record as it might have been with measures in spells, carried by the response layer.

    Every spell draws its levers and its own coefficients from the assumptions; echoes end with the spell.
    """
    random = np.random.default_rng(seed)
    changed = record.copy()
    for name in ACTIONS:
        changed[name] = QUO.level(name)  # type: ignore[arg-type]
    assumptions = truth_assumptions()
    for first in range(0, len(record) - SPELL_HOURS + 1, SPELL_HOURS):
        rows = slice(first, first + SPELL_HOURS)
        length, delay = int(random.integers(24, 73)), int(random.integers(0, 12))
        hours = np.zeros(SPELL_HOURS)
        hours[delay : delay + length] = 1.0
        levels = {name: np.full(SPELL_HOURS, QUO.level(name)) for name in ACTIONS}  # type: ignore[arg-type]
        for name in ACTIONS:
            if random.random() < SPELL_PROBABILITY:
                levels[name] += hours * (random.random() - levels[name])
        neutral = {"dynamic_pricing": 0.0, "gdp_activity_index": 1.0, "commercial_load_factor": 1.0}
        values = levels | {name: np.full(SPELL_HOURS, value) for name, value in neutral.items()}
        members = record.iloc[rows][list(TARGETS)].to_numpy()[None]
        after = apply(
            members,
            Doses(values, QUO),  # type: ignore[arg-type]
            assumptions,
            background_pm25=TRUTH.pm25_background,
            draws=[c.sample(random.random(1)) for c in assumptions.coefficients],
        )
        changed.iloc[rows, [changed.columns.get_loc(name) for name in TARGETS]] = after[0]
        for name in ACTIONS:
            changed.iloc[rows, changed.columns.get_loc(name)] = levels[name]
    return changed


def _train(record: pd.DataFrame, steps: int, scratch: Path) -> Bundle:
    """Train a small model on the record, levers included."""
    experiment, place = load_experiment("urban", SMALL | {"training.steps": steps}), truth_place()
    frame = record[[*TARGETS, *ACTIONS, "temperature_c", "wind_speed_ms", "renewable_share"]]
    quo = {place.name: QUO.renewable_mix}
    folder = trained_bundle(
        experiment, place, frame, scratch, altered=lambda spec: replace(spec, renewable_status_quo=quo)
    )
    return Bundle.load(folder)


def _compare(bundle: Bundle, city: SyntheticUrbanDataset, asked: list[Question]) -> dict[str, object]:
    """Ask both ways and return their errors and the broken identities of the learned one."""
    errors: dict[str, list[Float]] = {"layer": [], "learned": []}
    truths, rising, moved = [], [], []
    for question in asked:
        span = (question.start - timedelta(days=120), question.start + timedelta(hours=HORIZON_HOURS))
        without, held = (
            city.hours(*span, truth_place().timezone, country="DE", intervention=measure)
            for measure in (None, question.intervention)
        )
        ahead = np.asarray(without.index >= question.start)
        usual, with_it = (frame.loc[ahead, list(TARGETS)].to_numpy()[JUDGED] for frame in (without, held))
        true = (with_it - usual).mean(axis=0) / usual.mean(axis=0)
        answer = ask(question, without, BaselineForecaster(), 50, truth_assumptions())
        level, changed = (m[:, JUDGED].mean(axis=(0, 1)) for m in (answer.baseline, answer.scenario))
        known = without[~ahead]
        quo, policy = (_rollout(bundle, known, question.start, p) for p in (Policy(), question.policy))
        truths.append(true)
        errors["layer"].append((changed - level) / level - true)
        errors["learned"].append(
            (policy[JUDGED] - quo[JUDGED]).mean(axis=0) / quo[JUDGED].mean(axis=0) - true
        )
        more = [_rollout(bundle, known, question.start, Policy(car_free_ratio=dose)) for dose in DOSES]
        rising.append(
            float((np.diff([quo, *more], axis=0)[..., TARGETS.index("traffic_index")] > 0.0).mean())
        )
        begins = (question.intervention.start - question.start) // timedelta(hours=1)
        moved.append(float(np.abs(policy[:begins] - quo[:begins]).max(initial=0.0)))
    size = np.abs(truths).mean(axis=0)
    return {
        **{
            way: dict(zip(TARGETS, np.round(np.abs(found).mean(axis=0) / size, 3).tolist(), strict=True))
            for way, found in errors.items()
        },
        "learned, hours in which more car-free raised traffic": round(float(np.mean(rising)), 3),
        "learned, largest change before the start": max(moved),
    }


def _rollout(bundle: Bundle, known: pd.DataFrame, start: datetime, policy: Policy) -> Float:
    """Return the median `(48, 3)` that the model imagines under a policy's actions."""
    place, spec = truth_place(), bundle.spec
    doses = dose_schedule(policy, start, HORIZON_HOURS, place, QUO, 1.0)
    windows = serving_windows(known, place.name, spec, start, HORIZON_HOURS)
    ahead = slice(windows.context_hours, None)
    action = action_schedule(doses) - [QUO.level(name) for name in ACTIONS]  # type: ignore[arg-type]
    h, z = bundle.filter(windows)
    path = bundle.imagine(
        h, z, windows.known[:, ahead], action[None].astype(np.float32), windows.skip[:, ahead]
    )
    median = np.sort(path.output[0].astype(np.float64), axis=-1)[..., MEDIAN]
    return spec.denormalise(place.name, median)


if __name__ == "__main__":
    main()
