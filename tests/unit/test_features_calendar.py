"""The local-time calendar and the similar-day tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from urbanwm.errors import BadInput
from urbanwm.features.calendar import (
    CALENDAR_NAMES,
    REST_DAY,
    SATURDAY_CLASS,
    SPECIAL_DAY,
    WORKDAY,
    CityCalendar,
    local_days,
)
from urbanwm.features.similar_day import build_table, day_table
from urbanwm.features.trailing import trailing_mean

MADRID = CityCalendar("Europe/Madrid", "ES", "MD")


def hours(start: str, count: int) -> pd.DatetimeIndex:
    return pd.date_range(start, periods=count, freq="h", tz="UTC", unit="us")


def facts_on(day: str, calendar: CityCalendar = MADRID) -> dict[str, float]:
    noon = hours(f"{day} 12:00", 1)
    days = local_days(noon, calendar)
    return {**dict(zip(CALENDAR_NAMES, days.features[0].tolist(), strict=True)), "class": days.day_class[0]}


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        ("2018-11-14", WORKDAY),
        ("2018-11-17", SATURDAY_CLASS),
        ("2018-11-18", REST_DAY),
        ("2018-12-06", REST_DAY),
        ("2018-12-07", SPECIAL_DAY),
        ("2018-12-27", SPECIAL_DAY),
        ("2018-12-22", SATURDAY_CLASS),
        ("2019-01-08", WORKDAY),
    ],
)
def test_each_day_falls_in_its_class(day: str, expected: int) -> None:
    assert facts_on(day)["class"] == expected


def test_the_day_between_a_holiday_and_a_weekend_is_a_bridge() -> None:
    friday = facts_on("2018-12-07")
    assert friday["is_bridge_day"] == 1
    assert friday["is_day_after_holiday"] == 1
    assert friday["tomorrow_is_off"] == friday["yesterday_was_off"] == 1
    assert facts_on("2018-12-05")["is_day_before_holiday"] == 1


def test_the_year_end_runs_from_22_december_to_7_january() -> None:
    flags = [facts_on(day)["is_year_end"] for day in ("2018-12-21", "2018-12-22", "2019-01-07", "2019-01-08")]
    assert flags == [0, 1, 1, 0]


def test_a_city_without_a_holiday_calendar_has_weekdays_only() -> None:
    assert facts_on("2018-12-06", CityCalendar("Europe/Madrid"))["class"] == WORKDAY


def test_an_unknown_country_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="ZZ"):
        local_days(hours("2020-01-01", 24), CityCalendar("Europe/Madrid", "ZZ"))


@pytest.mark.parametrize(
    "zone",
    ["Europe/Madrid", "Asia/Kolkata", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"],
)
def test_the_wall_clock_is_that_of_the_zone_through_every_clock_change(zone: str) -> None:
    index = hours("2015-12-30 05:00", 3 * 8760)
    days = local_days(index, CityCalendar(zone))
    local = index.tz_convert(zone).tz_localize(None)
    assert np.array_equal(days.hour, local.hour)
    assert np.array_equal(days.day, (local.normalize() - local[0].normalize()).days)


def test_the_missing_hour_of_spring_stays_missing_and_the_double_hour_of_autumn_keeps_its_second() -> None:
    spring = local_days(hours("2018-03-24 23:00", 23), MADRID)
    table = day_table(np.ones((23, 1), np.float32), spring.day, spring.hour)
    assert table.shape[0] == 1
    assert np.flatnonzero(np.isnan(table[0, :, 0])).tolist() == [2]
    autumn = local_days(hours("2018-10-27 22:00", 25), MADRID)
    table = day_table(np.arange(25, dtype=np.float32)[:, None], autumn.day, autumn.hour)
    assert table[0, 2, 0] == 3.0


def test_similar_day_means_equal_a_plain_loop() -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(size=(40, 24, 2))
    values[generator.random(values.shape) < 0.3] = np.nan
    classes = generator.integers(0, 3, 40)
    table = build_table(values, classes, 3, [3])
    for cutoff in (0, 1, 7, 25, 40):
        for klass in range(3):
            days = np.flatnonzero(classes[:cutoff] == klass)
            for hour in (0, 13):
                found = table.lookup(np.array([cutoff]), np.array([klass]), np.array([hour]))[0, :, 0]
                for signal in range(2):
                    last, every = values[days[-3:], hour, signal], values[days, hour, signal]
                    past = last if np.isfinite(last).any() else every
                    past = past[~np.isnan(past)]
                    expected = past.mean() if past.size else np.nan
                    np.testing.assert_allclose(found[signal], expected, rtol=1e-5)


def test_a_longer_mean_stands_in_where_the_last_day_is_missing() -> None:
    values = np.full((3, 24, 1), 5.0)
    values[2] = np.nan
    table = build_table(values, np.zeros(3, dtype=np.int64), 1, [1, 3])
    found = table.lookup(np.array([3]), np.array([0]), np.array([0]))
    assert found[0, 0].tolist() == [5.0, 5.0]


def test_after_a_gap_longer_than_any_count_all_earlier_days_stand_in() -> None:
    values = np.full((6, 24, 1), np.nan)
    values[:2] = np.array([2.0, 4.0])[:, None, None]
    table = build_table(values, np.zeros(6, dtype=np.int64), 1, [1, 2])
    after = table.lookup(np.array([6]), np.array([0]), np.array([5]))
    assert after.tolist() == [[[3.0, 3.0]]]


def test_trailing_means_skip_missing_hours_and_exclude_the_hour_itself() -> None:
    values = np.array([[1.0], [np.nan], [3.0], [100.0]], dtype=np.float32)
    means = trailing_mean(values, [1, 3])
    assert means[:, 0, 0].tolist() == [0.0, 1.0, 0.0, 3.0]
    assert means[:, 0, 1].tolist() == [0.0, 1.0, 1.0, 2.0]
