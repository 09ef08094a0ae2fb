"""What the past of the targets says about an hour: last week, similar days, and the last hours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from urbanwm.features.calendar import DAY_CLASSES, HOURS_PER_DAY, REST_DAY, SUNDAY, LocalDays
from urbanwm.features.holiday_depth import holiday_depth, ordinary_class
from urbanwm.features.names import DIRECT_NAMES, RECENT, SIMILAR_DAYS, SPREAD
from urbanwm.features.similar_day import SimilarDayTable, build_table, day_table
from urbanwm.features.trailing import trailing_mean

DAYS_PER_WEEK = 7
HOLIDAY_COUNT = 8
"""Days of a kind whose mean a holiday is compared with."""
PARTITIONS: tuple[str, ...] = tuple(dict.fromkeys(partition for _, partition, _ in SIMILAR_DAYS))
# Order in which one seasonal mean stands in for another that does not exist.
_COLUMN = {name: 1 + i for i, name in enumerate(name for name, _, _ in SIMILAR_DAYS)}
_STAND_INS: tuple[tuple[str, str], ...] = (
    ("recent_1", "recent_7"),
    ("recent_7", "similar_60"),
    ("similar_60", "recent_7"),
    ("similar_8", "similar_60"),
    ("similar_3", "similar_8"),
    ("similar_1", "similar_3"),
    ("weekday_4", "similar_3"),
    ("weekday_1", "weekday_4"),
)
SMALLEST_ERROR = 1e-2
"""Added to an error, in normalised units, before its logarithm: a lucky hit is no evidence of precision."""
_RECENT_DECAY_HOURS = np.array([decay for *_, decay in RECENT], dtype=np.float32)


@dataclass(frozen=True)
class SeasonalMeans:
    """Last week's value and the similar-day means of the three targets, for any hour and any cut-off.

    Attributes:
        days: The grid in local time.
        values: `(N, 3)` normalised targets, NaN = missing.
        tables: Similar-day tables per partition of the days.
        classes: `(D,)` class of each day per partition.
        ordinary: The same were there no holidays.
        depth: `(D, 3)` how far a holiday is of its class, and not of its ordinary one (`holiday_depth`).
        last_week: `(N,)` grid position of the same local hour a week earlier, -1 = before the grid.
    """

    days: LocalDays
    values: NDArray[np.float32]
    tables: dict[str, SimilarDayTable]
    classes: dict[str, NDArray[np.int64]]
    ordinary: dict[str, NDArray[np.int64]]
    depth: NDArray[np.float32]
    last_week: NDArray[np.int64]

    def lookup(
        self, hours: NDArray[np.int64], cutoff_day: NDArray[np.int64], origin: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the means `(..., 3, 1 + means)` and flags `(..., 3)`, 1.0 where none exists and 0 stands.

        Args:
            hours: Grid positions `(...)`.
            cutoff_day: Similar days lie before this local day; broadcast against `hours`.
            origin: Last week's value lies before this grid position; broadcast against `hours`.
        """
        day, hour = self.days.day[hours], self.days.hour[hours]
        cutoff = np.broadcast_to(cutoff_day, day.shape)
        similar = self._similar(self.classes, cutoff, day, hour)
        uneven = (self.depth != 1.0).any(axis=-1)[day]
        if uneven.any():
            ordinary = self._similar(self.ordinary, cutoff[uneven], day[uneven], hour[uneven])
            depth = self.depth[day[uneven]][..., None]
            between = ordinary + depth * (similar[uneven] - ordinary)
            similar[uneven] = np.where(np.isnan(between), similar[uneven], between)
        means = np.concatenate([self._last_week(hours, origin)[..., None], similar], axis=-1)
        missing = _fill(means)
        return means, missing

    def _similar(
        self,
        classes: dict[str, NDArray[np.int64]],
        cutoff: NDArray[np.int64],
        day: NDArray[np.int64],
        hour: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return the similar-day means `(..., 3, means)` of hours of days of these classes."""
        found = [table.lookup(cutoff, classes[name][day], hour) for name, table in self.tables.items()]
        return np.concatenate(found, axis=-1)

    def _last_week(self, hours: NDArray[np.int64], origin: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the value of the same local hour a week earlier, NaN where it is not comparable or unknown.

        After a holiday week "last week" is the wrong kind of day; the similar day stands in.
        """
        source = self.last_week[hours]
        klass = self.classes["class"]
        comparable = klass[self.days.day[source]] == klass[self.days.day[hours]]
        usable = (source >= 0) & (source < origin) & comparable
        return np.where(usable[..., None], self.values[source], np.float32(np.nan))


@dataclass(frozen=True)
class SeasonalHistory:
    """Seasonal predictions `(..., 3, J)` of the targets: the means, then what the last hours add.

    Attributes:
        means: Look-up of the means.
        recent: `(N, 3, len(RECENT))` levels and deviations just before each hour.
        spread: `(N, 3, len(SPREAD))` logarithm of the usual size of the deviations just before each hour.
        level: `(N, 3)` the targets; where one is missing, what similar days had.
    """

    means: SeasonalMeans
    recent: NDArray[np.float32]
    spread: NDArray[np.float32]
    level: NDArray[np.float32]

    def ahead(
        self, hours: NDArray[np.int64], origins: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return predictions `(B, T, 3, J)` and flags `(B, T, 3)`, 1.0 where no history exists and 0 stands.

        Only values before an hour's origin enter; similar-day means end before the origin's local day.

        Args:
            hours: `(B, T)` grid positions.
            origins: Grid position of the first hour unknown to each; broadcast against `hours`.
        """
        origins = np.broadcast_to(origins, hours.shape)
        means, missing = self.means.lookup(hours, self.means.days.day[origins], origins)
        lead = (hours - origins).astype(np.float32)
        decay = np.exp(-lead[..., None] / _RECENT_DECAY_HOURS)
        recent = self.recent[origins] * decay[..., None, :]
        return _with_direct_columns(means, recent, self.spread[origins]), missing

    def before(self, origins: NDArray[np.int64], target: int, hours: int) -> NDArray[np.float32]:
        """Return a target's last `hours` levels before each origin, newest first, `(..., hours)`.

        Before the grid begins its first level stands.
        """
        return self.level[np.maximum(origins[..., None] - 1 - np.arange(hours), 0), target]


def build_history(values: NDArray[np.float32], days: LocalDays) -> SeasonalHistory:
    """Build every table once for a grid.

    Args:
        values: `(N, 3)` normalised targets, NaN = missing.
        days: The same grid in local time.
    """
    by_day = day_table(values, days.day, days.hour)
    rest = days.day_class == REST_DAY
    classes = {
        "class": days.day_class,
        "weekday": np.where(rest, SUNDAY, days.weekday),
        "any": np.zeros_like(days.weekday),
    }
    sizes = {"class": DAY_CLASSES, "weekday": DAYS_PER_WEEK, "any": 1}
    counts = {name: [k for _, part, k in SIMILAR_DAYS if part == name] for name in PARTITIONS}
    tables = {name: build_table(by_day, classes[name], sizes[name], counts[name]) for name in PARTITIONS}
    ordinary = classes | {"class": ordinary_class(days.weekday), "weekday": days.weekday}
    depth = holiday_depth(by_day, days, tables["class"], counts["class"].index(HOLIDAY_COUNT))
    # Without the calendar's features, which are a twelfth of a city's memory and of no use here.
    places = replace(days, features=np.empty((len(days.features), 0), np.float32))
    lookup = SeasonalMeans(places, values, tables, classes, ordinary, depth, _last_week_positions(days))
    means, missing = lookup.lookup(np.arange(len(values)), days.day, np.arange(len(values)))
    known = np.where(missing[..., None] > 0, np.float32(np.nan), means)
    expected = known[..., _COLUMN["similar_8"]]
    # A level of 0 would claim the year's mean: a silent hour had what similar days had.
    level = np.where(np.isnan(values), expected, values)
    return SeasonalHistory(
        lookup, _recent(values, known, level), _spread(values, expected), np.nan_to_num(level, nan=0.0)
    )


def _with_direct_columns(*parts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Join the predictions, and make room for those of the direct forecast, which is fitted on these."""
    empty = np.zeros((*parts[0].shape[:-1], len(DIRECT_NAMES)), dtype=np.float32)
    return np.concatenate([*parts, empty], axis=-1)


def _last_week_positions(days: LocalDays) -> NDArray[np.int64]:
    """Return the grid position of the same local hour seven days earlier, -1 where there is none."""
    position = np.full((int(days.day[-1]) + 1 + DAYS_PER_WEEK, HOURS_PER_DAY), -1, dtype=np.int64)
    position[days.day + DAYS_PER_WEEK, days.hour] = np.arange(len(days.day))
    return position[days.day, days.hour]


def _fill(means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Let wider means stand in for missing ones, in place; return the flags `(..., 3)` of what has none."""
    for name, stand_in in _STAND_INS:
        column = means[..., _COLUMN[name]]
        np.copyto(column, means[..., _COLUMN[stand_in]], where=np.isnan(column))
    last_week = means[..., 0]
    np.copyto(last_week, means[..., _COLUMN["similar_1"]], where=np.isnan(last_week))
    missing = np.isnan(last_week)
    means[missing] = 0.0
    return missing.astype(np.float32)


def _recent(
    values: NDArray[np.float32], means: NDArray[np.float32], level: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return `(N, 3, len(RECENT))`: levels just before each hour, and deviations from similar days.

    Args:
        values: `(N, 3)`, NaN = missing.
        means: `(N, 3, 1 + means)`, each hour as known at the start of its local day, NaN = no history.
        level: `(N, 3)` the values, similar days' where one is missing.
    """
    recent = np.empty((*values.shape, len(RECENT)), dtype=np.float32)
    for compared in dict.fromkeys(expectation for _, expectation, *_ in RECENT):
        columns = [i for i, (_, expectation, *_) in enumerate(RECENT) if expectation == compared]
        deviation = level if compared is None else values - means[..., _COLUMN[compared]]
        recent[..., columns] = trailing_mean(deviation, [RECENT[i][2] for i in columns])
    return recent


def _spread(values: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `(N, 3, len(SPREAD))`: log of the mean |value - similar days| just before; 0 where unknown."""
    size = np.abs(values - expected)
    spans = [span for _, span in SPREAD]
    seen = trailing_mean(np.where(np.isnan(size), size, np.float32(1.0)), spans) > 0
    logarithm = np.log(trailing_mean(size, spans) + np.float32(SMALLEST_ERROR))
    return np.where(seen, logarithm, np.float32(0.0))
