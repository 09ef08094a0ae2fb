"""WAQI: every trap of the feed leads to the right rows, a counted drop or a named error."""

from __future__ import annotations

import copy
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import responses
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from urbanwm import errors
from urbanwm.contracts.table_checks import PARSED, validate
from urbanwm.sources import parse_recorded, waqi
from urbanwm.sources.aqi import BANDS, aqi_to_pm25, pm25_to_aqi
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, Window
from urbanwm.sources.geo import great_circle_km

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "waqi"
READ_AT = datetime(2026, 1, 15, 8, 0, tzinfo=UTC)
FETCHED_AT = datetime(2026, 1, 15, 8, 20, tzinfo=UTC)
MADRID = (40.42, -3.70)
TABLES = ("pre_2024", "2024")


def body(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def feed(**changes: Any) -> dict[str, Any]:
    """The fresh feed with members of `data` replaced; `...` removes one."""
    document = copy.deepcopy(json.loads(body("feed_fresh.json")))
    for name, value in changes.items():
        if value is ...:
            del document["data"][name]
        else:
            document["data"][name] = value
    return document


def parse(
    payload: bytes | dict[str, Any],
    *,
    signal: str | None = None,
    status: int = 200,
    near: tuple[float, float] | None = MADRID,
    fetched_at: datetime = FETCHED_AT,
    **options: Any,
) -> Parsed:
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    raw = RawPayload("waqi", "recorded", status, {}, content, fetched_at)
    latitude, longitude = near or (None, None)
    config = waqi.Config(source="waqi", **options)
    return waqi.parse(raw, ParseContext(config, signal, "Europe/Madrid", latitude, longitude))


def values(parsed: Parsed) -> dict[str, float]:
    validate(parsed.rows, PARSED)
    return dict(zip(parsed.rows["signal"], parsed.rows["value"], strict=True))


# --- the index ---


@pytest.mark.parametrize(
    ("index", "old", "new"),
    [
        (50, 12.0, 9.0),
        (75, 23.5, 22.0),
        (100, 35.4, 35.4),
        (125, 45.3, 45.3),
        (150, 55.4, 55.4),
        (175, 102.0, 89.7),
        (200, 150.4, 125.4),
        (300, 250.4, 225.4),
        (0, 0.0, 0.0),
        (500, 500.4, 325.4),
    ],
)
def test_the_worked_values_of_both_tables_come_out(index: float, old: float, new: float) -> None:
    # The values are rounded to 0.1; an index of 125 is 45.247 exactly.
    assert aqi_to_pm25(index, "pre_2024") == pytest.approx(old, abs=0.06)
    assert aqi_to_pm25(index, "2024") == pytest.approx(new, abs=0.06)


@pytest.mark.parametrize(
    ("index", "concentration"),
    [(42, 10), (63, 18), (78, 25), (97, 34), (132, 48), (166, 85), (177, 106), (221, 171), (72, 22)],
)
def test_real_readings_invert_to_the_whole_numbers_that_were_published(
    index: int, concentration: int
) -> None:
    assert round(aqi_to_pm25(index)) == concentration
    assert pm25_to_aqi(concentration) == index


@settings(deadline=None, max_examples=30)
@given(index=st.integers(0, 500), table=st.sampled_from(TABLES))
def test_an_index_survives_the_round_trip_through_concentration(index: int, table: Any) -> None:
    # EPA truncates to 0.1 µg/m³, less than an index point: it can move the index by one at most.
    assert abs(pm25_to_aqi(aqi_to_pm25(index, table), table) - index) <= 1


@settings(deadline=None, max_examples=30)
@given(
    first=st.floats(0, 900, allow_nan=False),
    second=st.floats(0, 900, allow_nan=False),
    table=st.sampled_from(TABLES),
)
def test_a_higher_index_never_means_cleaner_air(first: float, second: float, table: Any) -> None:
    low, high = sorted((first, second))
    assert aqi_to_pm25(low, table) <= aqi_to_pm25(high, table)


@pytest.mark.parametrize("table", TABLES)
def test_between_two_bands_the_value_is_interpolated(table: Any) -> None:
    for below, above in zip(BANDS[table], BANDS[table][1:], strict=False):
        assert aqi_to_pm25((below[1] + above[0]) / 2, table) == pytest.approx((below[3] + above[2]) / 2)


@pytest.mark.parametrize("index", [-1.0, math.nan, math.inf])
def test_an_impossible_index_has_no_concentration(index: float) -> None:
    assert math.isnan(aqi_to_pm25(index))
    assert math.isnan(pm25_to_aqi(index))


# --- a reading ---


def test_a_feed_gives_pm25_in_micrograms_and_the_weather_as_it_is() -> None:
    parsed = parse(body("feed_fresh.json"))
    assert values(parsed) == {
        "temperature_c": 12.5,
        "humidity_pct": 41.5,
        "pressure_hpa": 1013.2,
        "wind_speed_ms": 1.5,
        "pm25": pytest.approx(84.6, abs=0.1),
    }
    assert set(parsed.rows["timestamp"]) == {pd.Timestamp(READ_AT)}
    assert set(parsed.rows["available_at"]) == {pd.Timestamp(FETCHED_AT)}
    assert set(parsed.rows["flags"]) == {""}
    assert not parsed.dropped


def test_the_credits_and_the_index_table_travel_with_the_values() -> None:
    notes = parse(body("feed_fresh.json"), aqi_table="2024").notes
    assert notes["attribution"] == "Example City Environment Agency; World Air Quality Index Project"
    assert notes["aqi_table"] == "2024"
    assert notes["station_uid"] == "901"
    assert float(notes["distance_km"]) < 10


def test_the_table_of_2024_is_used_when_it_is_asked_for() -> None:
    assert values(parse(body("feed_fresh.json"), aqi_table="2024"))["pm25"] == pytest.approx(76.9, abs=0.1)


@pytest.mark.parametrize("signal", ["pm25", "temperature_c", "wind_speed_ms"])
def test_only_the_wanted_signal_is_given(signal: str) -> None:
    assert list(values(parse(body("feed_fresh.json"), signal=signal))) == [signal]


def test_a_missing_pm25_is_counted_and_the_weather_is_kept() -> None:
    parsed = parse(body("feed_without_pm25.json"))
    assert values(parsed) == {"temperature_c": 3.0, "pressure_hpa": 1020.0}
    assert parsed.dropped == {"missing_pm25": 1}


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("-", "missing"),
        (None, "missing"),
        (math.nan, "missing"),
        ("n/a", "missing"),
        (True, "missing"),
        (-3, "negative"),
    ],
)
def test_an_unusable_index_is_counted_and_never_becomes_a_number(index: Any, reason: str) -> None:
    parsed = parse(feed(iaqi={"pm25": {"v": index}}))
    assert parsed.rows.empty
    assert parsed.dropped == {reason: 1}


def test_an_index_in_text_is_read() -> None:
    assert values(parse(feed(iaqi={"pm25": {"v": "50"}})))["pm25"] == pytest.approx(12.0)


def test_the_overall_index_is_never_taken_for_pm25() -> None:
    assert "pm25" not in values(parse(feed(aqi=80, iaqi={"o3": {"v": 80}, "t": {"v": 1}})))


def test_an_entry_above_the_overall_index_is_flagged_as_carried_over() -> None:
    rows = parse(feed(aqi=8, iaqi={"pm25": {"v": 51}})).rows
    assert rows["flags"].tolist() == ["carried_over"]


def test_an_index_above_the_scale_goes_on_along_the_last_slope_and_is_flagged() -> None:
    rows = parse(feed(aqi=600, iaqi={"pm25": {"v": 600}})).rows
    assert rows["flags"].tolist() == ["above_scale"]
    assert rows["value"].iloc[0] > 600


def test_a_citizen_sensor_is_flagged() -> None:
    parsed = parse(body("feed_citizen_sensor.json"))
    assert parsed.rows["flags"].tolist() == ["citizen_sensor"]


# --- time and place ---


def test_without_iso_the_wall_time_and_its_offset_are_used() -> None:
    assert parse(body("feed_citizen_sensor.json")).rows["timestamp"].tolist() == [pd.Timestamp(READ_AT)]


@pytest.mark.parametrize(
    "time",
    [
        {"v": 1768464000},
        {"s": "2026-01-15 09:00:00", "v": 1768464000},
        {"s": "", "tz": "+01:00", "iso": "", "v": 0},
        {"s": "2026-01-15 09:00:00", "tz": "Madrid"},
        None,
        "2026-01-15T09:00:00+01:00",
    ],
)
def test_without_a_certain_time_there_is_no_row_and_v_is_never_believed(time: Any) -> None:
    parsed = parse(feed(time=time))
    assert parsed.rows.empty
    assert parsed.dropped["no_time"] >= 1


def test_a_half_hour_zone_lands_in_the_right_utc_hour() -> None:
    time = {"iso": "2026-01-15T13:30:00+05:30"}
    assert set(parse(feed(time=time)).rows["timestamp"]) == {pd.Timestamp(READ_AT)}


def test_a_reading_older_than_the_limit_is_refused_and_says_how_old() -> None:
    with pytest.raises(errors.StaleData, match=r"3\.5 h old") as caught:
        parse(body("feed_fresh.json"), fetched_at=READ_AT + timedelta(hours=3.5))
    assert caught.value.retryable


def test_a_reading_at_the_limit_is_kept() -> None:
    assert "pm25" in values(parse(body("feed_fresh.json"), fetched_at=READ_AT + timedelta(hours=3)))


def test_a_reading_from_the_future_is_dropped_beyond_an_hour() -> None:
    assert "pm25" in values(parse(body("feed_fresh.json"), fetched_at=READ_AT - timedelta(minutes=59)))
    parsed = parse(body("feed_fresh.json"), fetched_at=READ_AT - timedelta(minutes=61))
    assert parsed.rows.empty
    assert parsed.dropped["future"] == 5


def test_a_station_far_away_is_refused() -> None:
    with pytest.raises(errors.StationTooFar, match="km away") as caught:
        parse(body("feed_fresh.json"), near=(41.65, -0.88))
    assert not caught.value.retryable


def test_the_distance_limit_can_be_widened() -> None:
    assert "pm25" in values(parse(body("feed_fresh.json"), near=(41.65, -0.88), max_distance_km=400))


@pytest.mark.parametrize(
    "city", [{}, {"geo": None}, {"geo": [1]}, {"geo": ["x", "y"]}, {"geo": [400, 10]}, None]
)
def test_a_station_without_a_position_cannot_be_judged_by_distance(city: Any) -> None:
    parsed = parse(feed(city=city))
    assert "pm25" in values(parsed)
    assert "distance_km" not in parsed.notes


def test_distances_agree_with_a_known_pair() -> None:
    assert great_circle_km((40.4168, -3.7038), (48.8566, 2.3522)) == pytest.approx(1053, abs=3)


# --- errors ---


@pytest.mark.parametrize(
    ("text", "kind", "retryable"),
    [
        ("Invalid key", errors.KeyRefused, False),
        ("Unknown station", errors.StationUnknown, False),
        ("no such station", errors.StationUnknown, False),
        ("Unknown ID", errors.StationUnknown, False),
        ("Over quota", errors.RateLimited, True),
        ("can not connect", errors.UpstreamUnavailable, True),
        ("Invalid parameter", errors.RequestRefused, False),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_an_error_inside_http_200_is_named_and_its_text_kept(
    text: str, kind: type[errors.SourceError], retryable: bool, nested: bool
) -> None:
    document = (
        {"status": "ok", "data": {"status": "error", "msg": text}}
        if nested
        else {"status": "error", "data": text}
    )
    with pytest.raises(kind, match=text) as caught:
        parse(document)
    assert caught.value.retryable is retryable


@pytest.mark.parametrize(
    ("name", "kind"),
    [("error_over_quota.json", errors.RateLimited), ("error_nested_unknown_id.json", errors.StationUnknown)],
)
def test_recorded_error_bodies_are_named(name: str, kind: type[errors.SourceError]) -> None:
    with pytest.raises(kind):
        parse(body(name))


def test_a_maintenance_page_is_an_outage_whatever_its_status() -> None:
    with pytest.raises(errors.UpstreamUnavailable, match="503"):
        parse(body("maintenance.html"), status=503)
    with pytest.raises(errors.UpstreamUnavailable, match="web page") as caught:
        parse(body("maintenance.html"), status=200)
    assert caught.value.retryable


@pytest.mark.parametrize(
    "content",
    [b"", b"   ", body("feed_fresh.json")[:300], b"\xff\xfe\x00", b"[" * 100_000],
    ids=["empty", "blank", "cut off", "not text", "bottomless"],
)
def test_what_is_not_json_is_malformed_and_may_be_tried_again(content: bytes) -> None:
    with pytest.raises(errors.MalformedPayload) as caught:
        parse(content)
    assert caught.value.retryable


@pytest.mark.parametrize(
    "document",
    [[], "ok", {"status": "ok"}, {"status": "ok", "data": []}, {"status": "ok", "data": {"iaqi": []}}],
)
def test_json_of_another_shape_is_malformed(document: Any) -> None:
    with pytest.raises(errors.MalformedPayload):
        parse(json.dumps(document).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=30)
@given(
    member=st.sampled_from(
        ["aqi", "idx", "city", "iaqi", "time", "attributions", "status", "debug", "forecast"]
    ),
    value=JSON,
)
def test_no_shape_of_any_member_escapes_as_an_unnamed_error(member: str, value: Any) -> None:
    document = feed()
    document["data"][member] = value
    try:
        parsed = parse(document)
    except errors.SourceError:
        return
    validate(parsed.rows, PARSED)


# --- asking ---


def fetch_context(token: str | None, station: Any = "@5725", signal: str = "pm25") -> FetchContext:
    city = SimpleNamespace(location=SimpleNamespace(latitude=40.42, longitude=-3.7), timezone="Europe/Madrid")
    settings = SimpleNamespace(waqi_token=SecretStr(token) if token is not None else None)
    window = Window(READ_AT, READ_AT + timedelta(hours=1))
    config = waqi.Config(source="waqi", station=station)
    return FetchContext(city, config, signal, window, settings, lambda: FETCHED_AT)  # type: ignore[arg-type]


@pytest.mark.parametrize("token", [None, ""])
def test_without_a_token_nothing_is_asked(token: str | None) -> None:
    with pytest.raises(errors.KeyMissing, match="WAQI_TOKEN"):
        next(waqi.fetch(fetch_context(token)))


def test_a_signal_that_waqi_does_not_have_is_refused_before_asking() -> None:
    with pytest.raises(errors.RequestRefused, match="energy_mwh"):
        next(waqi.fetch(fetch_context("token", signal="energy_mwh")))


@pytest.mark.parametrize(
    ("station", "path", "label"),
    [
        ("@5725", "@5725", "waqi:@5725"),
        (5725, "@5725", "waqi:@5725"),
        ("5725", "@5725", "waqi:@5725"),
        ("madrid", "madrid", "waqi:madrid"),
        (None, "geo:40.42;-3.7", "waqi:geo"),
    ],
)
@responses.activate
def test_the_token_is_sent_and_never_kept(station: Any, path: str, label: str) -> None:
    responses.get(f"https://api.waqi.info/feed/{path}/", body=body("feed_fresh.json"))
    context = fetch_context("hidden-token-123", station)
    payloads = list(waqi.fetch(context))
    assert len(payloads) == len(responses.calls) == 1
    assert "token=hidden-token-123" in str(responses.calls[0].request.url)
    assert "hidden-token-123" not in repr(payloads)
    assert payloads[0].url == f"https://api.waqi.info/feed/{path}/"
    assert context.config.label == label


# --- real recordings ---


@pytest.mark.parametrize(
    ("name", "received_at", "pm25"),
    [
        ("waqi_feed_normal.json", "2023-08-07T16:10:00+00:00", 1.68),
        ("waqi_feed_bangkok_2025_with_forecast.json", "2025-02-11T15:42:31+00:00", 52.6),
    ],
)
def test_a_real_feed_gives_its_hour(shared_dir: Path, name: str, received_at: str, pm25: float) -> None:
    content = (shared_dir / "api" / name).read_bytes()
    received = datetime.fromisoformat(received_at)
    document = parse_recorded("waqi", content, received_at=received)
    rows = {row["signal"]: row for row in document["rows"]}
    assert rows["pm25"]["value"] == pytest.approx(pm25, abs=0.05)
    assert rows["pm25"]["timestamp"] == received.replace(minute=0, second=0).isoformat()


def test_a_real_feed_without_pm25_gives_its_weather(shared_dir: Path) -> None:
    content = (shared_dir / "api" / "waqi_feed_aqi_dash_no_pm25.json").read_bytes()
    document = parse_recorded("waqi", content, received_at=datetime(2023, 8, 7, 17, tzinfo=UTC))
    assert document["dropped"] == {"missing_pm25": 1}
    assert {row["signal"] for row in document["rows"]} == set(waqi.WEATHER_KEYS.values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("waqi_error_invalid_key.json", errors.KeyRefused),
        ("waqi_error_unknown_station.json", errors.StationUnknown),
    ],
)
def test_a_real_error_is_named(shared_dir: Path, name: str, kind: type[errors.SourceError]) -> None:
    content = (shared_dir / "api" / name).read_bytes()
    with pytest.raises(kind):
        parse_recorded("waqi", content, received_at=READ_AT)
