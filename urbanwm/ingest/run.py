"""New hours of one city or of many: gathered from their sources, merged into the lake, accounted for.

Killed at any moment it loses nothing: answers are archived before they are parsed, commits are atomic, pieces
are written oldest first, and the next run continues from what the lake holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial

from urbanwm.cities import City
from urbanwm.clock import Clock, utc_now
from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import DataUnavailable, LakeConflict
from urbanwm.ingest.gather import Progress, gather_city
from urbanwm.ingest.report import IngestReport
from urbanwm.ingest.store import Gathered, store
from urbanwm.lake import Lake, LakeReader
from urbanwm.settings import Settings
from urbanwm.stores import lake_of

Runner = Callable[[Callable[[City], Gathered], Sequence[City]], Iterable[Gathered]]
"""Calls a function for each city and returns the results in order: `map`, or that of a pool or a cluster."""


def city_now(city: City, lake: LakeReader, clock: Clock = utc_now) -> datetime:
    """Return where a city's future begins: the present hour, or the end of recorded or simulated data."""
    if not (city.replay or city.simulated):
        return city.now(clock(), None)
    ends = [last for name in TARGETS if (last := lake.last_timestamp(city.name, name)) is not None]
    last = max(ends) if ends else lake.last_timestamp(city.name)
    return city.now(clock(), None if last is None else last + timedelta(hours=1))


def ingest_city(
    city: City,
    settings: Settings,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    clock: Clock = utc_now,
    signals: list[str] | None = None,
    from_raw: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Bring a city up to date; one source failing is recorded and the others go on.

    Args:
        city: The city file.
        settings: Where the lake and the archive are; keys of the sources.
        start: First hour wanted, UTC; None continues from what the lake holds (see `plan.pieces`).
        end: End of the hours wanted, exclusive; None is the present hour (a recorded city: all it has).
        clock: Gives the present.
        signals: Only these signals.
        from_raw: Rebuild from the raw archive, without asking any source.
        progress: Told about each finished piece.

    Raises:
        BadInput: A time without zone, an empty window, or a signal that the city has no source for.
        DataUnavailable: Nothing new came, and the lake holds nothing of the city.
        LakeConflict: Other writers kept changing the lake.
    """
    gathered = gather_city(
        city,
        settings,
        start=start,
        end=end,
        clock=clock,
        signals=signals,
        from_raw=from_raw,
        progress=progress,
    )
    store([gathered], settings)
    if gathered.failure is not None:
        raise gathered.failure
    _close(gathered.report, lake_of(settings), clock)
    return gathered.report


def ingest_cities(
    cities: Sequence[City], settings: Settings, *, clock: Clock = utc_now, runner: Runner = map
) -> list[IngestReport]:
    """Bring many cities up to date with one merge for all of them; a city that fails leaves the others.

    Each city is gathered by itself, by whatever `runner` is: `map` one after the other,
    `ThreadPoolExecutor(8).map` in threads, or `lambda f, cities: client.gather(client.map(f, cities))` on a
    Dask cluster whose workers see the same lake and archive. The result does not depend on it.

    Args:
        cities: City files.
        settings: Where the lake and the archive are; keys of the sources.
        clock: Gives the present; must be picklable where the runner is another process.
        runner: How the cities are gathered.

    Returns:
        One report per city, in their order; `failure` says why a city as a whole came to nothing.
    """
    gathered = list(runner(partial(gather_city, settings=settings, clock=clock), cities))
    return merge_cities(gathered, settings, clock)


def merge_cities(
    gathered: Sequence[Gathered], settings: Settings, clock: Clock = utc_now
) -> list[IngestReport]:
    """Merge what was gathered somewhere else, in one commit, and close the reports; see `ingest_cities`."""
    lake = lake_of(settings)
    try:
        store(gathered, settings)
    except LakeConflict as error:
        for one in gathered:
            one.failure = one.failure or error
    for one in gathered:
        try:
            _close(one.report, lake, clock)
        except DataUnavailable as error:
            one.failure = one.failure or error
        if one.failure is not None:
            one.report.gave_up(one.failure)
    return [one.report for one in gathered]


def _close(report: IngestReport, lake: Lake, clock: Clock) -> None:
    """Complete the report from what the lake holds now.

    Raises:
        DataUnavailable: The lake holds nothing of the city.
    """
    report.version, report.last_timestamp = lake.version(), lake.last_timestamp(report.city)
    report.finished_at = clock()
    if report.last_timestamp is None:
        reasons = "; ".join(f"{e['source']} ({e['signal']}): {e['message']}" for e in report.errors)
        raise DataUnavailable(
            f"no data at all for {report.city}: {reasons or 'no source gave a value'}",
            field="city",
            value=report.city,
        )
