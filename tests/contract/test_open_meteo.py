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
from urbanwm.sources.open_meteo import Config

NAME = "open_meteo"


def local_answer(times, zone="Europe/Madrid", offset=3600, **variables):
    variables = variables or {"temperature_2m": [float(i) for i in range(len(times))]}
    return {
        "utc_offset_seconds": offset,
        "timezone": zone,
        "hourly_units": {"time": "iso8601", "temperature_2m": "°C", "precipitation": "mm"},
        "hourly": {"time": times, **variables},
    }


def hours(day, *clock_hours):
    return [f"{day}T{hour:02d}:00" for hour in clock_hours]


def test_local_stamps_become_utc_and_imperial_units_become_ours():
    parsed = parse(NAME, fixture(NAME, "weather_imperial_local.json"))
    assert values(parsed, "temperature_c") == {
        "2026-06-01T04": 0.0,
        "2026-06-01T05": 10.0,
        "2026-06-01T07": 20.0,
    }
    assert values(parsed, "wind_speed_ms")["2026-06-01T04"] == pytest.approx(4.4704)
    assert parsed.dropped["missing"] == 1


def test_precipitation_of_the_preceding_hour_moves_to_the_hour_it_fell_in():
    parsed = parse(NAME, fixture(NAME, "weather_imperial_local.json"))
    assert values(parsed, "precipitation_mm") == pytest.approx(
        {"2026-06-01T03": 0.0, "2026-06-01T04": 2.54, "2026-06-01T05": 5.08, "2026-06-01T06": 0.0}
    )


def test_surface_pressure_wins_over_sea_level_pressure_and_the_rest_is_named():
    parsed = parse(NAME, fixture(NAME, "weather_imperial_local.json"))
    assert values(parsed, "pressure_hpa")["2026-06-01T04"] == 1009.1
    assert parsed.notes["ignored"] == "cloud_cover,pressure_msl"


@pytest.mark.parametrize(
    ("unit", "factor"), [("km/h", 1 / 3.6), ("m/s", 1.0), ("mp/h", 0.44704), ("kn", 0.514444)]
)
def test_wind_is_read_in_the_unit_it_states(unit, factor):
    answer = local_answer(hours("2026-01-01", 0), "GMT", 0, wind_speed_10m=[18.0])
    answer["hourly_units"] = {"wind_speed_10m": unit}
    assert values(parse(NAME, answer), "wind_speed_ms")["2026-01-01T00"] == pytest.approx(
        18 * factor, rel=1e-5
    )


def test_wind_without_a_unit_is_in_the_services_default_and_says_so():
    answer = local_answer(hours("2026-01-01", 0), "GMT", 0, wind_speed_10m=[36.0])
    del answer["hourly_units"]
    parsed = parse(NAME, answer)
    assert values(parsed, "wind_speed_ms") == {"2026-01-01T00": 10.0}
    assert parsed.rows["flags"].tolist() == ["model,unit_assumed"]


def test_an_unknown_unit_is_counted_and_not_guessed():
    answer = local_answer(hours("2026-01-01", 0, 1), "GMT", 0, wind_speed_10m=[3.0, 4.0])
    answer["hourly_units"] = {"wind_speed_10m": "furlong/fortnight"}
    parsed = parse(NAME, answer)
    assert len(parsed.rows) == 0
    assert parsed.dropped == {"unknown_unit": 2}


def test_modelled_air_quality_is_flagged_and_indices_are_never_stored():
    parsed = parse(NAME, fixture(NAME, "air_quality_gmt.json"))
    assert set(parsed.rows["flags"]) == {"model"}
    assert values(parsed, "pm25") == {"2026-05-03T00": 8.1, "2026-05-03T01": 8.4}
    assert values(parsed, "no2")["2026-05-03T00"] == 21.0
    assert parsed.dropped == {"out_of_range": 1, "missing": 1}
    assert "us_aqi" in parsed.notes["ignored"]


def test_one_signal_can_be_asked_for():
    parsed = parse(NAME, fixture(NAME, "air_quality_gmt.json"), signal="no2")
    assert set(parsed.rows["signal"]) == {"no2"}
    assert not parsed.dropped


@pytest.mark.parametrize("name", ["us_aqi", "temperature_2m_previous_day1", "temperature_2m_ecmwf_ifs025"])
def test_an_answer_of_other_variables_only_is_no_data_and_a_retry_does_not_help(name):
    hourly = {"time": ["2024-01-15T09:00"], name: [55]}
    body = {"timezone": "GMT", "hourly_units": {"time": "iso8601"}, "hourly": hourly}
    with pytest.raises(NoData, match=name) as caught:
        parse(NAME, body)
    assert not caught.value.retryable


def test_the_label_says_that_it_is_a_model():
    assert Config(source=NAME, product="air_quality").label == "open_meteo:cams"
    assert Config(source=NAME, product="air_quality", domain="cams_europe").label == "open_meteo:cams_europe"
    assert Config(source=NAME).label == "open_meteo:model"


def test_hours_after_the_fetch_are_forecasts_and_never_observations():
    parsed = parse(NAME, fixture(NAME, "air_quality_gmt.json"), signal="no2", received_at="2026-05-03T01:20")
    assert list(values(parsed, "no2")) == ["2026-05-03T00", "2026-05-03T01"]
    assert parsed.forecast_rows["flags"].tolist() == ["model,forecast"] * 2


def test_a_sum_that_is_not_complete_at_the_fetch_is_a_forecast():
    answer = local_answer(hours("2026-01-01", 1, 2), "GMT", 0, precipitation=[1.0, 2.0])
    parsed = parse(NAME, answer, received_at="2026-01-01T01:30")
    assert values(parsed, "precipitation_mm") == {"2026-01-01T00": 1.0}
    assert parsed.forecast_rows["timestamp"].tolist() == [utc("2026-01-01T01:00")]


def test_one_offset_holds_for_the_whole_answer_across_a_clock_change():
    times = hours("2026-03-29", *range(5))  # 02:00 does not exist in Madrid that day
    parsed = parse(NAME, local_answer(times, offset=7200))
    assert list(values(parsed, "temperature_c")) == [
        "2026-03-28T22",
        "2026-03-28T23",
        "2026-03-29T00",
        "2026-03-29T01",
        "2026-03-29T02",
    ]


def test_a_23_hour_day_is_read_in_its_zone():
    times = hours("2026-03-29", 0, 1, *range(3, 24))
    found = list(values(parse(NAME, local_answer(times, offset=7200)), "temperature_c"))
    assert len(found) == 23
    assert (found[0], found[1], found[2], found[-1]) == (
        "2026-03-28T23",
        "2026-03-29T00",
        "2026-03-29T01",
        "2026-03-29T21",
    )


def test_a_25_hour_day_keeps_both_of_its_repeated_hours():
    times = hours("2026-10-25", 0, 1, 2, 2, *range(3, 24))
    parsed = parse(NAME, local_answer(times, offset=3600), received_at="2026-11-01T00:00")
    found = values(parsed, "temperature_c")
    assert len(found) == 25
    assert (found["2026-10-25T00"], found["2026-10-25T01"], found["2026-10-25T02"]) == (2.0, 3.0, 4.0)
    assert not parsed.dropped


def test_a_gap_that_is_no_clock_change_keeps_the_offset():
    parsed = parse(NAME, local_answer(hours("2026-03-29", 10, 12), offset=3600))
    assert list(values(parsed, "temperature_c")) == ["2026-03-29T09", "2026-03-29T11"]


def test_epoch_stamps_are_utc_whatever_the_zone():
    parsed = parse(NAME, local_answer([1767225600, 1767229200], offset=3600))
    assert list(values(parsed, "temperature_c")) == ["2026-01-01T00", "2026-01-01T01"]


def test_backfilled_hours_were_known_when_they_were_published():
    archive = "https://archive-api.open-meteo.com/v1/archive?latitude=1"
    body = fixture(NAME, "air_quality_gmt.json")
    old = parse(NAME, body, signal="no2", url=archive, received_at="2026-07-01T00:00").rows
    assert old["available_at"].iloc[0] == utc("2026-05-08T01:00")
    live = parse(NAME, body, signal="no2", received_at="2026-05-03T05:00").rows
    assert live["available_at"].isna().all()


@pytest.mark.parametrize(
    ("reason", "error", "retryable"),
    [
        ("Minutely API request limit exceeded. Please try again in one minute.", RateLimited, True),
        ("Daily API request limit exceeded. Please try again tomorrow.", RateLimited, True),
        ("Cannot initialize WeatherVariable from invalid String value x", RequestRefused, False),
        ("Parameter 'start_date' is out of allowed range", RequestRefused, False),
        ("No data is available for this location", NoData, True),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_a_reported_error_is_named_whatever_its_status(reason, error, retryable, status):
    with pytest.raises(error, match=reason[:20]) as caught:
        parse(NAME, {"error": True, "reason": reason}, status=status)
    assert caught.value.retryable is retryable


@pytest.mark.parametrize(
    ("body", "status", "error", "retryable"),
    [
        (HTML, 200, UpstreamUnavailable, True),
        (HTML, 502, UpstreamUnavailable, True),
        (b'{"error": true, "reason": "x"}', 429, RateLimited, True),
        (b'{"error": true, "reason": "x"}', 503, UpstreamUnavailable, True),
        (b'{"hourly": {"time": ["2026-01', 200, MalformedPayload, True),
        (b"", 200, MalformedPayload, True),
        (b"[]", 200, MalformedPayload, False),
        (b'{"daily": {}}', 200, MalformedPayload, False),
        (b'{"hourly": {"time": ["2026-01-01T00:00"], "pm2_5": [1]}}', 200, MalformedPayload, False),
        (
            b'{"utc_offset_seconds": 0, "hourly": {"time": ["2026-01-01T00:00"], "pm2_5": []}}',
            200,
            MalformedPayload,
            False,
        ),
        (b'{"utc_offset_seconds": 0, "hourly": {"time": [], "pm2_5": []}}', 200, NoData, True),
    ],
)
def test_a_broken_answer_is_named(body, status, error, retryable):
    with pytest.raises(error) as caught:
        parse(NAME, body, status=status)
    assert caught.value.retryable is retryable


@responses.activate
def test_weather_comes_from_the_forecast_service_and_before_its_reach_from_the_archive():
    answer = document(NAME, "air_quality_gmt.json")
    responses.get("https://archive-api.open-meteo.com/v1/archive", json=answer)
    responses.get("https://api.open-meteo.com/v1/forecast", json=answer)
    raws = list(ask(NAME, "wind_speed_ms", "2024-06-01", "2026-06-01"))
    assert [raw.url.split("/")[2].split(".")[0] for raw in raws] == ["archive-api", "archive-api", "api"]
    assert raws[-1].request["wind_speed_unit"] == "ms"
    assert raws[-1].request["timezone"] == "GMT"
    assert raws[-1].request["start_date"] == "2026-03-02"
    assert raws[-1].request["end_date"] == "2026-06-01"


@responses.activate
def test_pollutants_come_from_the_air_quality_service():
    responses.get("https://air-quality-api.open-meteo.com/v1/air-quality", json={})
    (raw,) = ask(NAME, "pm25", "2026-05-01", "2026-06-01", domain="cams_europe")
    assert raw.request["hourly"] == "pm2_5"
    assert raw.request["domains"] == "cams_europe"


def test_a_signal_it_does_not_have_is_refused_before_asking():
    with pytest.raises(BadInput, match="energy_mwh"):
        next(ask(NAME, "energy_mwh", "2026-05-01", "2026-05-02"))


def test_recorded_air_quality_in_local_time_starts_at_local_midnight(shared_dir):
    body = (shared_dir / "api" / "openmeteo_airquality_hourly_local_tz.json").read_bytes()
    found = values(parse(NAME, body), "pm25")
    assert len(found) == 48
    assert found["2023-04-24T21"] == 15.9


def test_recorded_weather_in_metres_per_second_is_taken_as_it_is(shared_dir):
    body = (shared_dir / "api" / "openmeteo_forecast_hourly_utc_ms.json").read_bytes()
    parsed = parse(NAME, body)
    assert values(parsed, "wind_speed_ms")["2026-09-29T00"] == 2.9
    assert parsed.notes["ignored"] == "shortwave_radiation"


def test_recorded_bad_parameter_is_refused(shared_dir):
    with pytest.raises(RequestRefused, match="tempeture_2m"):
        parse(NAME, (shared_dir / "api" / "openmeteo_error_400.json").read_bytes(), status=400)
