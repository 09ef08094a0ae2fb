"""What is usual for an hour of the week: the denominator that turns a traffic volume into an index."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray

HOURS_PER_WEEK = 168
TRAILING_WEEKS = 52  # one year: every season counts once, and a lasting change becomes usual within a year
WARM_UP_WEEKS = (
    8  # fewer weeks than this are a poor mean: one holiday among four shifts it by several percent
)
THURSDAY = 3  # 1970-01-01


def usual_values(
    hours: pd.DatetimeIndex,
    volume: NDArray[np.float64],
    timezone: str,
    reference_until: date | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the usual volume of each hour, from the same local hour of the week in earlier weeks.

    It is the mean over the last 52 weeks before the hour's own week, so a value never depends on what came
    later, and volume / usual is a plain rescaling that can be undone. Where a year holds fewer than 8 weeks
    the last usual value is held; the first 8 weeks of a record, which have nothing before them, take the mean
    of those 8 weeks and are marked: only there does an index know its own future.

    Args:
        hours: `(hours,)` hour starts, UTC, unique; gaps are fine.
        volume: `(hours,)` volume, finite.
        timezone: The city's IANA zone; the week is cut in its local time.
        reference_until: Use the mean of everything before this local date for all hours instead.

    Returns:
        `(hours,)` usual volume (NaN where the hour of the week was never seen) and the mark of the warm-up.
    """
    if len(hours) == 0:
        return np.empty(0), np.zeros(0, dtype=bool)
    # The zone goes in by name: with a ZoneInfo object pandas 2 takes 50 times as long.
    wall = hours.tz_convert(timezone).tz_localize(None).to_numpy().astype("datetime64[h]")
    since_monday = wall.astype(np.int64) + THURSDAY * 24
    week, slot = since_monday // HOURS_PER_WEEK, since_monday % HOURS_PER_WEEK
    week -= week.min()
    weekly, present = _weekly_means(week, slot, volume)
    if reference_until is not None:
        before = wall < np.datetime64(reference_until, "h")
        weekly, present = _weekly_means(week[before], slot[before], volume[before])
        constant = _mean(weekly.sum(axis=0), present.sum(axis=0))
        return constant[slot], np.zeros(len(hours), dtype=bool)
    usual, warm_up = _trailing(weekly, present)
    return usual[week, slot], warm_up[week, slot]


def _weekly_means(
    week: NDArray[np.int64], slot: NDArray[np.int64], volume: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Lay the record out as `(weeks, 168)`, 0 where absent; the doubled hour of autumn is averaged."""
    weeks = int(week.max(initial=-1)) + 1
    cell = week * HOURS_PER_WEEK + slot
    total = np.bincount(cell, weights=volume, minlength=weeks * HOURS_PER_WEEK)
    count = np.bincount(cell, minlength=weeks * HOURS_PER_WEEK)
    grid = (total / np.maximum(count, 1)).reshape(weeks, HOURS_PER_WEEK)
    return grid, (count > 0).reshape(weeks, HOURS_PER_WEEK)


def _mean(total: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return total / count, NaN where nothing was counted."""
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _trailing(
    weekly: NDArray[np.float64], present: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the usual value `(weeks, 168)` and where it is the warm-up's."""
    weeks = len(weekly)
    before = ((TRAILING_WEEKS, 0), (0, 0))
    # Row w of the padded grid starts the 52 weeks before week w, week w itself left out.
    sums = np.lib.stride_tricks.sliding_window_view(np.pad(weekly, before), TRAILING_WEEKS, axis=0)[
        :weeks
    ].sum(-1)
    counts = np.lib.stride_tricks.sliding_window_view(np.pad(present, before), TRAILING_WEEKS, axis=0)[
        :weeks
    ].sum(-1)
    known = counts >= WARM_UP_WEEKS
    usual = _mean(sums, counts)
    last_known = np.maximum.accumulate(np.where(known, np.arange(weeks)[:, None], -1), axis=0)
    held = np.take_along_axis(usual, np.maximum(last_known, 0), axis=0)
    first = present & (np.cumsum(present, axis=0) <= WARM_UP_WEEKS)
    warm_up_mean = _mean(np.where(first, weekly, 0.0).sum(axis=0), first.sum(axis=0))
    warm_up = last_known < 0
    return np.where(warm_up, warm_up_mean, held), warm_up
