"""Similar-day means: what this hour looked like on the last days of the same kind.

A table per day class holds, for every number of days seen so far, the mean of the last k of them at each
local hour. A look-up needs the cut-off day, the class of the target day and its hour, so any origin and lead
costs one indexing operation and no day on or after the cut-off can enter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from urbanwm.features.calendar import HOURS_PER_DAY


@dataclass(frozen=True)
class SimilarDayTable:
    """Trailing means per day class.

    Attributes:
        rows: `(D + classes, 24, signal, count)` float32; NaN where none of those days has a value.
        first_row: `(classes,)` row of each class at which no day has been seen.
        seen: `(D + 1, classes)` days of each class strictly before each cut-off day.
    """

    rows: NDArray[np.float32]
    first_row: NDArray[np.int64]
    seen: NDArray[np.int64]

    def lookup(
        self, cutoff_day: NDArray[np.int64], day_class: NDArray[np.int64], hour: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return `(..., signal, count)` for target hours of `day_class` from days before `cutoff_day`."""
        found: NDArray[np.float32] = self.rows[
            self.first_row[day_class] + self.seen[cutoff_day, day_class], hour
        ]
        return found


def day_table(
    values: NDArray[np.float32], day: NDArray[np.int64], hour: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Lay hourly values `(N, signal)` out as `(D, 24, signal)`; NaN where the local hour does not exist.

    Of the local hour that occurs twice in autumn the second is kept.
    """
    table = np.full((int(day[-1]) + 1, HOURS_PER_DAY, values.shape[1]), np.nan)
    table[day, hour] = values
    return table


def build_table(
    values: NDArray[np.float64], day_class: NDArray[np.int64], classes: int, counts: Sequence[int]
) -> SimilarDayTable:
    """Build the trailing means of the last `counts` days of each class, ignoring missing values.

    Args:
        values: `(D, 24, signal)`, NaN = missing.
        day_class: `(D,)` class of each day, 0 to `classes` - 1.
        classes: Number of classes.
        counts: Numbers of days, smallest first; where the last k days hold no value, the next longer count
            stands in, and for the longest all days before: only an hour never seen in a class stays NaN.
    """
    days, _, signals = values.shape
    rows = np.empty((days + classes, HOURS_PER_DAY, signals, len(counts)), dtype=np.float32)
    first_row = np.zeros(classes, dtype=np.int64)
    seen = np.zeros((days + 1, classes), dtype=np.int64)
    start = 0
    for klass in range(classes):
        member = day_class == klass
        seen[1:, klass] = np.cumsum(member)
        first_row[klass] = start
        block = values[member]
        stop = start + len(block) + 1
        rows[start:stop] = _trailing_means(block, counts)
        start = stop
    return SimilarDayTable(rows, first_row, seen)


def _trailing_means(values: NDArray[np.float64], counts: Sequence[int]) -> NDArray[np.float32]:
    """Return `(n + 1, 24, signal, count)`: row i = means over the last k of the first i days."""
    present = ~np.isnan(values)
    zero = np.zeros((1, *values.shape[1:]))
    total = np.concatenate([zero, np.cumsum(np.where(present, values, 0.0), axis=0)])
    number = np.concatenate([zero, np.cumsum(present, axis=0)])
    means = np.empty((*total.shape, len(counts)), dtype=np.float32)
    longer = np.where(number > 0, total / np.maximum(number, 1.0), np.nan)
    # Longest first, so that a gap in the last k days is bridged by the longer mean.
    for position in range(len(counts) - 1, -1, -1):
        earlier = np.maximum(np.arange(len(total)) - counts[position], 0)
        n = number - number[earlier]
        mean = (total - total[earlier]) / np.maximum(n, 1.0)
        longer = np.where(n > 0, mean, longer)
        means[..., position] = longer
    return means
