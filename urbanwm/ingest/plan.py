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
from urbanwm.lake import LakeReader
from urbanwm.settings import Settings
from urbanwm.sources import source_module
from urbanwm.sources.base import Source, SourceConfig, Window

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

    @property
    def module(self) -> Source:
        """The source that answers."""
        return source_module(self.config.source)


def unscaled(label: str) -> str:
    """Return a provenance label without the city's share of the zone, `energy_charts:es*0.1`."""
    return label.partition("*")[0]


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
    lake: LakeReader,
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
    traits = entry.module.TRAITS
    present = floor_hour(now)
    latest = present if end is None and not traits.live else present + HOUR
    until = latest if end is None else min(end, latest)
    if traits.live:
        since = start or EPOCH
        return [Window(since, until)] if since <= present < until else []
    if traits.whole_record:
        since = start or EPOCH
        return [Window(since, until)] if since < until else []
    trusted = [config.label for config in city.signals[entry.signal][: entry.place + 1]]
    since = min(start or _continued(entry, trusted, city, lake, settings, until), until)
    if since >= until:
        return []
    if traits.local:
        return [Window(since, until)]
    months = _months(Window(since, until))
    if start is None:
        return months
    return _incomplete(months, entry.signal, trusted, city.name, lake, present - LOOK_BACK)


def _continued(
    entry: Entry, trusted: list[str], city: City, lake: LakeReader, settings: Settings, until: datetime
) -> datetime:
    """Return where a source is taken up again: some days before the end of what is known from it.

    Hours that were stored with another share of the zone are all asked for again, so that a record never
    changes its scale half way. Their months are written oldest first: the last of them ends the search.
    """
    last = lake.last_timestamp(city.name, entry.signal, trusted)
    beginning = until - timedelta(days=settings.history_days) if last is None else last - LOOK_BACK
    if not hasattr(entry.config, "share"):
        return beginning
    newest = lake.last_timestamp(city.name, entry.signal)
    stored = [] if newest is None else lake.labels(city.name, entry.signal, start=newest - LOOK_BACK)
    other_share = [
        label for label in stored if label not in trusted and unscaled(label) == unscaled(entry.label)
    ]
    first = lake.first_timestamp(city.name, entry.signal, other_share) if other_share else None
    return beginning if first is None else min(beginning, first)


def _months(window: Window) -> list[Window]:
    """Cut a window at the first hour of each month, UTC."""
    cuts = pd.date_range(window.start, window.end, freq="MS", normalize=True, tz="UTC")
    inner = [cut.to_pydatetime() for cut in cuts if window.start < cut < window.end]
    edges = [window.start, *inner, window.end]
    return [Window(first, last) for first, last in pairwise(edges)]


def _incomplete(
    months: list[Window], signal: str, trusted: list[str], city: str, lake: LakeReader, settled: datetime
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
