"""The behaviour suite passes honest forecasters and catches each kind of dishonest one."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from tests.toy_city import END, ToyBundle, toy_city, toy_history
from urbanwm.baseline import BaselineForecaster
from urbanwm.errors import BundleInvalid
from urbanwm.evaluation.behaviour import CHECKS, check_behaviour
from urbanwm.simulator import WorldModelForecaster

CITY = toy_city()
HISTORY = toy_history()


class Altered:
    """The baseline, with what it says changed."""

    served_by = "baseline"

    def __init__(self, change):
        self.change = change
        self.calls = 0

    def forecast(self, history, city, start, horizon_hours, samples, seed, initial_state=None):
        self.calls += 1
        honest = BaselineForecaster().forecast(
            history, city, start, horizon_hours, samples, seed, initial_state
        )
        return replace(honest, **self.change(honest, self.calls))


def failures(change) -> set[str]:
    return {failure.split(":")[0] for failure in check_behaviour(Altered(change), CITY, HISTORY, END)}


def test_the_suite_has_the_ten_checks():
    assert len(CHECKS) == 10


def test_the_baseline_passes():
    assert check_behaviour(BaselineForecaster(), CITY, HISTORY, END) == []


def test_a_world_model_passes_in_a_few_seconds():
    began = time.process_time()
    assert check_behaviour(WorldModelForecaster(ToyBundle.of(HISTORY, CITY)), CITY, HISTORY, END) == []
    assert time.process_time() - began < 5.0


def test_a_city_without_traffic_passes():
    assert check_behaviour(BaselineForecaster(), CITY, HISTORY.drop(columns="traffic_index"), END) == []


def test_a_fallback_in_its_place_is_caught():
    bundle = ToyBundle.of(HISTORY, CITY)
    bundle.broken = True
    found = check_behaviour(WorldModelForecaster(bundle), CITY, HISTORY, END)
    assert any(failure.startswith("answers_itself") for failure in found)


def test_another_unit_is_caught():
    assert "unit_preserving" in failures(lambda honest, _: {"members": honest.members * [1, 1000, 1]})


def test_a_value_out_of_range_is_caught():
    assert "zero_dose" in failures(lambda honest, _: {"members": honest.members * [1, 1, 3]})


def test_a_different_answer_to_the_same_question_is_caught():
    assert "order_of_scenarios" in failures(
        lambda honest, calls: {"members": honest.members * (1 + 1e-6 * calls)}
    )


def test_members_that_shrink_with_their_number_are_caught():
    def shrink(honest, _):
        middle = honest.members.mean(axis=0)
        return {"members": middle + (honest.members - middle) * (20 / len(honest.members))}

    assert "more_samples" in failures(shrink)


def test_a_forecast_that_runs_away_is_caught():
    def grow(honest, _):
        growth = np.exp(np.arange(honest.members.shape[1]) / 40)
        return {"members": honest.members * growth[:, None] * [1, 1, 0] + honest.members * [0, 0, 1]}

    assert "stable_for_a_week" in failures(grow)


def test_a_silent_feed_that_is_not_named_is_caught():
    assert "missing_signal_widens" in failures(lambda honest, _: {"reasons": []})


def test_a_silent_feed_that_makes_surer_is_caught():
    def surer(honest, _):
        if not any("48 h old" in reason for reason in honest.reasons):
            return {}
        middle = honest.members.mean(axis=0)
        return {"members": middle + 0.5 * (honest.members - middle)}

    assert "missing_signal_widens" in failures(surer)


def test_an_error_of_ours_is_not_swallowed():
    def fail(honest, _):
        raise BundleInvalid("broken")

    with pytest.raises(BundleInvalid):
        check_behaviour(Altered(fail), CITY, HISTORY, END - timedelta(days=1))
