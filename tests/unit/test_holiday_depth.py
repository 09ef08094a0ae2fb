"""A public holiday is as much of a Sunday as the same one was a year before."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from urbanwm.contracts.signals import TARGETS
from urbanwm.features.calendar import SUNDAY, CityCalendar, local_days
from urbanwm.features.history import build_history
from urbanwm.features.holiday_depth import PRIOR

INDEX = pd.date_range("2017-01-01T06:00Z", "2019-03-01T06:00Z", freq="h", inclusive="left")
DAYS = local_days(INDEX, CityCalendar("America/Chicago", "US", "MN"))
FIRST_DAY = pd.Timestamp("2017-01-01")
PRESIDENTS, CHRISTMAS, LABOUR = "2019-02-18", "2018-12-25", "2018-09-03"
"""The second of each in the record, or a later one."""
SIMILAR_8 = 3
"""Column of the means."""


def day_of(date: str) -> int:
    return (pd.Timestamp(date) - FIRST_DAY).days


def record(levels: dict[str, float], noise: float = 0.0) -> np.ndarray:
    """Return a city at 1 on workdays, 0 on Sundays and holidays, and at `levels` on days by name."""
    free = (DAYS.weekday == SUNDAY) | (DAYS.holiday != "")
    by_day = np.where(free, 0.0, 1.0)
    for name, level in levels.items():
        by_day[DAYS.holiday == name] = level
    random = noise * np.random.default_rng(0).standard_normal((len(INDEX), len(TARGETS)))
    return (by_day[DAYS.day][:, None] + random).astype(np.float32)


def forecast(values: np.ndarray, date: str, days_ahead: int = 1) -> np.ndarray:
    """Return what similar days say of noon, `(3,)`."""
    day = day_of(date)
    hour = np.flatnonzero((DAYS.day == day) & (DAYS.hour == 12))
    origin = np.flatnonzero(DAYS.day == day - days_ahead)[:1]
    means, _ = build_history(values, DAYS).means.lookup(hour, DAYS.day[origin], origin)
    return means[0, :, SIMILAR_8]


@pytest.fixture(scope="module")
def worked() -> np.ndarray:
    return record({"Washington's and Lincoln's Birthday": 1.0, "Christmas Day": -0.5})


def test_where_the_city_worked_a_year_ago_it_is_expected_to_work(worked: np.ndarray) -> None:
    energy, traffic = TARGETS.index("energy_mwh"), TARGETS.index("traffic_index")
    whole_day = 24.0
    expected = whole_day / (whole_day + PRIOR)
    np.testing.assert_allclose(forecast(worked, PRESIDENTS)[[energy, traffic]], expected, atol=0.02)


def test_where_it_rested_more_than_on_a_sunday_so_it_will_again(worked: np.ndarray) -> None:
    assert forecast(worked, CHRISTMAS)[TARGETS.index("energy_mwh")] < -0.4


def test_a_holiday_that_was_a_sunday_stays_one(worked: np.ndarray) -> None:
    np.testing.assert_allclose(forecast(worked, LABOUR), 0.0, atol=1e-5)


def test_the_first_of_a_name_is_taken_for_a_sunday(worked: np.ndarray) -> None:
    assert abs(forecast(worked, "2017-02-20")[TARGETS.index("energy_mwh")]) < 0.05


def test_air_does_not_follow_the_working_day(worked: np.ndarray) -> None:
    assert abs(forecast(worked, PRESIDENTS)[TARGETS.index("pm25")]) < 0.2


def test_a_city_whose_sundays_are_like_its_workdays_learns_nothing_from_a_holiday() -> None:
    flat = np.random.default_rng(1).standard_normal((len(INDEX), len(TARGETS))).astype(np.float32) * 0.1
    np.testing.assert_allclose(build_history(flat, DAYS).means.depth, 1.0, atol=0.25)


def test_hours_without_a_value_say_nothing(worked: np.ndarray) -> None:
    silent = worked.copy()
    silent[DAYS.day == day_of("2018-02-19")] = np.nan
    assert abs(forecast(silent, PRESIDENTS)[TARGETS.index("energy_mwh")]) < 0.15


def test_what_happens_in_the_week_before_a_holiday_does_not_change_how_deep_it_is(worked: np.ndarray) -> None:
    day = day_of(PRESIDENTS)
    changed = worked.copy()
    changed[DAYS.day >= day - 7] = 9.0
    before, after = (build_history(values, DAYS).means.depth[: day + 1] for values in (worked, changed))
    np.testing.assert_array_equal(after, before)


def test_a_holiday_keeps_its_name_where_it_is_moved() -> None:
    november = pd.date_range("2023-11-01T06:00Z", "2023-12-01T06:00Z", freq="h")
    days = local_days(november, CityCalendar("America/Chicago", "US"))
    # 11 November 2023 is a Saturday: the Friday before is kept too.
    assert days.holiday[9] == days.holiday[10] == "Veterans Day"
    assert days.holiday[8] == ""
