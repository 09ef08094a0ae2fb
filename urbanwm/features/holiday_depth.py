"""How far a public holiday is a Sunday: as far as the same one was a year before.

On some the city rests more than on a Sunday, on others it works as on any such day: a region's holiday says
little of a country's load, and few offices close on Presidents' Day.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from urbanwm.contracts.signals import TARGETS
from urbanwm.features.calendar import (
    HOURS_PER_DAY,
    REST_DAY,
    SATURDAY,
    SATURDAY_CLASS,
    SUNDAY,
    WORKDAY,
    LocalDays,
)
from urbanwm.features.similar_day import SimilarDayTable

FOLLOW: Final = ("energy_mwh", "traffic_index")
"""Targets that follow the working day; another one's Sundays are hardly unlike its workdays."""
YEAR_DAYS: Final = 400
"""Days back in which the same holiday is looked for: what a service knows of a city's past."""
LEAST_DAYS: Final = 8
"""An occurrence is this much older than the holiday, so that whoever forecasts it a week ahead knows it."""
PRIOR: Final = 2.0
"""Evidence, in squared standard deviations of the signal times hours, that a holiday is a Sunday."""
DEEPEST: Final = 2.0


def ordinary_class(weekday: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the day class that days `(D,)` would have were they no holidays."""
    return np.select([weekday == SUNDAY, weekday == SATURDAY], [REST_DAY, SATURDAY_CLASS], WORKDAY)


def holiday_depth(
    values: NDArray[np.float64], days: LocalDays, table: SimilarDayTable, count: int
) -> NDArray[np.float32]:
    """Return how far each day lies from its ordinary kind (0) to a Sunday (1) and beyond, `(D, 3)`.

    It is the least-squares share of the way that the same holiday went the last time, 1 without one. Only
    holidays are unlike 1.

    Args:
        values: `(D, 24, 3)` normalised targets, NaN = missing.
        days: The days.
        table: Similar-day means by day class.
        count: Which of its counts stands for a kind of day.
    """
    depth = np.ones((len(days.weekday), values.shape[-1]), dtype=np.float32)
    follows = [TARGETS.index(name) for name in FOLLOW]
    last: dict[str, tuple[int, NDArray[np.float32]]] = {}
    for day in np.flatnonzero((days.holiday != "") & (days.weekday != SUNDAY)).tolist():
        before = last.get(days.holiday[day])
        if before is not None and LEAST_DAYS <= day - before[0] <= YEAR_DAYS:
            depth[day, follows] = before[1][follows]
        last[days.holiday[day]] = day, _share_of_the_way(values[day], days, table, count, day)
    return depth


def _share_of_the_way(
    own: NDArray[np.float64], days: LocalDays, table: SimilarDayTable, count: int, day: int
) -> NDArray[np.float32]:
    """Return how far a day `(24, 3)` went from its ordinary kind to a Sunday, `(3,)`."""
    hours = np.arange(HOURS_PER_DAY)
    ordinary, rest = (
        table.lookup(np.full(HOURS_PER_DAY, day), np.full(HOURS_PER_DAY, kind), hours)[..., count]
        for kind in (ordinary_class(days.weekday[[day]])[0], REST_DAY)
    )
    way, gone = ordinary - rest, ordinary - own
    known = np.isfinite(way + gone)
    went, whole = (np.where(known, way * other, 0.0).sum(axis=0) for other in (gone, way))
    share: NDArray[np.float32] = np.clip((PRIOR + went) / (PRIOR + whole), 0.0, DEEPEST).astype(np.float32)
    return share
