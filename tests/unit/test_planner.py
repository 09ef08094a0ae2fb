"""The search for a policy that meets a goal."""

from __future__ import annotations

import json
import time

import pytest

from tests.toy_city import END, toy_city, toy_history
from urbanwm.baseline import BaselineForecaster
from urbanwm.contracts.scenario import parse_strict
from urbanwm.errors import BadInput, DataUnavailable
from urbanwm.planner import PlanRequest, optimise

CITY = toy_city()
HISTORY = toy_history()


def plan(history=HISTORY, **fields):
    request = parse_strict(PlanRequest, {"city": "toy"} | fields)
    return optimise(request, CITY, history, BaselineForecaster(), now=END)


def test_the_answer_has_the_fields_of_the_contract():
    answer = plan()
    assert set(answer["policy"]) == {"car_free_ratio", "renewable_mix"}
    assert 4 <= answer["candidates_tested"] <= 32
    assert answer["score"] < 0.0
    assert answer["target_met"] is None
    assert json.dumps(answer, allow_nan=False)


def test_less_traffic_wanted_means_all_cars_off():
    assert plan(weights={"pm25": 0, "energy": 0, "traffic": 1})["policy"]["car_free_ratio"] == 1.0


def test_without_any_weight_the_status_quo_is_best():
    answer = plan(weights={"pm25": 0, "energy": 0, "traffic": 0})
    assert answer["score"] == 0.0
    assert answer["effect"]["traffic_index"]["mean"] == 0.0


def test_a_target_is_met_with_a_small_policy():
    usual = plan()["baseline"]["pm25"]
    answer = plan(pm25_target=0.985 * usual, eval_budget=64)
    assert answer["target_met"] is True
    assert answer["predicted"]["pm25"] <= 0.985 * usual
    assert 0.0 < answer["policy"]["car_free_ratio"] < 0.6


def test_a_target_already_met_needs_no_policy():
    answer = plan(pm25_target=500.0)
    assert answer["target_met"] is True
    assert answer["effect"]["pm25"]["mean"] == 0.0


def test_a_target_out_of_reach_is_said_to_be():
    answer = plan(pm25_target=0.5)
    assert answer["target_met"] is False
    assert answer["policy"] == {"car_free_ratio": 1.0, "renewable_mix": 1.0}


def test_a_target_for_an_unanswered_signal_is_refused():
    with pytest.raises(DataUnavailable, match="pm25"):
        plan(HISTORY.drop(columns="pm25"), pm25_target=5.0)


def test_an_unanswered_signal_does_not_spoil_the_score():
    answer = plan(HISTORY.drop(columns="traffic_index"))
    assert answer["predicted"]["traffic_index"] is None
    assert answer["score"] < 0.0


@pytest.mark.parametrize("budget", [4, 5, 32, 200])
def test_the_budget_is_kept(budget):
    assert plan(eval_budget=budget)["candidates_tested"] <= budget


def test_the_same_request_has_the_same_bytes():
    assert json.dumps(plan(eval_budget=64)) == json.dumps(plan(eval_budget=64))


def test_two_hundred_evaluations_take_less_than_two_seconds():
    began = time.process_time()
    plan(eval_budget=200)
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"eval_budget": 3},
        {"eval_budget": 201},
        {"weights": {"pm": 1}},
        {"weights": {"pm25": -1}},
        {"horizon_hours": 0},
    ],
)
def test_a_bad_request_is_refused(wrong):
    with pytest.raises(BadInput):
        plan(**wrong)
