"""What to ask each source for: the hours that are missing, in pieces that can be resumed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pandas as pd

from urbanwm.cities import City
from urbanwm.clock import floor_hour
from urbanwm.contracts.signals import nearest_name
from urbanwm.errors import BadInput, DataUnavailable
from urbanwm.lake import Lake
from urbanwm.settings import Settings
from urbanwm.sources.base import SourceConfig, Window

LIVE_SOURCES = frozenset({"waqi", "tomtom"})
"""They give the present hour only, whatever window is asked for."""
WHOLE_RECORD_SOURCES = frozenset({"file"})
"""They are read whole at no cost, so corrections of any age are found."""
SHARED_ANSWERS = frozenset({"waqi", "synthetic"})
"""One answer of these holds every signal: it is fetched once for all entries that ask the same."""
LOCAL_SOURCES = frozenset({"file", "synthetic"})
LOOK_BACK = timedelta(hours=72)
"""Upstreams correct their last days; these hours are always asked for again."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Entry:
    """One source of one signal; `place` 0 is the most preferred."""

    signal: str
    config: SourceConfig
    place: int

    @property
    def label(self) -> str:
        """Provenance label of its values."""
        return self.config.label


def entries_of(city: City, signals: list[str] | None = None) -> list[Entry]:
    """Return the sources of a city in the order of its file.

    Raises:
        BadInput: The city has no source for one of `signals`; the nearest name is given.
    """
    for name in signals or []:
        if name not in city.signals:
            close = nearest_name(name, city.signals)
            hint = f"; did you mean '{close}'?" if close else ""
            raise BadInput(
                f"{city.name} has no source for '{name}'{hint}",
                field="signals",
                value=name,
                allowed=list(city.signals),
            )
    return [
        Entry(signal, config, place)
        for signal, configs in city.signals.items()
        if signals is None or signal in signals
        for place, config in enumerate(configs)
    ]


def pieces(
    entry: Entry,
    city: City,
    lake: Lake,
    settings: Settings,
    now: datetime,
    start: datetime | None,
    end: datetime | None,
) -> list[Window]:
    """Return the windows to ask one source for, oldest first.

    Without `start`: everything a file has; else from 72 h before the last hour that this source or a better
    one covers; for a signal without data, `history_days` back. With `start`: only months in which hours are
    missing, and the last 72 h. Upstreams are asked month by month, so that a backfill can be resumed.
    """
    kind = entry.config.source
    present = floor_hour(now)
    latest = present if end is None and kind not in LIVE_SOURCES else present + HOUR
    until = latest if end is None else min(end, latest)
    if kind in LIVE_SOURCES:
        since = start or EPOCH
        return [Window(since, until)] if since <= present < until else []
    if kind in WHOLE_RECORD_SOURCES:
        since = start or EPOCH
        return [Window(since, until)] if since < until else []
    trusted = [config.label for config in city.signals[entry.signal][: entry.place + 1]]
    if start is None:
        last = lake.last_timestamp(city.name, entry.signal, trusted)
        since = until - timedelta(days=settings.history_days) if last is None else last - LOOK_BACK
        since = min(since, until)
    else:
        since = start
    if since >= until:
        return []
    if kind in LOCAL_SOURCES:
        return [Window(since, until)]
    months = _months(Window(since, until))
    if start is None:
        return months
    return _incomplete(months, entry.signal, trusted, city.name, lake, present - LOOK_BACK)


def _months(window: Window) -> list[Window]:
    """Cut a window at the first hour of each month, UTC."""
    cuts = pd.date_range(window.start, window.end, freq="MS", normalize=True, tz="UTC")
    inner = [cut.to_pydatetime() for cut in cuts if window.start < cut < window.end]
    edges = [window.start, *inner, window.end]
    return [Window(first, last) for first, last in pairwise(edges)]


def _incomplete(
    months: list[Window], signal: str, trusted: list[str], city: str, lake: Lake, settled: datetime
) -> list[Window]:
    """Leave out, and narrow, months whose hours are there already; hours after `settled` are asked again."""
    try:
        stored = lake.read_provenance(city, start=months[0].start, end=months[-1].end, signals=[signal])
    except DataUnavailable:
        return months
    there = pd.DatetimeIndex(stored.loc[stored["source"].isin(trusted), "timestamp"])
    narrowed = []
    for month in months:
        hours = pd.date_range(month.start, month.end, freq="h", inclusive="left")
        missing = hours[~hours.isin(there) | (hours >= settled)]
        if len(missing):
            narrowed.append(Window(missing[0].to_pydatetime(), missing[-1].to_pydatetime() + HOUR))
    return narrowed
