"""The direct fit spread over workers: the bits of a fit in one place, made once, and whole after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.small_world import small_city, small_frame
from urbanwm.contracts.signals import TARGETS
from urbanwm.features import build_series
from urbanwm.model.config import load_experiment
from urbanwm.pipeline import direct_jobs
from urbanwm.pipeline import plan as plan_module
from urbanwm.pipeline.data import CityRecord, NightData
from urbanwm.pipeline.direct_jobs import fit_together, read_fit
from urbanwm.pipeline.plan import Candidate, Plan, training_spec, untrained
from urbanwm.settings import Settings, load_settings
from urbanwm.spread import serial
from urbanwm.training.direct_error import DirectFit
from urbanwm.training.direct_fit import fit_direct

OVERRIDES = {"training.context_hours": 12, "training.horizon_hours": 2}
DAYS = 24


class Night:
    """Made-up cities in place of the lake's, and a count of the pieces of work."""

    def __init__(self, settings: Settings, cities: int) -> None:
        self.settings, self.pieces = settings, []
        names = [f"city{number}" for number in range(cities)]
        frames = {name: small_frame(DAYS + number) for number, name in enumerate(names)}
        records = {
            name: CityRecord(
                small_city().model_copy(update={"name": name}), frame, (frame.index[-1] + pd.Timedelta("1h"),)
            )
            for name, frame in frames.items()
        }
        self.data = NightData("lake", 1, records, {})

    def plan(self, name: str, **overrides: object) -> Plan:
        experiment = load_experiment("urban", OVERRIDES | overrides)
        return Plan(Candidate(name, experiment), self.data, name)

    def spread(self, name, work, jobs):
        self.pieces += [name] * len(jobs)
        return serial(name, work, jobs)

    def fit(self, *plans: Plan) -> dict[str, Path]:
        folder = self.settings.home / "night"
        return fit_together(self.settings, self.data, plans, folder, self.spread)

    def read_window(self, window, settings, cities):
        return {name: self.data.records[name] for name in cities}


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    def made(cities: int) -> Night:
        found = Night(load_settings(home=tmp_path), cities)
        monkeypatch.setattr(direct_jobs, "read_window", found.read_window)
        return found

    return made


def content(fit: DirectFit) -> list[bytes]:
    parts = [fit.direct, *fit.by_fold.values()]
    arrays = [array for part in parts for array in (*part.weights, *part.variance, part.log_error)]
    return [np.ascontiguousarray(array).tobytes() for array in (*arrays, *fit.errors.values())]


@pytest.mark.parametrize("cities", [1, 2])
def test_cities_fitted_apart_give_the_bits_of_a_fit_in_one_place(night, cities):
    tonight = night(cities)
    plans = tonight.plan("urban"), tonight.plan("urban@1", **{"training.seed": 1})
    folders = tonight.fit(*plans)
    spec = training_spec(plans[0])
    series = {
        name: build_series(record.training, name, spec) for name, record in tonight.data.records.items()
    }
    assert content(read_fit(folders["urban"], series, spec)) == content(fit_direct(series, spec))


def test_candidates_that_read_the_same_share_one_fit(night):
    tonight = night(3)
    other = tonight.plan("short", **{"training.horizon_hours": 1})
    folders = tonight.fit(tonight.plan("urban"), tonight.plan("urban@1", **{"training.seed": 1}), other)
    assert folders["urban"] == folders["urban@1"] != folders["short"]
    together = [*2 * ["add up"], *3 * ["share"]]
    assert tonight.pieces == 2 * [*2 * together, *3 * ["fit"]]


def test_one_city_with_one_candidate_is_left_to_its_training(night):
    tonight = night(1)
    assert tonight.fit(tonight.plan("urban")) == {}
    assert tonight.fit(tonight.plan("urban"), tonight.plan("old", **{"model.kind": "reference"})) == {}
    assert tonight.pieces == []


def test_what_is_trained_already_is_not_trained_again(night, monkeypatch):
    tonight = night(2)
    old, new = tonight.plan("urban"), tonight.plan("urban@1", **{"training.seed": 1})
    monkeypatch.setattr(plan_module, "already_trained", lambda registry, key: key == old.key or None)
    assert untrained(tonight.settings, SimpleNamespace(), [old, new]) == [new]
    assert tonight.fit(*untrained(tonight.settings, SimpleNamespace(), [old])) == {}


FIRST, SHARED = ([f"{stem}-{target}.safetensors" for target in TARGETS] for stem in ("first", "shared"))
FIRST_SUMS, SUMS = ([f"{stem}-sums-{i}.safetensors" for i in range(2)] for stem in ("first", "shared"))
CITIES = [f"city-city{number}.safetensors" for number in range(3)]
STEPS = [FIRST_SUMS, FIRST, SUMS, SHARED, CITIES]
"""The files of each step, in order; the fit of the cities begins when only what is shared is left."""


@pytest.mark.parametrize(
    ("step", "needed"), [(0, []), (1, FIRST_SUMS), (2, FIRST), (3, [*FIRST, *SUMS]), (4, SHARED)]
)
def test_a_fit_that_was_killed_goes_on_with_what_is_there(night, step, needed):
    tonight = night(3)
    plan, folder = tonight.plan("urban"), tonight.settings.home / "night"

    def killed(name, work, jobs):
        first = serial(name, work, jobs[:1])
        if jobs[0].path.name == STEPS[step][0]:
            raise KeyboardInterrupt
        return first + serial(name, work, jobs[1:])

    with pytest.raises(KeyboardInterrupt):
        fit_together(tonight.settings, tonight.data, [plan], folder, killed)
    (parts,) = folder.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert sorted(before) == sorted([*needed, STEPS[step][0], "spec.json"])
    made = []

    def watched(name, work, jobs):
        made.extend(job.path.name for job in jobs if not job.path.is_file())
        return serial(name, work, jobs)

    fit_together(tonight.settings, tonight.data, [plan], folder, watched)
    assert made == [*STEPS[step][1:], *(file for later in STEPS[step + 1 :] for file in later)]
    after = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert sorted(after) == sorted([*SHARED, *CITIES, "spec.json"])
    kept = before.keys() & {*SHARED, *CITIES}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
