"""`urbanwm parse`: recorded answers with one thing odd in each give the right rows or the right named error.

Each body is of the shape that the service sends; what is odd about it is said in the test's name. The verdict
is read as the command prints it: rows, counts of what was dropped, or the error and whether a retry can help.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.contract.answers import HTML, document, fixture, utc
from urbanwm.errors import (
    MalformedPayload,
    NoData,
    RequestRefused,
    SourceError,
    StaleData,
    StationTooFar,
    StationUnknown,
    UpstreamUnavailable,
)
from urbanwm.sources import parse_recorded

WAQI_FRESH = "2026-01-15T08:20"  # twenty minutes after the reading of tests/fixtures/waqi/feed_fresh.json
MADRID, BARCELONA = (40.42, -3.70), (41.39, 2.17)
ALL_JSON = ["waqi", "open_meteo", "openaq", "eia", "energy_charts", "carbon_intensity", "tomtom"]


def recorded(
    source: str,
    body: bytes | dict[str, Any] | list[Any],
    *,
    received_at: str = "2026-11-01T00:00",
    status: int = 200,
    near: tuple[float, float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What `urbanwm parse --json` prints of a body."""
    latitude, longitude = near or (None, None)
    answer = parse_recorded(
        source,
        body if isinstance(body, bytes) else json.dumps(body).encode(),
        received_at=utc(received_at),
        status=status,
        latitude=latitude,
        longitude=longitude,
        options=options,
    )
    json.dumps(answer, allow_nan=False)
    return answer


def values(answer: dict[str, Any], signal: str, block: str = "rows") -> dict[str, float]:
    return {
        row["timestamp"][:13]: pytest.approx(row["value"])
        for row in answer.get(block, [])
        if row["signal"] == signal
    }


def flags(answer: dict[str, Any], signal: str) -> list[list[str]]:
    return [row["flags"] for row in answer["rows"] if row["signal"] == signal]


def feed(**changes: Any) -> dict[str, Any]:
    answer = document("waqi", "feed_fresh.json")
    answer["data"].update(changes)
    return answer


# --- any source ---


@pytest.mark.parametrize("source", [*ALL_JSON, "entsoe"])
@pytest.mark.parametrize("status", [200, 502])
def test_a_web_page_is_an_outage_and_a_retry_can_help(source: str, status: int) -> None:
    with pytest.raises(UpstreamUnavailable) as caught:
        recorded(source, HTML, status=status)
    assert caught.value.retryable
    assert caught.value.envelope()["error"]["source"] == source


@pytest.mark.parametrize("source", [*ALL_JSON, "entsoe"])
@pytest.mark.parametrize("body", [b"", b"Service temporarily unavailable", b'{"data": {"unit": "\xc2'])
def test_what_is_no_document_at_all_may_be_tried_again(source: str, body: bytes) -> None:
    with pytest.raises(MalformedPayload) as caught:
        recorded(source, body)
    assert caught.value.retryable


@pytest.mark.parametrize("source", ALL_JSON)
@pytest.mark.parametrize("body", [{}, [], {"message": "hello"}, None])
def test_a_foreign_document_is_named_and_never_becomes_rows(source: str, body: Any) -> None:
    with pytest.raises(SourceError):
        recorded(source, json.dumps(body).encode())


# --- WAQI ---


def test_beside_a_dash_the_index_of_pm25_was_carried_over() -> None:
    answer = recorded("waqi", feed(aqi="-"), received_at=WAQI_FRESH)
    assert flags(answer, "pm25") == [["carried_over"]]


def test_a_stamp_ahead_of_its_receipt_belongs_to_the_hour_of_the_receipt() -> None:
    time = {"s": "2026-01-15 10:00:00", "tz": "+01:00", "iso": "2026-01-15T10:00:00+01:00"}
    answer = recorded("waqi", feed(time=time), received_at="2026-01-15T08:40")
    assert list(values(answer, "pm25")) == ["2026-01-15T08"]
    assert flags(answer, "pm25") == [["stamp_ahead"]]


def test_an_index_beyond_any_table_stops_at_the_largest_concentration_and_says_so() -> None:
    answer = recorded("waqi", feed(aqi=999, iaqi={"pm25": {"v": 999}}), received_at=WAQI_FRESH)
    assert values(answer, "pm25") == {"2026-01-15T08": 1000.0}
    assert flags(answer, "pm25") == [["above_scale"]]


def test_weather_outside_what_can_be_is_dropped_and_the_rest_stays() -> None:
    body = feed(iaqi={"pm25": {"v": 50}, "p": {"v": 29.9}, "h": {"v": 140}, "t": {"v": -3.5}})
    answer = recorded("waqi", body, received_at=WAQI_FRESH)
    assert {row["signal"] for row in answer["rows"]} == {"pm25", "temperature_c"}
    assert answer["dropped"] == {"out_of_range": 2}


def test_a_search_holds_overall_indices_only_and_is_refused() -> None:
    found = {"uid": 5725, "aqi": "30", "time": {"vtime": 1768464000}, "station": {"geo": [40.4, -3.7]}}
    with pytest.raises(RequestRefused) as caught:
        recorded("waqi", {"status": "ok", "data": [found]})
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "body", [{"status": "ok", "data": "Unknown station"}, {"status": "nope", "data": "no such station"}]
)
def test_an_unknown_station_is_known_by_its_words(body: dict[str, Any]) -> None:
    with pytest.raises(StationUnknown) as caught:
        recorded("waqi", body)
    assert not caught.value.retryable


def test_a_reading_of_last_week_is_stale_and_one_far_away_is_too_far() -> None:
    with pytest.raises(StaleData) as stale:
        recorded("waqi", feed(), received_at="2026-01-22T08:20", near=MADRID)
    assert stale.value.retryable
    with pytest.raises(StationTooFar) as far:
        recorded("waqi", feed(), received_at=WAQI_FRESH, near=BARCELONA)
    assert not far.value.retryable


# --- OpenAQ ---


def hour(start: str, value: Any, **changes: Any) -> dict[str, Any]:
    entry = {
        "value": value,
        "parameter": {"id": 2, "name": "pm25", "units": "µg/m³"},
        "period": {
            "datetimeFrom": {"utc": f"{start}:00:00Z"},
            "datetimeTo": {"utc": f"{start[:-2]}{int(start[-2:]) + 1:02d}:00:00Z"},
        },
    }
    return {**entry, **changes}


def hours(*entries: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {"meta": {"page": 1, "limit": 1000, "found": len(entries), **meta}, "results": list(entries)}


def test_a_frozen_sensor_is_flagged_as_in_the_lake() -> None:
    answer = recorded("openaq", hours(*(hour(f"2026-05-01T{h:02d}", 12) for h in range(8))))
    assert flags(answer, "pm25") == [[]] * 5 + [["flatline"]] * 3


def test_a_local_time_with_its_offset_will_do_and_utc_needs_none() -> None:
    local = {"datetimeFrom": {"local": "2026-05-01T06:00:00-06:00"}}
    naive = {"datetimeFrom": {"utc": "2026-05-01T13:00:00", "local": "2026-05-01T07:00:00"}}
    bare = {"datetimeFrom": {"local": "2026-05-01T09:00:00"}}
    answer = recorded("openaq", hours(*(hour("2026-05-01T00", 5, period=p) for p in (local, naive, bare))))
    assert list(values(answer, "pm25")) == ["2026-05-01T12", "2026-05-01T13"]
    assert answer["dropped"] == {"no_time": 1}


@pytest.mark.parametrize("unit", ["µg/m³", "μg/m³", "ug/m3", "µg/m3"])
def test_micrograms_are_known_in_every_spelling(unit: str) -> None:
    body = hours(hour("2026-05-01T00", 5, parameter={"name": "pm25", "units": unit}))
    assert values(recorded("openaq", body), "pm25") == {"2026-05-01T00": 5.0}


def test_entries_of_another_city_are_refused() -> None:
    body = hours(hour("2026-05-01T00", 5, coordinates={"latitude": 41.4, "longitude": 2.2}))
    assert len(recorded("openaq", body, near=BARCELONA)["rows"]) == 1
    with pytest.raises(StationTooFar):
        recorded("openaq", body, near=MADRID)


def test_an_archive_file_of_another_city_is_refused() -> None:
    body = gzip.compress(fixture("openaq", "archive_quarter_hours.csv"))
    place = fixture("openaq", "archive_quarter_hours.csv").decode().splitlines()[1].split(",")
    here = (float(place[4].strip('"')), float(place[5].strip('"')))
    assert recorded("openaq", body, near=here)["rows"]
    with pytest.raises(StationTooFar):
        recorded("openaq", body, near=(here[0] + 2, here[1]))


def test_a_station_that_still_reports_wins_over_a_nearer_one_that_stopped() -> None:
    def station(number: int, latitude: float, last: str) -> dict[str, Any]:
        return {
            "id": number,
            "coordinates": {"latitude": latitude, "longitude": -3.70},
            "datetimeLast": {"utc": last},
            "sensors": [{"id": 10 * number, "parameter": {"name": "pm25"}}],
        }

    old, live = station(1, 40.42, "2019-04-01T00:00:00Z"), station(2, 40.50, "2026-10-31T22:00:00Z")
    assert recorded("openaq", {"results": [old, live]}, near=MADRID)["notes"]["sensor_id"] == "20"
    alone = recorded("openaq", {"results": [old]}, near=MADRID)["notes"]
    assert (alone["sensor_id"], alone["last_report"]) == ("10", "2019-04-01T00:00:00+00:00")


# --- EIA ---


def test_a_page_that_repeats_its_offset_knows_whether_it_is_the_last() -> None:
    answer = document("eia", "mixed_types.json")
    count = len(answer["response"]["data"])
    answer["response"]["total"] = str(5000 + count)
    answer["request"] = {"command": "/v2/electricity/rto/region-data/data/", "params": {"offset": "5000"}}
    assert "next" not in recorded("eia", answer, respondent="PJM")
    answer["response"]["total"] = str(5001 + count)
    assert recorded("eia", answer, respondent="PJM")["next"] == str(5000 + count)


def test_the_first_hour_of_a_later_page_of_fuels_may_be_cut() -> None:
    answer = document("eia", "fuel_mix.json")
    answer["request"] = {"params": {"offset": 5000}}
    answer["response"]["total"] = 5000 + len(answer["response"]["data"])
    first = min(row["period"] for row in answer["response"]["data"])
    kept = recorded("eia", answer)
    assert f"{first[:-2]}{int(first[-2:]) - 1:02d}" not in values(kept, "renewable_share")
    assert kept["dropped"]["page_cut"] == 1


def test_demand_in_another_unit_is_dropped() -> None:
    row = {
        "period": "2026-05-01T05",
        "respondent": "PJM",
        "type": "D",
        "value": "99",
        "value-units": "gigawatthours",
    }
    answer = recorded("eia", {"response": {"total": "1", "data": [row]}})
    assert answer["rows"] == []
    assert answer["dropped"] == {"unknown_unit": 1}


def test_an_hour_without_a_considerable_fuel_has_no_share() -> None:
    def fuel(period: str, name: str, value: str) -> dict[str, str]:
        return {"period": period, "respondent": "PJM", "fueltype": name, "value": value}

    whole = [
        fuel("2026-05-01T05", name, value) for name, value in (("NG", "60"), ("WND", "40"), ("OIL", "0"))
    ]
    answer = recorded("eia", {"response": {"data": [*whole, fuel("2026-05-01T06", "WND", "40")]}})
    assert values(answer, "renewable_share") == {"2026-05-01T04": 0.4}
    assert answer["dropped"] == {"incomplete_mix": 1}


# --- Open-Meteo, TomTom ---


def test_hours_to_come_are_shown_as_a_forecast_and_not_among_the_rows() -> None:
    body = {
        "latitude": 40.4,
        "longitude": -3.7,
        "utc_offset_seconds": 0,
        "hourly_units": {"temperature_2m": "°C"},
        "hourly": {"time": ["2026-05-01T00:00", "2026-05-01T01:00"], "temperature_2m": [11.0, 10.5]},
    }
    answer = recorded("open_meteo", body, received_at="2026-05-01T00:30", near=MADRID)
    assert values(answer, "temperature_c") == {"2026-05-01T00": 11.0}
    assert values(answer, "temperature_c", "forecast") == {"2026-05-01T01": 10.5}
    with pytest.raises(StationTooFar):
        recorded("open_meteo", body, near=BARCELONA)


def test_a_road_of_another_city_is_refused_and_the_configured_point_counts_before_the_citys() -> None:
    body = document("tomtom", "segment.json")
    body["flowSegmentData"]["coordinates"] = {"coordinate": [{"latitude": 52.41, "longitude": 4.84}]}
    with pytest.raises(StationTooFar):
        recorded("tomtom", body, near=MADRID)
    assert recorded("tomtom", body, near=MADRID, latitude=52.4, longitude=4.8)["rows"]


# --- ENTSO-E, carbon intensity, energy-charts ---


def test_a_month_without_data_is_no_data() -> None:
    for source, body in (
        ("openaq", hours()),
        ("eia", {"response": {"total": "0", "data": []}}),
        ("energy_charts", {"unix_seconds": [], "production_types": []}),
        ("carbon_intensity", {"data": []}),
        ("entsoe", fixture("entsoe", "acknowledgement.xml")),
    ):
        with pytest.raises(NoData):
            recorded(source, body)


def test_a_region_that_was_not_asked_for_gives_no_rows() -> None:
    slot = {"from": "2026-05-01T00:00Z", "generationmix": [{"fuel": "wind", "perc": 100}]}
    body = {"data": [{"regionid": 12, "data": [slot]}]}
    assert len(recorded("carbon_intensity", body, region_id=12)["rows"]) == 1
    with pytest.raises(NoData):
        recorded("carbon_intensity", body, region_id=13)
