"""From single upstream values to the rows of `Parsed`: hourly means, ranges, futures, duplicates."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import pandas as pd

from urbanwm.clock import floor_hour
from urbanwm.contracts.signals import SIGNALS
from urbanwm.contracts.tables import UTC_MICROSECONDS, empty_rows
from urbanwm.errors import NoData
from urbanwm.sources.base import ParseContext, Parsed, RawPayload, Window
from urbanwm.sources.rows import parsed_rows

HOUR = timedelta(hours=1)
# Below this share of its sub-hour data an hourly mean does not stand for the hour.
COVERAGE_MIN = 0.75
# Values older than this when fetched come from a backfill: they were public long before we asked for them.
BACKFILL_AGE = timedelta(days=7)
# A type that makes less than this part of the generation may be missing from an hour.
NEGLIGIBLE_PART = 0.01

_Rows = dict[tuple[datetime, str], tuple[float, str]]


class Sample(NamedTuple):
    """One upstream value: it holds from `start` (UTC) for `length`; `flags` say what is special about it."""

    start: datetime
    length: timedelta
    value: float
    flags: tuple[str, ...] = ()


class HourMean(NamedTuple):
    """The time-weighted mean of an hour, the share of it that has values (0 to 1), and all their flags."""

    value: float
    coverage: float
    flags: tuple[str, ...]


def hourly_means(samples: Iterable[Sample]) -> dict[datetime, HourMean]:
    """Average samples, whose starts are distinct, into hours, weighted by time.

    A mean power in MW over an hour is the energy of that hour in MWh, whatever the samples' length.
    A sample longer than an hour, or across a full hour, is shared between the hours it touches.
    """
    weighted: dict[datetime, float] = defaultdict(float)
    covered: dict[datetime, float] = defaultdict(float)
    flags: dict[datetime, dict[str, None]] = defaultdict(dict)  # an ordered set
    for sample in samples:
        for hour, share in _shares(sample):
            weighted[hour] += sample.value * share
            covered[hour] += share
            flags[hour].update(dict.fromkeys(sample.flags))
    return {
        hour: HourMean(weighted[hour] / covered[hour], covered[hour], tuple(flags[hour]))
        for hour in sorted(covered)
    }


def _shares(sample: Sample) -> Iterator[tuple[datetime, float]]:
    """Yield each hour that a sample touches with the share of that hour it fills."""
    end = sample.start + sample.length
    hour = floor_hour(sample.start)
    while hour < end:
        overlap = min(end, hour + HOUR) - max(sample.start, hour)
        yield hour, overlap / HOUR
        hour += HOUR


@dataclass
class RowCollector:
    """Collects one payload's rows under the rules that hold for every source.

    A signal that was not asked for is passed over. Dropped and counted are: a value outside its physical
    range, a value for an hour that has not begun, and all but the last of several values for the same hour.

    Attributes:
        raw: The payload; `fetched_at` decides what lies in the future.
        ctx: What was asked for.
        latency: How long after the end of an hour the upstream publishes it, for backfills.
        keep_future: Whether values for hours to come are forecasts worth keeping apart, instead of errors.
    """

    raw: RawPayload
    ctx: ParseContext
    latency: timedelta
    keep_future: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    notes: dict[str, str] = field(default_factory=dict)
    next_page: str | None = None
    _rows: _Rows = field(default_factory=dict)
    _forecasts: _Rows = field(default_factory=dict)

    def wants(self, signal: str) -> bool:
        """Return whether a signal was asked for."""
        return self.ctx.signal in (None, signal)

    def add(
        self, hour: datetime, signal: str, value: float, *flags: str, valid_at: datetime | None = None
    ) -> None:
        """Take one value of an hour (its start, UTC).

        Args:
            hour: Start of the hour.
            signal: Name in the vocabulary.
            value: In the vocabulary's unit.
            flags: What is special about it.
            valid_at: The moment after which the value can have been observed; default: the hour's start.
        """
        if not self.wants(signal):
            return
        limits = SIGNALS[signal]
        if not limits.minimum <= value <= limits.highest:
            self.dropped["out_of_range"] += 1
            return
        future = (valid_at or hour) > self.raw.fetched_at
        if future and not self.keep_future:
            self.dropped["future"] += 1
            return
        target = self._forecasts if future else self._rows
        if (hour, signal) in target:
            self.dropped["duplicate"] += 1
        target[(hour, signal)] = (value, ",".join((*flags, "forecast") if future else flags))

    def distinct(self, samples: Iterable[Sample]) -> list[Sample]:
        """Return the samples with each start once, the last one of it; the others are counted."""
        every = list(samples)
        latest = {sample.start: sample for sample in every}
        if len(latest) < len(every):
            self.dropped["duplicate"] += len(every) - len(latest)
        return list(latest.values())

    def add_means(self, samples: Iterable[Sample], signal: str, *flags: str, scale: float = 1.0) -> None:
        """Take the hourly means of samples times `scale`; an hour with too few of them is counted."""
        if not self.wants(signal):
            return
        for hour, mean in hourly_means(self.distinct(samples)).items():
            if mean.coverage < COVERAGE_MIN:
                self.dropped["incomplete_hour"] += 1
            else:
                self.add(hour, signal, mean.value * scale, *flags, *mean.flags)

    def parsed(self) -> Parsed:
        """Return what was collected.

        Raises:
            NoData: Nothing was kept and nothing was dropped: the answer is valid and empty.
        """
        if not self._rows and not self._forecasts and not self.dropped:
            wanted = f" for {self.ctx.signal}" if self.ctx.signal else ""
            raise NoData(f"{self.raw.source}: the answer holds no values{wanted}", source=self.raw.source)
        return Parsed(
            rows=self._frame(self._rows),
            dropped=self.dropped,
            next_page=self.next_page,
            notes=self.notes,
            forecast_rows=self._frame(self._forecasts),
        )

    def _frame(self, rows: _Rows) -> pd.DataFrame:
        """Return rows as the contract's table, in order of time and signal."""
        if not rows:
            return empty_rows()
        ordered = sorted(rows.items())
        hours = [hour for (hour, _), _ in ordered]
        return parsed_rows(
            pd.DatetimeIndex(hours),
            [signal for (_, signal), _ in ordered],
            [value for _, (value, _) in ordered],
            pd.DatetimeIndex([self._available_at(hour) for hour in hours], dtype=UTC_MICROSECONDS),
            [flags for _, (_, flags) in ordered],
        )

    def _available_at(self, hour: datetime) -> datetime | None:
        """Return when a backfilled hour became public; None for a live one (known when fetched)."""
        if self.raw.fetched_at - hour < BACKFILL_AGE:
            return None
        return hour + HOUR + self.latency


def considerable_types(hours: Iterable[Mapping[str, float]]) -> set[str]:
    """Return the types that make a considerable part of all generation: an hour without one is incomplete.

    Args:
        hours: Generation per type of each hour, not negative, in one unit.
    """
    totals: dict[str, float] = defaultdict(float)
    for generation in hours:
        for name, value in generation.items():
            totals[name] += value
    whole = sum(totals.values())
    return {name for name, total in totals.items() if total > NEGLIGIBLE_PART * whole}


def chunks(window: Window, longest: timedelta) -> Iterator[Window]:
    """Cut a window into consecutive pieces of at most `longest`."""
    start = window.start
    while start < window.end:
        end = min(start + longest, window.end)
        yield Window(start, end)
        start = end
