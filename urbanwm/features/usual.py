"""Traffic as a level: the volume, where the index is the volume over the usual one of the hour of the week.

An index compares a holiday on a Thursday with other Thursdays, so the index of an earlier holiday on a Monday
says little about it. Volumes compare. Models therefore work with the level, in units of the city's mean
volume, and divide it by the usual level, which is known a week ahead, to answer with an index.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.contracts.signals import SIGNALS, TRAFFIC_INDEX, TRAFFIC_VOLUME
from urbanwm.features.calendar import HOURS_PER_DAY, LocalDays

DAYS_PER_WEEK = 7
INDEX, VOLUME = TRAFFIC_INDEX, TRAFFIC_VOLUME
INDEX_MAXIMUM = SIGNALS[INDEX].maximum
"""The index is clipped here: such an hour does not tell its usual volume."""
MINIMUM_COVERAGE = 0.5
"""Share of the index's hours that must have a volume for volumes to be used at all."""
MINIMUM_HOURS = 10 * HOURS_PER_DAY
"""A shorter record does not know what is usual: its index stands for itself."""


class TrafficLevel(NamedTuple):
    """`level (N,)`, NaN = missing, and `usual (N,)`, never missing: index = level ÷ usual.

    In a record's first week, before anything is usual, `usual` is 1 and says nothing.
    """

    level: NDArray[np.float64]
    usual: NDArray[np.float64]


def mean_volume(frame: pd.DataFrame) -> float | None:
    """Return the volume (veh/h) that a level of 1 stands for; None for a city without volumes."""
    if INDEX not in frame or VOLUME not in frame:
        return None
    both = frame[INDEX].notna() & (frame[VOLUME] > 0.0)
    if both.sum() < max(MINIMUM_COVERAGE * frame[INDEX].notna().sum(), MINIMUM_HOURS):
        return None
    return float(frame.loc[both, VOLUME].mean())


def traffic_level(frame: pd.DataFrame, days: LocalDays, unit: float | None) -> TrafficLevel:
    """Return level and usual level of every hour; the index itself and ones where there are no volumes.

    Args:
        frame: Hourly grid with `traffic_index` and, perhaps, `traffic_volume` (veh/h).
        days: The same grid in local time.
        unit: As `mean_volume` gave it on the training rows.
    """
    hours = len(frame)
    index = frame[INDEX].to_numpy(dtype=np.float64) if INDEX in frame else np.full(hours, np.nan)
    if unit is None or VOLUME not in frame:
        return TrafficLevel(index, np.ones(hours))
    volume = frame[VOLUME].to_numpy(dtype=np.float64) / unit
    known = (index > 0.0) & (index < INDEX_MAXIMUM) & (volume > 0.0)
    own = np.full(hours, np.nan)
    own[known] = volume[known] / index[known]
    before = _a_week_before(own, days)
    usual = np.where(np.isfinite(before), before, 1.0)
    # An hour without an index has no level either: whoever hides the one hides the other.
    level = np.where(np.isfinite(volume) & np.isfinite(index), volume, index * usual)
    return TrafficLevel(level, usual)


def _a_week_before(own: NDArray[np.float64], days: LocalDays) -> NDArray[np.float64]:
    """Return the newest value of the same local hour of the week, at least a week old, NaN without one."""
    weeks = int(days.day[-1]) // DAYS_PER_WEEK + 1
    grid = np.full((weeks * DAYS_PER_WEEK, HOURS_PER_DAY), np.nan)
    grid[days.day, days.hour] = own
    by_week = grid.reshape(weeks, DAYS_PER_WEEK * HOURS_PER_DAY)
    newest = np.maximum.accumulate(np.where(np.isfinite(by_week), np.arange(weeks)[:, None], -1), axis=0)
    before = np.concatenate([np.full_like(newest[:1], -1), newest[:-1]])
    held = np.take_along_axis(by_week, np.maximum(before, 0), axis=0)
    held[before < 0] = np.nan
    found: NDArray[np.float64] = held.reshape(grid.shape)[days.day, days.hour]
    return found
