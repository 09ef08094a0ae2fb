"""Several policies in one call, the answer as a table, and the present of a recorded city."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from serving.requests import SCENARIOS_MAX
from serving.tables import COLUMNS, wants_csv
from tests.serving_fakes import NOW, World, cached, city, history, serving

CSV = {"accept": "text/csv"}
STATE = {"pm25": 80.0, "energy_mwh": 900.0, "traffic_index": 1.0}
RECORDED_END = NOW - timedelta(days=2500)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("home"), champion=cached("4"), frame=history()) as made:
        yield made


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    cities = (city("recorded", replay=True), city("generated", simulated=True))
    frame = history(end=RECORDED_END)
    with serving(tmp_path_factory.mktemp("home"), champion=cached("4"), frame=frame, cities=cities) as made:
        yield made


def table(world: World, **body: object) -> list[dict[str, str]]:
    response = world.client.post(
        "/api/simulate", json={"city": "lahore", "horizon_hours": 6, **body}, headers=CSV
    )
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(response.text)))


def test_each_scenario_is_answered_as_if_it_had_been_asked_alone(world: World) -> None:
    policies = [{"car_free_ratio": 0.3}, {"renewable_mix": 0.9, "stricter_car_bans": True}]
    alone = [world.simulate(policy=policy) for policy in policies]
    together = world.simulate(scenarios=[{"policy": policy} for policy in policies])
    for one, result in zip(alone, together["scenarios"], strict=True):
        assert result["simulated"] == one["simulated"]
        assert result["effect"] == one["effect"]
        assert result["policy_effective"] == one["meta"]["policy_effective"]
        assert "baseline" not in result
    assert [result["name"] for result in together["scenarios"]] == ["scenario 1", "scenario 2"]


def test_many_scenarios_ask_the_model_once(world: World) -> None:
    before = world.model.asked
    world.simulate(seed=77, scenarios=[{"policy": {"car_free_ratio": n / 10}} for n in range(8)])
    assert world.model.asked == before + 1


def test_a_request_with_one_policy_has_the_answer_it_always_had(world: World) -> None:
    assert "scenarios" not in world.simulate()


def test_a_scenario_may_have_assumptions_of_its_own(world: World) -> None:
    policy = {"car_free_ratio": 0.5}
    answer = world.simulate(policy=policy, scenarios=[{"policy": policy, "assumptions": "reference"}])
    (result,) = answer["scenarios"]
    assert result["assumptions"]["name"] == "reference"
    assert answer["meta"]["assumptions"]["name"] == "literature"
    assert result["effect"]["pm25"]["mean"] < answer["effect"]["pm25"]["mean"] < 0
    assert result["simulated"] == world.simulate(policy=policy, assumptions="reference")["simulated"]


def test_a_baseline_of_another_form_is_given_with_its_scenario(tmp_path: Path) -> None:
    with serving(tmp_path) as world:
        answer = world.simulate(initial_state=STATE, scenarios=[{"assumptions": "reference"}])
        alone = world.simulate(initial_state=STATE, assumptions="reference")
    (result,) = answer["scenarios"]
    assert result["baseline"] == alone["baseline"] != answer["baseline"]
    assert result["simulated"] == alone["simulated"]


@pytest.mark.parametrize(
    ("scenarios", "field"),
    [
        ([{"policy": {"car_free_ratio": 2}}], "scenarios.0.policy.car_free_ratio"),
        ([{}, {"polcy": {}}], "scenarios.1.polcy"),
        ([{}, {"assumptions": "guesswork"}], "scenarios.1.assumptions"),
        ([{"name": "a"}, {"name": "a"}], "scenarios"),
        ([{}] * (SCENARIOS_MAX + 1), "scenarios"),
        (
            [{"policy": {"schedule": [{"start": "0800-01-01T00:00:00Z"}]}}],
            "scenarios.0.policy.schedule.0.start",
        ),
    ],
)
def test_a_wrong_scenario_is_named(world: World, scenarios: list, field: str) -> None:
    response = world.client.post("/api/simulate", json={"city": "lahore", "scenarios": scenarios})
    assert (response.status_code, response.json()["error"]["field"]) == (422, field)


def test_a_table_has_one_row_per_hour_with_the_numbers_of_the_json_answer(world: World) -> None:
    policy = {"car_free_ratio": 0.4}
    rows, answer = table(world, policy=policy), world.simulate(policy=policy)
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == 6
    for row, hour, usual in zip(rows, answer["simulated"], answer["baseline"], strict=True):
        assert row["timestamp"] == hour["timestamp"]
        assert all(float(row[name]) == value for name, value in hour.items() if name != "timestamp")
        assert float(row["baseline_energy_q95"]) == usual["energy_q95"]
    means = [float(row["effect_pm25"]) for row in rows]
    assert means == answer["effect"]["pm25"]["hourly"]["mean"]


def test_every_row_says_who_answered_and_in_which_units(world: World) -> None:
    row = table(world)[3]
    assert (row["served_by"], row["model_version"], row["rung"], row["degraded"]) == (
        "world_model",
        "4",
        "0",
        "False",
    )
    assert row["assumptions"] == "literature"
    assert "pm25 µg/m³; energy_mwh MWh" in row["units"]


def test_a_table_of_several_scenarios_names_them_safely_for_a_spreadsheet(world: World) -> None:
    rows = table(world, scenarios=[{"name": "=cmd|' /C calc'!A0"}, {"name": "half"}])
    assert [row["scenario"] for row in rows[::6]] == ["policy", "'=cmd|' /C calc'!A0", "half"]


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        (None, False),
        ("*/*", False),
        ("application/json, text/csv", False),
        ("text/csv, application/json;q=0.9", True),
        ("TEXT/CSV", True),
        ("text/csv;q=0", False),
        ("text/csv;q=x", False),
        (",;,=", False),
    ],
)
def test_csv_is_sent_only_where_it_is_preferred(accept: str | None, preferred: bool) -> None:
    assert wants_csv(accept) is preferred


def test_a_refusal_is_json_even_if_a_table_was_wanted(world: World) -> None:
    response = world.client.post("/api/simulate", json={"city": "nowhere"}, headers=CSV)
    assert (response.status_code, response.json()["error"]["type"]) == (404, "UnknownCity")


@pytest.mark.parametrize("name", ["recorded", "generated"])
def test_the_time_of_a_clients_clock_means_now_in_a_recorded_city(recorded: World, name: str) -> None:
    answer = recorded.simulate(city=name, start_time=NOW.isoformat())
    meta = answer["meta"]
    assert answer["start"] == RECORDED_END.isoformat()
    assert (meta["served_by"], meta["rung"], meta["degraded"]) == ("world_model", 0, False)
    (reason,) = meta["reasons"]
    assert NOW.isoformat() in reason
    assert RECORDED_END.isoformat() in reason
    assert answer["simulated"] == recorded.simulate(city=name)["simulated"]


def test_a_measure_moves_along_with_the_present(recorded: World) -> None:
    def measured(begin: datetime) -> dict:
        period = {"start": (begin + timedelta(hours=2)).isoformat(), "car_free_ratio": 1.0}
        return {"start_time": begin.isoformat(), "policy": {"schedule": [period]}}

    moved = recorded.simulate(city="recorded", **measured(NOW))
    asked = recorded.simulate(city="recorded", **measured(RECORDED_END))
    assert moved["effect"] == asked["effect"]
    assert moved["effect"]["traffic_index"]["mean"] < 0
    assert moved["policy"] == asked["policy"]


def test_a_plan_and_latents_start_at_the_same_present(recorded: World) -> None:
    body = {"city": "recorded", "start_time": NOW.isoformat(), "horizon_hours": 6}
    plan = recorded.client.post("/api/optimize", json={**body, "eval_budget": 4}).json()
    assert plan["start"] == RECORDED_END.isoformat()
    assert "lies beyond its data" in plan["meta"]["reasons"][0]
    latents = recorded.client.post("/api/latent", json=body).json()
    assert "lies beyond its data" in latents["meta"]["reasons"][0]


def test_a_start_within_reach_of_the_data_is_kept(recorded: World) -> None:
    start = RECORDED_END + timedelta(days=2)
    answer = recorded.simulate(city="recorded", start_time=start.isoformat())
    assert (answer["start"], answer["meta"]["reasons"]) == (start.isoformat(), [])


def test_a_start_beyond_any_clock_is_refused_in_a_recorded_city_too(recorded: World) -> None:
    start = (NOW + timedelta(days=800)).isoformat()
    response = recorded.client.post("/api/simulate", json={"city": "recorded", "start_time": start})
    assert (response.status_code, response.json()["error"]["field"]) == (422, "start_time")


def test_a_live_city_is_never_moved(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history(end=NOW - timedelta(days=20))) as world:
        answer = world.simulate(start_time=NOW.isoformat())
    assert answer["start"] == NOW.isoformat()
    assert (answer["meta"]["rung"], answer["meta"]["served_by"]) == (4, "baseline")
