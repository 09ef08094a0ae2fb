"""Weather forecasts and the city as inputs known ahead: each hour sees what was forecast days before it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.feature_support import START, make_city, make_frame
from tests.lake_batches import START as LAKE_START
from tests.lake_batches import batch, observation
from tests.toy_city import ToyBundle
from urbanwm.contracts.signals import FORECAST_DAYS, forecast_column
from urbanwm.features import FeatureSpec, build_series, build_spec, serving_windows
from urbanwm.features.direct import DirectColumns
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.lake import Forecasts, Lake, Records
from urbanwm.training.direct_fit import fit_direct
from urbanwm.training.sampling import hide_signals

CITY = make_city()
WIND = "wind_speed_ms"
DAYS = 90
HOUR = timedelta(hours=1)


def windy_frame(days: int = DAYS) -> pd.DataFrame:
    """Return hours in which the wind of the hour itself clears the air, with forecasts worse by the day."""
    frame, random = make_frame(24 * days), np.random.default_rng(1)
    wind = 4.0 + 2.0 * np.repeat(random.standard_normal(4 * days), 6)
    frame[WIND] = np.abs(wind)
    frame["pm25"] *= np.exp(-0.3 * (wind - 4.0))
    for day in range(1, FORECAST_DAYS + 1):
        frame[forecast_column(WIND, day)] = frame[WIND] + 0.1 * day * random.standard_normal(len(frame))
    return frame


def spec_of(frame: pd.DataFrame, **others: pd.DataFrame) -> FeatureSpec:
    frames = {CITY.name: frame, **others}
    return build_spec("urban", frames, {name: make_city(name) for name in frames}, None, 24, 48)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return windy_frame()


def test_hours_a_day_ahead_see_the_forecast_known_a_day_before_them(
    frame: pd.DataFrame,
) -> None:
    spec = spec_of(frame)
    windows = build_series(frame, CITY.name, spec).windows([500], 24, 48)
    column = spec.known_names.index("wind_speed_ms_forecast")
    expected = [
        spec.normalise(CITY.name, WIND, frame[forecast_column(WIND, day)].to_numpy()[hours])
        for day, hours in ((1, slice(476, 524)), (2, slice(524, 548)))
    ]
    np.testing.assert_allclose(windows.known[0, :, column], np.concatenate(expected), rtol=1e-5)
    assert not windows.known[0, :, spec.known_names.index("wind_speed_ms_forecast_missing")].any()


def test_an_hour_without_a_forecast_says_so(frame: pd.DataFrame) -> None:
    spec, gap = spec_of(frame), frame.copy()
    gap.iloc[510:520, gap.columns.get_loc(forecast_column(WIND, 1))] = np.nan
    known = build_series(gap, CITY.name, spec).windows([500], 24, 48).known[0]
    missing = known[:, spec.known_names.index("wind_speed_ms_forecast_missing")]
    assert np.flatnonzero(missing).tolist() == list(range(34, 44))
    assert not known[34:44, spec.known_names.index("wind_speed_ms_forecast")].any()


def direct_error(record: pd.DataFrame) -> float:
    """Return the mean absolute error of the left-out direct forecast of PM2.5, in standard deviations."""
    spec = spec_of(record)
    series = build_series(record, CITY.name, spec)
    fit = fit_direct({CITY.name: series}, spec)
    left_out = replace(series, by_fold=fit.by_fold[CITY.name])
    windows = left_out.windows(np.arange(800, 24 * DAYS - 48, 7), 0, 48)
    direct = windows.skip[:, :, 0, DirectColumns(spec).answer[0]]
    return float(np.abs(windows.target[:, :, 0] - direct).mean())


@pytest.mark.slow
def test_a_weather_forecast_makes_a_better_forecast(frame: pd.DataFrame) -> None:
    without = frame.filter(regex="^(?!.*_forecast_)")
    assert spec_of(without).forecast_signals == ()
    assert direct_error(frame) < 0.7 * direct_error(without)


def test_a_few_weeks_of_forecasts_are_not_learned_from(frame: pd.DataFrame) -> None:
    young = frame.copy()
    young.loc[young.index < young.index[-24 * 30], young.filter(like="_forecast_").columns] = np.nan
    assert spec_of(young).forecast_signals == ()


def test_a_live_window_sees_forecasts_of_its_future_and_nothing_else_of_it(frame: pd.DataFrame) -> None:
    spec, origin = spec_of(frame), START + timedelta(days=60)
    live = serving_windows(frame, CITY.name, spec, origin, 48)
    position = build_series(frame, CITY.name, spec)
    backtest = position.windows([position.position(origin)], 24, 48)
    np.testing.assert_array_equal(live.known, backtest.known)
    assert not live.target_mask[:, 24:].any()
    changed = frame.copy()
    changed.loc[changed.index >= origin, ["pm25", WIND]] *= 3.0
    np.testing.assert_array_equal(serving_windows(changed, CITY.name, spec, origin, 48).known, live.known)


def test_an_answer_names_the_forecast_it_had_to_do_without(frame: pd.DataFrame) -> None:
    origin = START + timedelta(days=60)
    model = WorldModelForecaster(ToyBundle(spec_of(frame)))
    complete = model.forecast(frame, CITY, origin, 24, 20, 0).reasons
    silent = model.forecast(frame[frame.index < origin], CITY, origin, 24, 20, 0).reasons
    assert set(silent) - set(complete) == {"wind_speed_ms: no forecast of the coming day"}


def test_the_lake_shows_an_hour_what_was_known_days_before_it(tmp_path: Path) -> None:
    lake, forecasts = Lake(tmp_path / "lake"), Forecasts(tmp_path / "forecasts")
    lake.upsert(batch(*(observation(hour, hour) for hour in range(48))))
    early = [observation(hour, 100 + hour, signal=WIND, known=3) for hour in range(24, 72)]
    late = [observation(hour, 200 + hour, signal=WIND, known=22) for hour in range(24, 72)]
    forecasts.add(batch(*early, *late))
    record = Records(lake.uri, forecasts.uri).read("x")
    day_1, day_2 = (record[forecast_column(WIND, day)] for day in (1, 2))
    assert len(record) == 72
    assert day_1.isna().to_numpy().nonzero()[0].tolist() == list(range(27))
    assert (day_1.iloc[27], day_1.iloc[45], day_1.iloc[46]) == (127, 145, 246)
    assert np.isnan(day_2.iloc[50])
    assert (day_2.iloc[51], day_2.iloc[69], day_2.iloc[70]) == (151, 169, 270)
    assert record["pm25"].iloc[48:].isna().all()
    assert len(Records(lake.uri, forecasts.uri).read("x", end=LAKE_START + 48 * HOUR)) == 48


def test_every_city_trained_on_has_a_column_and_a_new_one_has_none(frame: pd.DataFrame) -> None:
    other = make_frame(24 * DAYS, seed=5)
    spec = spec_of(frame, elsewhere=other)
    columns = [spec.known_names.index(f"city={name}") for name in (CITY.name, "elsewhere")]
    shown = [
        build_series(other, name, spec).windows([500], 24, 48).known[..., columns] for name in spec.cities
    ]
    assert (shown[0] == [1.0, 0.0]).all()
    assert (shown[1] == [0.0, 1.0]).all()
    new = spec.with_city(make_city("new"), other)
    assert not build_series(other, "new", new).windows([500], 24, 48).known[..., columns].any()


def test_training_hides_the_city_and_the_weather_forecast_from_some_windows(frame: pd.DataFrame) -> None:
    spec = spec_of(frame, elsewhere=make_frame(24 * DAYS, seed=5))
    windows = build_series(frame, CITY.name, spec).windows(np.arange(500, 900), 24, 48)
    known = hide_signals(windows, spec, 0.3, np.random.default_rng(0)).known
    for name, hidden in ((f"city={CITY.name}", 0.0), ("wind_speed_ms_forecast_missing", 1.0)):
        column = known[..., spec.known_names.index(name)]
        share = (column == hidden).all(axis=1)
        assert 0.2 < share.mean() < 0.4
        assert (column[~share] != hidden).all()
