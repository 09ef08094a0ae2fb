"""A measure in the record is estimated beside its assumption, with an honest interval, and never used."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from urbanwm.assumptions import load_assumptions
from urbanwm.baseline import BaselineForecaster
from urbanwm.cities import City, Measure
from urbanwm.contracts.scenario import Policy, Scenario
from urbanwm.evaluation.truth_city import TRUTH, truth_place
from urbanwm.measures import measure_estimates
from urbanwm.simulator import simulate, to_response
from urbanwm.synthetic import Intervention, SyntheticUrbanDataset

START = datetime(2020, 1, 1, tzinfo=UTC)
BEGAN = START + timedelta(days=400)
END = BEGAN + timedelta(days=100)
STEADY = replace(TRUTH, regime_change=0.0)


def place(**changes: object) -> City:
    fields = {"name": "ring", "lever": "car_free_ratio", "dose": 0.5, "start": BEGAN} | changes
    return truth_place().model_copy(update={"measures": [Measure.model_validate(fields)]})


def record(parameters=STEADY, **levers: float) -> pd.DataFrame:
    measure = Intervention(BEGAN, **levers) if levers else None
    city = SyntheticUrbanDataset(3, parameters)
    return city.hours(START, END, "Europe/Berlin", country="DE", intervention=measure)


def estimate(frame: pd.DataFrame, signal: str, **changes: object) -> dict:
    found = measure_estimates(place(**changes), frame, load_assumptions())
    return next(item for item in found if item["signal"] == signal)


def test_the_estimate_of_a_real_cut_is_near_its_true_size():
    found = estimate(record(car_free_ratio=0.5), "traffic_index")
    assert found["estimated"]["mean"] == pytest.approx(0.5 * STEADY.traffic_per_car_free, abs=0.03)
    assert found["estimated"]["q05"] < found["estimated"]["mean"] < found["estimated"]["q95"] < 0.0
    assert (found["days_before"], found["days_in_force"]) == pytest.approx((400, 100), abs=2)
    assert found["assumed"]["central"] == pytest.approx(-0.325)


def test_wind_is_adjusted_for_so_that_renewables_get_no_credit_for_clean_air():
    idle = replace(STEADY, pm25_per_renewable_share=0.0, energy_per_renewable_share=0.0)
    found = estimate(record(idle, renewable_mix=0.8), "pm25", lever="renewable_mix", dose=0.8)
    assert "wind_speed_ms" in found["adjusted_for"]
    assert found["estimated"]["q05"] < 0.0 < found["estimated"]["q95"]


def test_without_wind_in_the_record_the_wind_is_named_as_a_confounder():
    found = estimate(record(car_free_ratio=0.5).drop(columns="wind_speed_ms"), "pm25")
    assert any("wind" in reason for reason in found["confounders"])
    assert "wind" in found["text"]


def test_levels_that_change_for_good_widen_the_interval():
    def width(parameters) -> float:
        found = estimate(record(parameters, car_free_ratio=0.5), "traffic_index")["estimated"]
        return found["q95"] - found["q05"]

    assert width(TRUTH) > 2 * width(STEADY)


def test_a_record_that_is_too_short_says_so():
    late = estimate(record(), "traffic_index", start=END - timedelta(days=10))
    assert late["estimated"] is None
    assert "too short" in late["text"]


def test_gaps_in_the_record_are_no_days():
    frame = record(car_free_ratio=0.5)
    frame.loc[frame.index[2000:2500], "traffic_index"] = np.nan
    gappy = estimate(frame.drop(frame.index[5000:5100]), "traffic_index")
    assert 370 < gappy["days_before"] < 380
    assert gappy["estimated"]["mean"] == pytest.approx(0.5 * STEADY.traffic_per_car_free, abs=0.03)


def test_an_answer_shows_the_estimate_beside_the_assumption_and_is_not_changed_by_it():
    frame = record(car_free_ratio=0.5)
    question = Scenario(city="truth_city", horizon_hours=6, policy=Policy(car_free_ratio=0.5))
    marked, unmarked = (
        simulate(question, city, frame, BaselineForecaster(), now=END) for city in (place(), truth_place())
    )
    assert marked.scenario.tobytes() == unmarked.scenario.tobytes()
    shown = to_response(marked)["meta"]["assumptions"]["estimates_from_record"]
    assert json.dumps(shown, allow_nan=False)
    assert {item["signal"] for item in shown} == {"pm25", "traffic_index"}
    assert "estimates_from_record" not in to_response(unmarked)["meta"]["assumptions"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"lever": "congestion_charge"},
        {"dose": 1.5},
        {"start": "2020-01-01"},
        {"end": START - timedelta(days=1)},
        {"dosage": 0.3},
    ],
)
def test_a_measure_that_makes_no_sense_is_refused(wrong):
    fields = {"name": "ring", "lever": "car_free_ratio", "dose": 0.5, "start": START}
    with pytest.raises(ValueError, match="validation error"):
        Measure.model_validate(fields | wrong)
