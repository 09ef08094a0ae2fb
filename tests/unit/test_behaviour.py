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


def caught(name, change) -> bool:
    return bool(check_behaviour(Altered(change), CITY, HISTORY, END, checks=[name]))


def test_the_suite_has_the_eleven_checks():
    assert len(CHECKS) == 11


def test_the_baseline_passes():
    assert check_behaviour(BaselineForecaster(), CITY, HISTORY, END) == []


def test_a_world_model_passes_within_the_time_of_a_swap():
    began = time.process_time()
    assert check_behaviour(WorldModelForecaster(ToyBundle.of(HISTORY, CITY)), CITY, HISTORY, END) == []
    assert time.process_time() - began < 3.0


def test_a_forecast_that_leans_on_a_signal_that_is_gone_is_caught():
    class Leaning(Altered):
        def forecast(self, history, *arguments, **options):
            honest = super().forecast(history, *arguments, **options)
            lost = "traffic_index" not in history
            return replace(honest, members=honest.members * ([3.0, 1, 1] if lost else [1, 1, 1]))

    found = check_behaviour(Leaning(lambda *_: {}), CITY, HISTORY, END, checks=["absent_signal"])
    assert found == ["absent_signal: pm25: the level shifts when there is no traffic_index"]


def test_a_city_without_traffic_passes():
    assert check_behaviour(BaselineForecaster(), CITY, HISTORY.drop(columns="traffic_index"), END) == []


def test_a_fallback_in_its_place_is_caught():
    bundle = ToyBundle.of(HISTORY, CITY)
    bundle.broken = True
    assert check_behaviour(WorldModelForecaster(bundle), CITY, HISTORY, END, checks=["answers_itself"])


def test_another_unit_is_caught():
    assert caught("unit_preserving", lambda honest, _: {"members": honest.members * [1, 1000, 1]})


def test_a_value_out_of_range_is_caught():
    assert caught("zero_dose", lambda honest, _: {"members": honest.members * [1, 1, 3]})


def test_a_different_answer_to_the_same_question_is_caught():
    assert caught(
        "order_of_scenarios", lambda honest, calls: {"members": honest.members * (1 + 1e-6 * calls)}
    )


def test_members_that_shrink_with_their_number_are_caught():
    def shrink(honest, _):
        middle = honest.members.mean(axis=0)
        return {"members": middle + (honest.members - middle) * (20 / len(honest.members))}

    assert caught("more_samples", shrink)


def test_a_forecast_that_runs_away_is_caught():
    def grow(honest, _):
        growth = np.exp(np.arange(honest.members.shape[1]) / 40)
        return {"members": honest.members * growth[:, None] * [1, 1, 0] + honest.members * [0, 0, 1]}

    assert caught("stable_for_a_week", grow)


def test_a_silent_feed_that_is_not_named_is_caught():
    assert caught("missing_signal_widens", lambda honest, _: {"reasons": []})


def test_a_silent_feed_that_makes_surer_is_caught():
    def surer(honest, _):
        if not any("48 h old" in reason for reason in honest.reasons):
            return {}
        middle = honest.members.mean(axis=0)
        return {"members": middle + 0.5 * (honest.members - middle)}

    assert caught("missing_signal_widens", surer)


def shifted_when_silent(widths, starts):
    """Return the failures of a baseline whose silent signals move by so many widths at so many starts."""

    class Forgetful(Altered):
        def forecast(self, history, city, start, *arguments, **options):
            honest = super().forecast(history, city, start, *arguments, **options)
            if start <= END - timedelta(days=6 * starts) or not any("48 h old" in r for r in honest.reasons):
                return honest
            low, high = np.quantile(honest.members, (0.05, 0.95), axis=0, method="hazen")
            return replace(honest, members=honest.members + widths * (high - low).mean(axis=0))

    forgetful = Forgetful(lambda *_: {})
    return check_behaviour(forgetful, CITY, HISTORY, END, checks=["missing_signal_widens"])


def test_a_silent_feed_that_moves_the_level_is_caught():
    found = shifted_when_silent(widths=0.8, starts=5)
    assert any(
        sentence.startswith("missing_signal_widens: energy_mwh: the level shifts") for sentence in found
    )


def test_one_day_that_nobody_could_have_known_is_no_failure():
    assert shifted_when_silent(widths=1.2, starts=1) == []


def test_an_error_of_ours_is_not_swallowed():
    def fail(honest, _):
        raise BundleInvalid("broken")

    with pytest.raises(BundleInvalid):
        check_behaviour(Altered(fail), CITY, HISTORY, END - timedelta(days=1))
