from __future__ import annotations

import copy
import gzip

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
    StationTooFar,
    StationUnknown,
    UpstreamUnavailable,
)
from urbanwm.sources.openaq import Config

NAME = "openaq"
CITY = (40.4168, -3.7038)


def hour_result(**changes):
    result = copy.deepcopy(document(NAME, "hours.json")["results"][0])
    result.update(changes)
    return result


def page(*results, **meta):
    return {"meta": {"page": 1, "limit": 100, "found": len(results), **meta}, "results": list(results)}


def test_an_hour_is_named_by_its_start_and_bad_values_are_counted():
    parsed = parse(NAME, fixture(NAME, "hours.json"))
    assert values(parsed, "pm25") == {"2026-03-10T07": 14.2, "2026-03-10T08": 0.0, "2026-03-10T12": 9.9}
    assert parsed.dropped == {"sentinel": 1, "low_coverage": 1, "out_of_range": 1}


def test_noise_below_zero_becomes_zero_and_flags_stay_with_their_hour():
    parsed = parse(NAME, fixture(NAME, "hours.json"))
    assert parsed.rows["flags"].tolist() == ["", "negative_to_zero", "upstream_flag"]


def test_a_full_page_has_a_next_one_even_when_found_is_a_text():
    assert parse(NAME, fixture(NAME, "hours.json")).next_page == "2"


def test_a_page_shorter_than_its_limit_is_the_last():
    answer = document(NAME, "hours.json")
    answer["meta"]["limit"] = 1000
    assert parse(NAME, answer).next_page is None
    assert parse(NAME, page(hour_result(), limit=1, found=1)).next_page is None


@pytest.mark.parametrize("value", [-999, -9999, 985, 100000, 1e5])
def test_sentinels_are_no_values(value):
    parsed = parse(NAME, page(hour_result(value=value)))
    assert len(parsed.rows) == 0
    assert parsed.dropped == {"sentinel": 1}


def test_quarter_hours_are_averaged_and_too_few_of_them_are_dropped():
    results = []
    for start, end, value in [
        ("07:00", "07:15", 4),
        ("07:15", "07:30", 8),
        ("07:30", "07:45", 12),
        ("08:00", "08:15", 99),
    ]:
        results.append(
            hour_result(
                value=value,
                period={
                    "datetimeFrom": {"utc": f"2026-03-10T{start}:00Z"},
                    "datetimeTo": {"utc": f"2026-03-10T{end}:00Z"},
                },
            )
        )
    parsed = parse(NAME, page(*results))
    assert values(parsed, "pm25") == {"2026-03-10T07": 8.0}
    assert parsed.dropped == {"incomplete_hour": 1}


def test_daily_means_are_not_hours():
    period = {
        "datetimeFrom": {"utc": "2026-03-10T00:00:00Z"},
        "datetimeTo": {"utc": "2026-03-11T00:00:00Z"},
    }
    assert parse(NAME, page(hour_result(period=period))).dropped == {"not_hourly": 1}


def test_parts_per_million_of_no2_are_converted_and_flagged():
    result = hour_result(value=0.02, parameter={"id": 7, "name": "no2", "units": "ppm"})
    parsed = parse(NAME, page(result))
    assert values(parsed, "no2")["2026-03-10T07"] == pytest.approx(37.632)
    assert parsed.rows["flags"].tolist() == ["converted"]


def test_other_parameters_units_and_missing_values_are_counted():
    parsed = parse(
        NAME,
        page(
            hour_result(parameter={"id": 3, "name": "o3", "units": "µg/m³"}),
            hour_result(parameter={"id": 2, "name": "pm25", "units": "particles/cm³"}),
            hour_result(value=None),
        ),
    )
    assert parsed.dropped == {"other_parameter": 1, "unknown_unit": 1, "missing": 1}


def test_hours_that_have_not_begun_are_dropped():
    assert parse(NAME, page(hour_result()), received_at="2026-03-10T06:30").dropped == {"future": 1}


def test_a_backfilled_hour_was_known_two_hours_after_it_ended():
    rows = parse(NAME, page(hour_result())).rows
    assert rows["available_at"].tolist() == [utc("2026-03-10T10:00")]


def test_the_sensor_of_the_nearest_station_is_picked():
    parsed = parse(NAME, fixture(NAME, "locations.json"), near=CITY)
    assert len(parsed.rows) == 0
    assert parsed.notes["sensor_id"] == "721"
    assert parsed.notes["location_id"] == "72"
    assert float(parsed.notes["distance_km"]) < 1


def test_a_station_too_far_away_is_refused():
    with pytest.raises(StationTooFar) as caught:
        parse(NAME, fixture(NAME, "locations.json"), near=(48.85, 2.35))
    assert not caught.value.retryable


def test_stations_without_a_sensor_for_the_signal_are_no_data():
    with pytest.raises(NoData, match="no2"):
        parse(NAME, fixture(NAME, "locations.json"), signal="no2")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_archive_stamps_the_end_in_local_time(pack):
    parsed = parse(NAME, pack(fixture(NAME, "archive_quarter_hours.csv")))
    assert values(parsed, "pm25") == {"2026-03-09T23": 13.0}
    assert parsed.dropped == {"other_parameter": 1, "incomplete_hour": 1}


def test_an_hourly_archive_row_belongs_to_the_hour_before_its_stamp():
    body = (
        b"location_id,sensors_id,location,datetime,lat,lon,parameter,units,value\n"
        b"1,11,x,2026-03-29T03:00:00+02:00,40,-3,pm25,\xc2\xb5g/m\xc2\xb3,7\n"
        b"1,12,x,2026-03-29T03:00:00+02:00,40,-3,pm25,\xc2\xb5g/m\xc2\xb3,70\n"
    )
    parsed = parse(NAME, body)
    assert values(parsed, "pm25") == {"2026-03-29T00": 7.0}
    assert parsed.dropped == {"other_sensor": 1}


def test_a_damaged_archive_file_is_named_and_can_be_asked_for_again():
    with pytest.raises(MalformedPayload) as caught:
        parse(NAME, gzip.compress(fixture(NAME, "archive_quarter_hours.csv"))[:-20])
    assert caught.value.retryable
    with pytest.raises(MalformedPayload, match="column"):
        parse(NAME, b"location_id,datetime\n1,2026-03-29T03:00:00+02:00\n")


@pytest.mark.parametrize(
    ("body", "status", "error", "retryable"),
    [
        (b'{"detail": "Invalid API key"}', 401, KeyRefused, False),
        (b'{"detail": "Sensor not found"}', 404, StationUnknown, False),
        (b'{"detail": "Request timed out"}', 408, UpstreamUnavailable, True),
        (
            b'{"message": "Gone. Version 1 and Version 2 API endpoints are retired"}',
            410,
            RequestRefused,
            False,
        ),
        (b'{"detail": [{"loc": ["query", "limit"], "msg": "too large"}]}', 422, RequestRefused, False),
        (b'{"detail": "Too many requests"}', 429, RateLimited, True),
        (HTML, 500, UpstreamUnavailable, True),
        (HTML, 200, UpstreamUnavailable, True),
        (b'{"meta": {"found": 0}, "results": []}', 200, NoData, True),
        (b'{"meta": {"found": 1}, "results": [{"value"', 200, MalformedPayload, True),
        (b'{"meta": {"found": 1}}', 200, MalformedPayload, False),
        (
            b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>',
            404,
            NoData,
            True,
        ),
    ],
)
def test_a_failed_answer_is_named(body, status, error, retryable):
    with pytest.raises(error) as caught:
        parse(NAME, body, status=status)
    assert caught.value.retryable is retryable


@responses.activate
def test_fetch_looks_up_the_sensor_and_pages_through_its_hours_without_keeping_the_key():
    responses.get("https://api.openaq.org/v3/locations", json=document(NAME, "locations.json"))
    first = {"meta": {"page": 1, "limit": 1, "found": ">1000"}, "results": [hour_result()]}
    last = {"meta": {"page": 2, "limit": 1, "found": ">1000"}, "results": []}
    for number, answer in (("1", first), ("2", last)):
        responses.get(
            "https://api.openaq.org/v3/sensors/721/hours",
            json=answer,
            match=[
                matchers.query_param_matcher({"page": number}, strict_match=False),
                matchers.header_matcher({"X-API-Key": KEY}),
            ],
        )
    raws = list(ask(NAME, "pm25", "2026-03-01", "2026-03-02"))
    assert len(raws) == 3
    assert raws[0].request["radius"] == "25000"
    assert raws[1].request["datetime_from"] == "2026-03-01T00:00:00Z"
    assert all(KEY not in repr(raw) for raw in raws)


@responses.activate
def test_fetch_reads_the_archive_day_by_local_day_and_skips_missing_files():
    base = "https://openaq-data-archive.s3.amazonaws.com/records/csv.gz/locationid=72/year=2026/month=03"
    body = gzip.compress(fixture(NAME, "archive_quarter_hours.csv"))
    responses.get(f"{base}/location-72-20260310.csv.gz", body=body)
    responses.get(f"{base}/location-72-20260311.csv.gz", body=b"<Error/>", status=404)
    raws = list(
        ask(
            NAME,
            "pm25",
            "2026-03-10T00:00",
            "2026-03-11T00:00",
            with_keys=False,
            archive=True,
            location_id=72,
        )
    )
    assert len(raws) == 1


def test_fetch_needs_a_key_a_known_signal_and_for_the_archive_a_station():
    with pytest.raises(KeyMissing, match="OPENAQ_API_KEY"):
        next(ask(NAME, "pm25", "2026-03-01", "2026-03-02", with_keys=False))
    with pytest.raises(BadInput, match="traffic_index"):
        next(ask(NAME, "traffic_index", "2026-03-01", "2026-03-02"))
    with pytest.raises(BadInput, match="station"):
        next(ask(NAME, "pm25", "2026-03-01", "2026-03-02", archive=True))


def test_the_label_names_the_station_or_sensor():
    assert Config(source=NAME, sensor_id=5).label == "openaq:sensor/5"
    assert Config(source=NAME, location_id=6, archive=True).label == "openaq:archive/6"
    assert Config(source=NAME).label == "openaq:nearest"


def test_recorded_hours_use_the_start_of_the_period(shared_dir):
    body = (shared_dir / "api" / "openaq_v3_hours_pm25.json").read_bytes()
    assert values(parse(NAME, body), "pm25") == {"2023-10-16T12": 6.0, "2023-10-16T13": 7.5}


def test_recorded_location_gives_its_pm25_sensor(shared_dir):
    body = (shared_dir / "api" / "openaq_v3_locations.json").read_bytes()
    assert parse(NAME, body).notes["sensor_id"] == "3920"
