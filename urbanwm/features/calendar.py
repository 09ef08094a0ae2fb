"""The calendar of a city in its own local time: known for every hour, however far ahead.

Public holidays, bridge days and the weeks around New Year explain about half of the load and traffic error in
winter, and a week cut in UTC instead of local time costs more than any choice of model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import holidays
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.errors import BadInput

HOURS_PER_DAY = 24
DAYS_PER_YEAR = 365.25
SATURDAY, SUNDAY = 5, 6
MONDAY, FRIDAY = 0, 4
TUESDAY, THURSDAY = 1, 3
# Day classes: the coarse partition in which "the last similar day" is looked up.
WORKDAY, SATURDAY_CLASS, REST_DAY, SPECIAL_DAY = 0, 1, 2, 3
DAY_CLASSES = 4
MOVED = " (observed)"
"""What the name of a holiday ends with on the day to which it is moved."""

CALENDAR_NAMES: tuple[str, ...] = (
    "hour_sin",
    "hour_cos",
    "hour_sin_2",
    "hour_cos_2",
    "weekday_sin",
    "weekday_cos",
    "is_workday",
    "is_saturday",
    "is_rest_day",
    "is_special_day",
    "is_holiday",
    "is_day_before_holiday",
    "is_day_after_holiday",
    "is_bridge_day",
    "is_year_end",
    "is_eve",
    "tomorrow_is_off",
    "yesterday_was_off",
    "year_sin",
    "year_cos",
)


@dataclass(frozen=True)
class CityCalendar:
    """Where a city's calendar comes from.

    Attributes:
        timezone: IANA name.
        country: ISO 3166 country of its public holidays, None = weekdays only.
        subdivision: Region code within the country, None = national holidays only.
    """

    timezone: str
    country: str | None = None
    subdivision: str | None = None


@dataclass(frozen=True)
class LocalDays:
    """An hourly grid seen in local time: D local days, N hours.

    Attributes:
        day: `(N,)` index of the local day of each hour, 0 = day of the first hour.
        hour: `(N,)` local hour of day, 0-23.
        weekday: `(D,)` 0 = Monday.
        day_class: `(D,)` WORKDAY, SATURDAY_CLASS, REST_DAY (Sunday or holiday) or SPECIAL_DAY (a workday that
            is a bridge or lies in 22 Dec - 7 Jan).
        holiday: `(D,)` name of the public holiday, "" = none; the same every year, also when it is moved.
        features: `(N, len(CALENDAR_NAMES))` float32.
    """

    day: NDArray[np.int64]
    hour: NDArray[np.int64]
    weekday: NDArray[np.int64]
    day_class: NDArray[np.int64]
    holiday: NDArray[np.str_]
    features: NDArray[np.float32]


@lru_cache(maxsize=4096)
def _holidays_of_year(country: str, subdivision: str | None, year: int) -> Mapping[date, str]:
    """Return the public holidays of one year by name (cached: the package takes milliseconds per year)."""
    try:
        return dict(holidays.country_holidays(country, subdiv=subdivision, years=year))
    except NotImplementedError as failure:
        raise BadInput(
            f"no holiday calendar: {failure}",
            field="holidays",
            value=f"{country}/{subdivision}",
            allowed="an ISO 3166 country and one of its subdivisions",
        ) from failure


@lru_cache(maxsize=512)
def _utc_offset_minutes(timezone: str, year: int) -> NDArray[np.int64]:
    """Return the offset from UTC in minutes at each hour of a UTC year (a read-only, shared array).

    One question per day, and 24 more on the days of a clock change; pandas asks once per hour, 10 x slower.
    """
    zone, start = ZoneInfo(timezone), datetime(year, 1, 1, tzinfo=UTC)

    def offset(hour: int) -> int:
        shift = (start + timedelta(hours=hour)).astimezone(zone).utcoffset()
        return 0 if shift is None else int(shift.total_seconds() // 60)

    hours = (datetime(year + 1, 1, 1, tzinfo=UTC) - start) // timedelta(hours=1)
    midnights = [offset(hour) for hour in range(0, hours + 1, HOURS_PER_DAY)]
    offsets = np.repeat(np.array(midnights[:-1], dtype=np.int64), HOURS_PER_DAY)
    for day, (before, after) in enumerate(pairwise(midnights)):
        if before != after:
            first = day * HOURS_PER_DAY
            offsets[first : first + HOURS_PER_DAY] = [offset(first + k) for k in range(HOURS_PER_DAY)]
    offsets.setflags(write=False)
    return offsets


def _wall_hours(index: pd.DatetimeIndex, timezone: str) -> NDArray[np.int64]:
    """Return local wall-clock hours since 1970-01-01 00:00, `(N,)`; floored in zones off the full hour."""
    utc: NDArray[np.int64] = index.as_unit("s").asi8 // 3600
    first_year, last_year = index[0].year, index[-1].year
    years = range(first_year, last_year + 1)
    offsets = np.concatenate([_utc_offset_minutes(timezone, year) for year in years])
    epoch = int(datetime(first_year, 1, 1, tzinfo=UTC).timestamp()) // 3600
    wall: NDArray[np.int64] = utc + offsets[utc - epoch] // 60
    return wall


def _holiday_names(days: NDArray[np.datetime64], calendar: CityCalendar) -> NDArray[np.str_]:
    """Return the name of the public holiday on each of some consecutive `datetime64[D]` days, "" = none."""
    if calendar.country is None or days.size == 0:
        return np.zeros(days.shape, dtype=np.str_)
    years = range(int(str(days[0])[:4]), int(str(days[-1])[:4]) + 1)
    known: dict[date, str] = {}
    for year in years:
        known |= _holidays_of_year(calendar.country, calendar.subdivision, year)
    return np.array([known.get(day, "").replace(MOVED, "") for day in days.tolist()], dtype=np.str_)


def _day_features(
    around: NDArray[np.datetime64], names_around: NDArray[np.str_]
) -> dict[str, NDArray[np.float64]]:
    """Return the day-level facts of D consecutive days, `(D,)` each.

    Args:
        around: `(D + 2,)` `datetime64[D]`, from the day before to the day after.
        names_around: `(D + 2,)` names of their holidays, "" = none.
    """
    days, holiday_around = around[1:-1], names_around != ""
    # 1970-01-01 was a Thursday.
    weekday_around = (around.astype(np.int64) + THURSDAY) % 7
    off_around = holiday_around | (weekday_around >= SATURDAY)
    holiday, weekday = holiday_around[1:-1], weekday_around[1:-1]
    off, off_before, off_after = off_around[1:-1], off_around[:-2], off_around[2:]
    month = days.astype("datetime64[M]").astype(np.int64) % 12 + 1
    day_of_month = (days - days.astype("datetime64[M]")).astype(np.int64) + 1
    day_of_year = (days - days.astype("datetime64[Y]")).astype(np.int64)
    year_end = ((month == 12) & (day_of_month >= 22)) | ((month == 1) & (day_of_month <= 7))
    # A bridge is a single workday between two days off, as the Friday after a Thursday holiday.
    bridge = ~off & off_before & off_after
    special = ~off & (bridge | year_end)
    rest = holiday | (weekday == SUNDAY)
    saturday = (weekday == SATURDAY) & ~rest
    week_angle, year_angle = 2 * np.pi * weekday / 7, 2 * np.pi * day_of_year / DAYS_PER_YEAR
    facts = {
        "weekday": weekday,
        "weekday_sin": np.sin(week_angle),
        "weekday_cos": np.cos(week_angle),
        "is_workday": ~off & ~special,
        "is_saturday": saturday,
        "is_rest_day": rest,
        "is_special_day": special,
        "is_holiday": holiday,
        "is_day_before_holiday": holiday_around[2:],
        "is_day_after_holiday": holiday_around[:-2],
        "is_bridge_day": bridge,
        "is_year_end": year_end,
        "is_eve": (month == 12) & ((day_of_month == 24) | (day_of_month == 31)),
        "tomorrow_is_off": off_after,
        "yesterday_was_off": off_before,
        "year_sin": np.sin(year_angle),
        "year_cos": np.cos(year_angle),
    }
    return {name: values.astype(np.float64) for name, values in facts.items()}


def local_days(index: pd.DatetimeIndex, calendar: CityCalendar) -> LocalDays:
    """Lay an hourly UTC index out in local days and describe each hour.

    Both clock changes come out right: one local hour is absent in spring, one occurs twice in autumn.

    Args:
        index: `(N,)` hourly, UTC, increasing.
        calendar: Time zone and holidays of the city.

    Raises:
        BadInput: The holiday calendar does not exist.
    """
    wall = _wall_hours(index, calendar.timezone)
    since_1970 = wall // HOURS_PER_DAY
    hour, day = wall - HOURS_PER_DAY * since_1970, since_1970 - since_1970[0]
    around = np.arange(since_1970[0] - 1, since_1970[-1] + 2).astype("datetime64[D]")
    names = _holiday_names(around, calendar)
    facts = _day_features(around, names)
    day_class = np.select(
        [facts["is_rest_day"] > 0, facts["is_saturday"] > 0, facts["is_special_day"] > 0],
        [REST_DAY, SATURDAY_CLASS, SPECIAL_DAY],
        WORKDAY,
    )
    angle = 2 * np.pi * np.arange(HOURS_PER_DAY) / HOURS_PER_DAY
    clock = np.stack([np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle)], axis=1)
    daily = np.stack([facts[name] for name in CALENDAR_NAMES[clock.shape[1] :]], axis=1)
    by_day = np.zeros((len(daily), len(CALENDAR_NAMES)), dtype=np.float32)
    by_day[:, clock.shape[1] :] = daily
    features = by_day.take(day, axis=0)
    features[:, : clock.shape[1]] = clock.astype(np.float32).take(hour, axis=0)
    weekday = facts["weekday"].astype(np.int64)
    return LocalDays(day, hour, weekday, day_class.astype(np.int64), names[1:-1], features)


def thinning_step(hours: int, most: int) -> int:
    """Return the step that keeps at most so many hours and, prime to 24, every hour of the day."""
    step = max(1, -(-hours // most))
    while np.gcd(step, HOURS_PER_DAY) > 1:
        step += 1
    return step
