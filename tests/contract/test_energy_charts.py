from __future__ import annotations

import pytest
import responses

from tests.contract.answers import HTML, ask, document, fixture, parse, utc, values
from urbanwm.errors import (
    BadInput,
    MalformedPayload,
    NoData,
    RateLimited,
    RequestRefused,
    UpstreamUnavailable,
)
from urbanwm.sources.energy_charts import Config

NAME = "energy_charts"


def test_quarter_hours_of_power_become_the_energy_of_the_hour():
    parsed = parse(NAME, fixture(NAME, "public_power.json"))
    assert values(parsed, "energy_mwh") == {"2026-01-01T00": 24600.0}
    assert parsed.dropped == {"missing": 3, "incomplete_hour": 1}


def test_the_share_of_generation_is_taken_and_clipped_and_not_that_of_load():
    parsed = parse(NAME, fixture(NAME, "public_power.json"))
    assert values(parsed, "renewable_share") == {"2026-01-01T00": 0.615, "2026-01-01T01": 1.0}


def test_snake_case_names_are_the_same_series():
    answer = document(NAME, "public_power.json")
    for item in answer["production_types"]:
        item["name"] = item["name"].lower().replace(" ", "_")
    parsed = parse(NAME, answer)
    assert len(parsed.rows) == 3
    assert values(parsed, "energy_mwh") == {"2026-01-01T00": 24600.0}


def test_hourly_stamps_are_taken_as_they_are():
    answer = {
        "unix_seconds": [1767225600, 1767229200],
        "production_types": [{"name": "Load", "data": [100.0, 200.0]}],
    }
    assert values(parse(NAME, answer), "energy_mwh") == {"2026-01-01T00": 100.0, "2026-01-01T01": 200.0}


def test_the_citys_share_applies_to_load_only():
    parsed = parse(NAME, fixture(NAME, "public_power.json"), share=0.1, country="es")
    assert values(parsed, "energy_mwh") == {"2026-01-01T00": 2460.0}
    assert values(parsed, "renewable_share")["2026-01-01T00"] == 0.615
    flags = dict(zip(parsed.rows["signal"], parsed.rows["flags"], strict=False))
    assert flags == {"energy_mwh": "zone_share", "renewable_share": ""}
    assert Config(source=NAME, country="es", share=0.1).label == "energy_charts:es*0.1"


def test_a_load_of_zero_means_missing():
    answer = {"unix_seconds": [1767225600], "production_types": [{"name": "Load", "data": [0]}]}
    parsed = parse(NAME, answer)
    assert len(parsed.rows) == 0
    assert parsed.dropped == {"not_positive": 1}


def test_hours_that_have_not_begun_are_dropped():
    parsed = parse(NAME, fixture(NAME, "public_power.json"), received_at="2026-01-01T00:59")
    assert parsed.dropped["future"] == 1


def test_a_backfilled_hour_was_known_three_hours_after_it_ended():
    rows = parse(NAME, fixture(NAME, "public_power.json"), signal="energy_mwh").rows
    assert rows["available_at"].tolist() == [utc("2026-01-01T04:00")]


@pytest.mark.parametrize(
    ("body", "status", "error", "retryable"),
    [
        ({"detail": "no content available"}, 404, NoData, True),
        ({"detail": "Not Found"}, 404, RequestRefused, False),
        ({"detail": [{"loc": ["query", "country"], "msg": "invalid"}]}, 422, RequestRefused, False),
        (b"Too Many Requests", 429, RateLimited, True),
        (HTML, 502, UpstreamUnavailable, True),
        (HTML, 200, UpstreamUnavailable, True),
        (b'{"unix_seconds": [1767225600, 17672', 200, MalformedPayload, True),
        ({"unix_seconds": [], "production_types": []}, 200, NoData, True),
        (
            {"unix_seconds": [1767225600], "production_types": [{"name": "Solar", "data": [1]}]},
            200,
            NoData,
            True,
        ),
        (
            {"unix_seconds": [1767225600], "production_types": [{"name": "Load", "data": []}]},
            200,
            MalformedPayload,
            False,
        ),
        ({"unix_seconds": ["x"], "production_types": []}, 200, MalformedPayload, False),
        ({"price": []}, 200, MalformedPayload, False),
        ([], 200, MalformedPayload, False),
    ],
)
def test_a_failed_answer_is_named(body, status, error, retryable):
    with pytest.raises(error) as caught:
        parse(NAME, body, status=status)
    assert caught.value.retryable is retryable


@responses.activate
def test_fetch_asks_month_by_month():
    responses.get("https://api.energy-charts.info/public_power", json={})
    raws = list(ask(NAME, "energy_mwh", "2026-01-01", "2026-02-11", country="ES"))
    assert [raw.request["start"] for raw in raws] == ["2026-01-01T00:00Z", "2026-02-01T00:00Z"]
    assert raws[0].request["country"] == "es"


def test_fetch_needs_a_country():
    with pytest.raises(BadInput, match="country"):
        next(ask(NAME, "energy_mwh", "2026-01-01", "2026-01-02"))
