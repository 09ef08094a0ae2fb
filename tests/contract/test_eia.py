from __future__ import annotations

import copy

import pytest
import responses
from responses import matchers

from tests.contract.answers import HTML, KEY, ask, document, fixture, parse, utc, values
from urbanwm.errors import (
    BadInput,
    KeyMissing,
    KeyRefused,
    MalformedPayload,
    NoData,
    RateLimited,
    RequestRefused,
    UpstreamUnavailable,
)
from urbanwm.sources.eia import Config

NAME = "eia"


def demand(*rows, **response):
    return {"response": {"total": str(len(rows)), "frequency": "hourly", "data": list(rows), **response}}


def row(**changes):
    return {"period": "2026-01-05T01", "respondent": "NYIS", "type": "D", "value": "17000", **changes}


def test_the_period_ends_the_hour_and_only_demand_is_taken():
    parsed = parse(NAME, fixture(NAME, "mixed_types.json"))
    assert values(parsed, "energy_mwh") == {"2026-01-05T00": 17000.0, "2026-01-05T02": 16500.0}
    assert parsed.dropped == {"not_demand": 3, "missing": 1}
    assert parsed.next_page is None


def test_the_citys_share_is_applied_flagged_and_named():
    parsed = parse(NAME, fixture(NAME, "mixed_types.json"), share=0.5, respondent="NYIS")
    assert values(parsed, "energy_mwh")["2026-01-05T00"] == 8500.0
    assert set(parsed.rows["flags"]) == {"zone_share"}
    assert parsed.notes["share"] == "0.5"
    assert Config(source=NAME, respondent="NYIS", share=0.5).label == "eia:NYIS*0.5"


def test_a_sub_area_has_no_type_and_is_demand():
    body = demand({"period": "2026-01-05T01", "parent": "NYIS", "subba": "ZONJ", "value": 5000})
    parsed = parse(NAME, body, respondent="NYIS", subba="ZONJ")
    assert values(parsed, "energy_mwh") == {"2026-01-05T00": 5000.0}


def test_local_hourly_periods_carry_their_offset():
    parsed = parse(NAME, demand(row(period="2026-01-05T01-05:00"), row(period="2026-01-05T02-05")))
    assert list(values(parsed, "energy_mwh")) == ["2026-01-05T05", "2026-01-05T06"]


def test_zero_negative_text_and_daily_rows_are_counted():
    parsed = parse(
        NAME,
        demand(row(value="0"), row(value="-5"), row(value="n/a"), row(period="2026-01-05"), row(value=1e12)),
    )
    assert len(parsed.rows) == 0
    assert parsed.dropped == {"not_positive": 2, "missing": 1, "not_hourly": 1, "out_of_range": 1}


def test_several_areas_are_never_mixed_into_one_series():
    body = demand(row(), row(respondent="PJM", period="2026-01-05T02"))
    with pytest.raises(MalformedPayload, match="several areas"):
        parse(NAME, body)
    parsed = parse(NAME, body, respondent="PJM")
    assert list(values(parsed, "energy_mwh")) == ["2026-01-05T01"]
    assert parsed.dropped == {"other_area": 1}


def test_renewable_share_leaves_out_storage_and_hours_with_a_missing_fuel():
    parsed = parse(NAME, fixture(NAME, "fuel_mix.json"))
    assert values(parsed, "renewable_share") == {"2026-01-05T00": 0.3}
    assert parsed.dropped == {"incomplete_mix": 1}


def test_the_hour_at_the_cut_of_a_page_of_fuels_is_left_to_the_next_page():
    answer = document(NAME, "fuel_mix.json")
    answer["response"]["total"] = "18"
    parsed = parse(NAME, answer)
    assert parsed.next_page == "12"
    assert list(values(parsed, "renewable_share")) == ["2026-01-05T00"]
    assert parsed.dropped == {"page_cut": 1}


def test_a_larger_total_means_a_next_page():
    assert parse(NAME, demand(row(), total="17520")).next_page == "1"
    assert parse(NAME, demand(row(), total=17520), request={"offset": "5000"}).next_page == "5001"
    assert parse(NAME, demand(row(), total=1)).next_page is None


def test_a_warning_about_an_incomplete_return_means_a_next_page():
    warning = {"warning": "incomplete return", "description": "The API can only return 5000 rows."}
    body = demand(row(), warnings=[warning])
    del body["response"]["total"]
    assert parse(NAME, body).next_page == "1"


def test_rows_without_values_say_what_the_request_lacks():
    body = row()
    del body["value"]
    with pytest.raises(RequestRefused, match=r"data\[0\]=value"):
        parse(NAME, demand(body))


@pytest.mark.parametrize(
    ("body", "status", "error", "retryable"),
    [
        (
            {"error": {"code": "API_KEY_INVALID", "message": "An invalid api_key was supplied."}},
            403,
            KeyRefused,
            False,
        ),
        (
            {"error": {"code": "API_KEY_INVALID", "message": "An invalid api_key was supplied."}},
            200,
            KeyRefused,
            False,
        ),
        (
            {"error": {"code": "API_KEY_MISSING", "message": "No api_key was supplied."}},
            403,
            KeyMissing,
            False,
        ),
        ({"error": {"code": "OVER_RATE_LIMIT", "message": "Too many."}}, 429, RateLimited, True),
        ({"error": "Invalid frequency 'daily' provided.", "code": 400}, 400, RequestRefused, False),
        ({"error": "Internal error", "code": 500}, 500, UpstreamUnavailable, True),
        (HTML, 503, UpstreamUnavailable, True),
        (HTML, 200, UpstreamUnavailable, True),
        (b'{"response": {"total": "6", "data": [{"period": "2025', 200, MalformedPayload, True),
        ({"response": {"total": "0", "data": []}}, 200, NoData, True),
        ({"response": {}}, 200, MalformedPayload, False),
    ],
)
def test_a_failed_answer_is_named(body, status, error, retryable):
    with pytest.raises(error) as caught:
        parse(NAME, body, status=status)
    assert caught.value.retryable is retryable


def test_backfilled_demand_was_known_two_hours_after_its_hour():
    rows = parse(NAME, demand(row())).rows
    assert rows["available_at"].tolist() == [utc("2026-01-05T03:00")]


@responses.activate
def test_fetch_pages_by_offset_and_asks_for_one_type_by_the_ending_hour():
    url = "https://api.eia.gov/v2/electricity/rto/region-data/data/"
    for offset in ("0", "1"):
        responses.get(
            url,
            json=demand(row(period=f"2026-01-05T0{int(offset) + 1}"), total="2"),
            match=[matchers.query_param_matcher({"offset": offset, "api_key": KEY}, strict_match=False)],
        )
    raws = list(ask(NAME, "energy_mwh", "2026-01-05T00:00", "2026-01-05T02:00", respondent="NYIS"))
    assert [raw.request["offset"] for raw in raws] == ["0", "1"]
    assert raws[0].request["start"] == "2026-01-05T01"
    assert raws[0].request["end"] == "2026-01-05T02"
    assert raws[0].request["facets[type][]"] == "D"
    assert raws[0].request["data[0]"] == "value"
    assert all(KEY not in repr(raw) for raw in raws)


@responses.activate
def test_fetch_asks_for_a_mix_in_pieces_that_fit_a_page():
    url = "https://api.eia.gov/v2/electricity/rto/fuel-type-data/data/"
    responses.get(url, json=copy.deepcopy(document(NAME, "fuel_mix.json")))
    raws = list(ask(NAME, "renewable_share", "2026-01-01", "2026-01-25", respondent="NYIS"))
    assert len(raws) == 3


def test_fetch_needs_a_key_an_area_and_a_known_signal():
    with pytest.raises(KeyMissing, match="EIA_API_KEY"):
        next(ask(NAME, "energy_mwh", "2026-01-01", "2026-01-02", with_keys=False, respondent="NYIS"))
    with pytest.raises(BadInput, match="respondent"):
        next(ask(NAME, "energy_mwh", "2026-01-01", "2026-01-02"))
    with pytest.raises(BadInput, match="pm25"):
        next(ask(NAME, "pm25", "2026-01-01", "2026-01-02", respondent="NYIS"))


def test_recorded_demand_as_text_newest_first_ends_its_hours(shared_dir):
    body = (shared_dir / "api" / "eia_region_demand_string_values.json").read_bytes()
    found = values(parse(NAME, body), "energy_mwh")
    assert list(found) == [
        "2025-07-03T23",
        "2025-07-04T00",
        "2025-07-04T01",
        "2025-07-04T02",
        "2025-07-04T03",
        "2025-07-04T04",
    ]
    assert found["2025-07-03T23"] == 132129.0
