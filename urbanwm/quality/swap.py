"""Find days whose day and month were swapped in a file, by the weekday profile that they really follow.

A well-known case: in a published table of Spanish load, every day up to the 12th of a month carries the load
of the date with day and month exchanged. Nothing is out of range; only Sundays are no longer quiet.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LAST_SWAPPABLE_DAY = 12
SUNDAY = 6
WORKING_DAYS = (1, 2, 3)
DAYS_NEEDED = 180
SUNDAYS_NEEDED = 8
QUIET_SUNDAY_Z = -4.0
"""How clearly the days that cannot be swapped must show quiet Sundays, standard errors."""
LOST_SHARE, REGAINED_SHARE = 0.5, 0.6
"""Share of that Sunday effect which the other days keep as labelled, and regain when swapped back."""


def swapped_days(series: pd.Series, timezone: str) -> NDArray[np.bool_]:
    """Return the hours of days that carry another date's values; all False unless the evidence is complete.

    Three things must hold: days after the 12th show quiet Sundays, days up to the 12th do not, and the latter
    do once day and month are swapped back.

    Args:
        series: Hourly values over a UTC index, positive.
        timezone: The city's IANA zone; a day is a local day.
    """
    local = pd.DatetimeIndex(series.index).tz_convert(timezone)
    swappable = np.asarray((local.day <= LAST_SWAPPABLE_DAY) & (local.day != local.month))
    nothing = np.zeros(len(series), dtype=bool)
    days = (
        np.log(series[series > 0]).groupby(local[series.to_numpy() > 0].tz_localize(None).normalize()).mean()
    )
    if len(days) < DAYS_NEEDED:
        return nothing
    label = pd.DatetimeIndex(days.index)
    may_swap = np.asarray((label.day <= LAST_SWAPPABLE_DAY) & (label.day != label.month))
    swapped = pd.to_datetime({"year": label.year, "month": label.day.where(may_swap, 1), "day": label.month})
    weekday, other_weekday = np.asarray(label.weekday), swapped.dt.weekday.to_numpy()
    level = days.to_numpy()
    safe = _sunday_effect(level[~may_swap], weekday[~may_swap])
    as_labelled = _sunday_effect(level[may_swap], weekday[may_swap])
    as_swapped = _sunday_effect(level[may_swap], other_weekday[may_swap])
    if safe is None or as_labelled is None or as_swapped is None or safe[1] > QUIET_SUNDAY_Z:
        return nothing
    lost = as_labelled[0] > LOST_SHARE * safe[0]
    regained = as_swapped[0] < REGAINED_SHARE * safe[0]
    return swappable if lost and regained else nothing


def _sunday_effect(level: NDArray[np.float64], weekday: NDArray[np.int64]) -> tuple[float, float] | None:
    """Return how far Sundays lie below Tuesday to Thursday (log units) and its z score; None if too few."""
    sundays, working = level[weekday == SUNDAY], level[np.isin(weekday, WORKING_DAYS)]
    if len(sundays) < SUNDAYS_NEEDED or len(working) < SUNDAYS_NEEDED:
        return None
    effect = float(sundays.mean() - working.mean())
    error = float(np.sqrt(sundays.var(ddof=1) / len(sundays) + working.var(ddof=1) / len(working)))
    return effect, effect / error if error > 0 else 0.0
