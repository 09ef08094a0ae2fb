from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from urbanwm.clock import floor_hour, parse_time, require_utc
from urbanwm.contracts.scenario import Policy, Scenario, parse_strict
from urbanwm.contracts.signals import SIGNALS, TARGETS, nearest_name
from urbanwm.contracts.table_checks import PARSED, validate
from urbanwm.contracts.tables import empty_rows
from urbanwm.errors import BadInput, InternalContractBroken, RateLimited


def refused(body: object) -> BadInput:
    with pytest.raises(BadInput) as failure:
        parse_strict(Scenario, body)
    return failure.value


def test_the_defaults_are_the_documented_ones():
    scenario = parse_strict(Scenario, {"city": "demo"})
    assert (scenario.horizon_hours, scenario.uncertainty_samples) == (48, 20)
    assert scenario.policy.car_free_ratio is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "city"),
        ({"city": "demo", "horizon_hours": 0}, "horizon_hours"),
        ({"city": "demo", "horizon_hours": 169}, "horizon_hours"),
        ({"city": "demo", "uncertainty_samples": 201}, "uncertainty_samples"),
        ({"city": "demo", "policy": {"car_free_ratio": float("nan")}}, "policy.car_free_ratio"),
        ({"city": "demo", "policy": {"car_free_ratio": float("inf")}}, "policy.car_free_ratio"),
        ({"city": "demo", "policy": {"car_free_ratio": 1.2}}, "policy.car_free_ratio"),
        ({"city": "demo", "policy": {"gdp_activity_index": 0.4}}, "policy.gdp_activity_index"),
        ({"city": "demo", "start_time": "2026-01-01T00:00:00"}, "start_time"),
        ({"city": "demo", "start_time": "soon"}, "start_time"),
        (
            {"city": "demo", "initial_state": {"pm25": -1, "energy_mwh": 1, "traffic_index": 1}},
            "initial_state.pm25",
        ),
        ([1], "body"),
    ],
)
def test_a_bad_value_names_its_field_and_what_is_allowed(body, field):
    error = refused(body).envelope()["error"]
    assert error["field"] == field
    assert error["message"]
    assert "allowed" in error or error["field"] == "city"


@pytest.mark.parametrize(
    ("body", "nearest"),
    [
        ({"city": "demo", "horizon": 3}, "horizon_hours"),
        ({"city": "demo", "policy": {"carfree_ratio": 0.1}}, "car_free_ratio"),
        ({"city": "demo", "policy": {"schedule": [{"from_our": 1}]}}, "from_hour"),
    ],
)
def test_a_misspelt_key_names_the_nearest_valid_one(body, nearest):
    assert f"'{nearest}'" in str(refused(body))


def test_a_null_lever_is_a_lever_left_out_and_the_schema_says_so():
    properties = Policy.model_json_schema()["properties"]
    assert parse_strict(Policy, dict.fromkeys(properties)) == Policy()
    assert {name for name, form in properties.items() if {"type": "null"} in form["anyOf"]} == set(properties)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 168))
def test_every_value_in_range_is_accepted(car_free, renewable, horizon):
    body = {
        "city": "demo",
        "horizon_hours": horizon,
        "policy": {"car_free_ratio": car_free, "renewable_mix": renewable},
    }
    assert parse_strict(Scenario, body).policy.renewable_mix == renewable


def test_the_nearest_name_is_found_or_nothing():
    assert nearest_name("pm2.5", SIGNALS) == "pm25"
    assert nearest_name("zzzzzz", SIGNALS) is None
    assert all(name in SIGNALS for name in TARGETS)


def test_a_naive_time_is_refused():
    with pytest.raises(BadInput, match="time zone"):
        require_utc(datetime(2026, 1, 1), "start")  # noqa: DTZ001


def test_times_are_read_as_utc():
    assert parse_time("2026-01-01", "t") == datetime(2026, 1, 1, tzinfo=UTC)
    assert parse_time("2026-01-01T02:30:00+02:00", "t") == datetime(2026, 1, 1, 0, 30, tzinfo=UTC)
    assert floor_hour(datetime(2026, 1, 1, 5, 59, tzinfo=UTC)).hour == 5
    with pytest.raises(BadInput):
        parse_time("yesterday", "t")


def test_a_broken_table_between_our_own_parts_raises():
    assert validate(empty_rows(), PARSED).empty
    frame = pd.concat([empty_rows(), pd.DataFrame([{"signal": "pm25"}])])
    with pytest.raises(InternalContractBroken):
        validate(frame, PARSED)


def test_an_error_says_whether_a_retry_can_help():
    document = RateLimited("slow down", source="eia").envelope()["error"]
    assert document == {"type": "RateLimited", "message": "slow down", "retryable": True, "source": "eia"}
