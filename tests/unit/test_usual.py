"""Traffic as a level: volumes where there are any, the index itself where there are none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.small_world import small_city
from urbanwm.features import build_series, build_spec
from urbanwm.features.calendar import local_days
from urbanwm.features.spec import calendar_of
from urbanwm.features.usual import mean_volume, traffic_level

CALENDAR = calendar_of(small_city())


def _frame(weeks: int = 6) -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=168 * weeks, freq="h", tz="UTC", name="timestamp", unit="us")
    random = np.random.default_rng(0)
    usual = 1000.0 * (1.5 + np.sin(2 * np.pi * np.arange(len(index)) / 168))
    traffic_index = np.clip(1.0 + 0.3 * random.standard_normal(len(index)), 0.05, 1.95)
    return pd.DataFrame(
        {
            "traffic_index": traffic_index,
            "traffic_volume": traffic_index * usual,
            "energy_mwh": 100.0 + usual,
        },
        index=index,
    )


def test_level_over_usual_is_the_index() -> None:
    frame = _frame()
    found = traffic_level(frame, local_days(frame.index, CALENDAR), mean_volume(frame))
    week = slice(168, None)
    np.testing.assert_allclose(
        (found.level / found.usual)[week], frame["traffic_index"].iloc[week], rtol=1e-9
    )


def test_the_usual_level_of_an_hour_is_known_a_week_before() -> None:
    frame = _frame()
    days, unit = local_days(frame.index, CALENDAR), mean_volume(frame)
    changed, origin = frame.copy(), 500
    changed.iloc[origin:, :2] = [1.0, 77.0]
    one, two = (traffic_level(part, days, unit).usual for part in (frame, changed))
    np.testing.assert_array_equal(one[: origin + 168], two[: origin + 168])
    assert (one[origin + 168 :] != two[origin + 168 :]).any()


def test_the_usual_level_is_known_for_hours_without_any_observation() -> None:
    frame = _frame()
    frame.iloc[-200:, :2] = np.nan
    found = traffic_level(frame, local_days(frame.index, CALENDAR), mean_volume(frame))
    assert np.isfinite(found.usual).all()
    assert np.isnan(found.level[-200:]).all()


def test_a_clipped_index_has_its_true_level() -> None:
    frame = _frame()
    frame.iloc[700] = [2.0, 12_345.0, 1.0]
    unit = mean_volume(frame)
    found = traffic_level(frame, local_days(frame.index, CALENDAR), unit)
    assert unit is not None
    assert found.level[700] == pytest.approx(12_345.0 / unit)


def test_an_index_without_a_volume_stands_for_the_usual_volume_times_itself() -> None:
    frame = _frame()
    days, unit = local_days(frame.index, CALENDAR), mean_volume(frame)
    whole = traffic_level(frame, days, unit)
    frame.iloc[800, 1] = np.nan
    np.testing.assert_allclose(traffic_level(frame, days, unit).level[800], whole.level[800], rtol=1e-9)


@pytest.mark.parametrize("without", ["traffic_volume", "traffic_index"])
def test_a_city_without_volumes_or_index_has_no_unit(without: str) -> None:
    assert mean_volume(_frame().drop(columns=without)) is None


def test_a_record_of_some_days_does_not_know_what_is_usual() -> None:
    assert mean_volume(_frame().iloc[:200]) is None
    assert mean_volume(_frame().iloc[:300]) is not None


def test_a_level_is_a_volume_from_the_first_hour_on() -> None:
    frame = _frame()
    unit = mean_volume(frame)
    found = traffic_level(frame, local_days(frame.index, CALENDAR), unit)
    assert unit is not None
    np.testing.assert_allclose(found.level, frame["traffic_volume"] / unit, rtol=1e-9)


def test_without_volumes_the_level_is_the_index() -> None:
    frame = _frame().drop(columns="traffic_volume")
    found = traffic_level(frame, local_days(frame.index, CALENDAR), None)
    np.testing.assert_array_equal(found.level, frame["traffic_index"])
    assert (found.usual == 1.0).all()


def test_a_series_gives_its_index_back() -> None:
    frame, city = _frame(), small_city()
    spec = build_spec("urban", {city.name: frame}, {city.name: city}, None, 12, 12)
    series = build_series(frame, city.name, spec)
    physical = spec.denormalise(city.name, series.target, series.usual)
    np.testing.assert_allclose(physical[168:, 2], frame["traffic_index"].iloc[168:], rtol=1e-4)
