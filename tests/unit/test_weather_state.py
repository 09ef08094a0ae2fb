"""The weather at the origin: departures from the last weeks, changes from yesterday, degrees of heating."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.feature_support import make_city, make_frame
from urbanwm.features import CitySeries, build_series, build_spec
from urbanwm.features.names import HEATING_BELOW_C, STATE, state_names

CITY = make_city()
HOURS = 24 * 60
ORIGIN = 24 * 45


def series_of(frame: pd.DataFrame) -> CitySeries:
    spec = build_spec("urban", {CITY.name: frame}, {CITY.name: CITY}, None, 24, 24)
    return build_series(frame, CITY.name, spec)


def state(series: CitySeries, name: str) -> np.ndarray:
    return series.state[:, state_names(series.spec.observed_names).index(name)]


def test_an_anomaly_is_the_last_hours_beside_the_last_thirty_days() -> None:
    frame = make_frame(HOURS)
    frame["pressure_hpa"] = np.where(np.arange(HOURS) < ORIGIN - 6, 940.0, 950.0)
    series = series_of(frame)
    step = 10.0 / series.spec.scaler(CITY.name).std["pressure_hpa"]
    assert state(series, "pressure_hpa_anomaly_last_6h")[ORIGIN - 6] == pytest.approx(0.0, abs=1e-4)
    # Six hours of it are a 120th of the month that they are compared with.
    assert state(series, "pressure_hpa_anomaly_last_6h")[ORIGIN] == pytest.approx(step, rel=0.01)
    assert state(series, "pressure_hpa_change_last_6h")[ORIGIN] == pytest.approx(step, rel=1e-4)
    assert state(series, "pressure_hpa_change_last_6h")[ORIGIN + 18] == pytest.approx(step, rel=1e-4)
    assert state(series, "pressure_hpa_change_last_6h")[ORIGIN + 48] == pytest.approx(0.0, abs=1e-4)


def test_a_barometer_at_another_height_says_the_same() -> None:
    frame = make_frame(HOURS)
    low, high = series_of(frame), series_of(frame.assign(pressure_hpa=frame["pressure_hpa"] + 75.0))
    names = [name for name in state_names(low.spec.observed_names) if name.startswith("pressure")]
    assert names
    for name in names:
        np.testing.assert_allclose(state(low, name), state(high, name), atol=2e-3)


def test_only_cold_calls_for_heating() -> None:
    frame = make_frame(HOURS)
    frame["temperature_c"] = np.where(np.arange(HOURS) < ORIGIN, HEATING_BELOW_C + 1.0, HEATING_BELOW_C - 4.0)
    series = series_of(frame)
    std = series.spec.scaler(CITY.name).std["temperature_c"]
    heating = state(series, "heating_degrees_mean_last_720h")
    assert not heating[: ORIGIN + 1].any()
    assert heating[ORIGIN + 72] == pytest.approx(4.0 / std * 72 / 720, rel=1e-3)
    assert state(series, "heating_degrees_anomaly_last_1h")[ORIGIN + 1] == pytest.approx(4.0 / std, rel=0.01)
    assert not state(series, "cooling_degrees_mean_last_720h").any()


def test_weather_that_is_silent_is_as_usual() -> None:
    frame = make_frame(HOURS)
    frame.loc[frame.index[ORIGIN - 48 : ORIGIN], "temperature_c"] = np.nan
    series = series_of(frame)
    names = [name for name in state_names(series.spec.observed_names) if "temperature" in name]
    assert {len(names), len([name for name in names if not state(series, name)[ORIGIN]])} == {4}


def test_nothing_after_an_hour_enters_its_state() -> None:
    frame = make_frame(HOURS)
    changed = frame.copy()
    changed.iloc[ORIGIN:] = changed.iloc[ORIGIN:].to_numpy() + 3.0
    spec = build_spec("urban", {CITY.name: frame}, {CITY.name: CITY}, None, 24, 24)
    one, two = (build_series(part, CITY.name, spec).state[: ORIGIN + 1] for part in (frame, changed))
    np.testing.assert_array_equal(one, two)


def test_a_city_without_weather_has_no_state() -> None:
    series = series_of(make_frame(HOURS)[["pm25", "energy_mwh", "traffic_index"]])
    assert series.state.shape == (HOURS, 0)


def test_traffic_reads_no_weather() -> None:
    assert all("traffic_index" not in group.targets for group in STATE)


def test_a_feed_of_yesterday_is_no_input_yet() -> None:
    """Five hours of a new feed tell no scale: taken for one, they blew every forecast up."""
    frame = make_frame(HOURS)
    wind = frame["wind_speed_ms"].where(np.arange(HOURS) >= HOURS - 5, np.nan)
    spec = build_spec("urban", {CITY.name: frame.assign(wind_speed_ms=wind)}, {CITY.name: CITY}, None, 24, 24)
    assert "wind_speed_ms" not in spec.observed_names
    assert "wind_speed_ms" not in spec.scaler(CITY.name).std
    assert "temperature_c" in spec.observed_names


def test_a_city_with_a_feed_of_yesterday_borrows_its_scale() -> None:
    frame, other = make_frame(HOURS), make_city("other")
    short = frame.assign(wind_speed_ms=frame["wind_speed_ms"].where(np.arange(HOURS) >= HOURS - 5, np.nan))
    spec = build_spec(
        "urban", {CITY.name: frame, "other": short}, {CITY.name: CITY, "other": other}, None, 24, 24
    )
    assert "wind_speed_ms" in spec.scaler("other").borrowed
    assert spec.scaler("other").std["wind_speed_ms"] == spec.scaler(CITY.name).std["wind_speed_ms"]
