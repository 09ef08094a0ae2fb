"""One city's part of an ingest: its sources asked, archived raw and read, ready for the merge.

Many cities can be gathered at the same time, in threads or in processes on other machines; what comes of it
is merged once for all of them (`urbanwm.ingest.store`). Only a backfill, which has months to lose, is written
as it goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

import pandas as pd

from urbanwm.cities import City
from urbanwm.clock import Clock, floor_hour, require_utc, utc_now
from urbanwm.errors import BadInput, DataUnavailable, LakeConflict, NoData, SourceError, UrbanWMError
from urbanwm.ingest.intake import Intake, nothing
from urbanwm.ingest.plan import Entry, entries_of, pieces, unscaled
from urbanwm.ingest.raw_archive import Bounds, RawArchive, Receipt
from urbanwm.ingest.report import IngestReport
from urbanwm.ingest.store import Gathered, store
from urbanwm.settings import Settings
from urbanwm.sources.base import FetchContext, RawPayload, Window
from urbanwm.stores import lake_of

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` after each piece of work."""

ROWS_PER_FLUSH = 250_000
"""Observations held back for the common merge; a backfill is written whenever so many are ready."""
ROWS_BEFORE_REDUCTION = 1_000_000
"""Rows of one source that a rebuild holds before it reduces them to the source's present word."""
PIECES_OF_A_NIGHT = 2
"""The last days touch two months at most; more pieces are a backfill, and each month is written when done."""


def gather_city(
    city: City,
    settings: Settings,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    clock: Clock = utc_now,
    signals: list[str] | None = None,
    from_raw: bool = False,
    progress: Progress | None = None,
) -> Gathered:
    """Fetch, archive and read what is missing of a city; arguments as `ingest_city`.

    Safe to call for many cities at once, and to repeat. The result travels between processes.

    Returns:
        What is to be merged, and the report so far. A city that fails as a whole (its upstreams, the lake)
        carries its error in `failure`, with whatever it had gathered before.

    Raises:
        BadInput: A time without zone, an empty window, or a signal that the city has no source for.
    """
    start = None if start is None else floor_hour(require_utc(start, "start"))
    end = None if end is None else floor_hour(require_utc(end, "end"))
    if start is not None and end is not None and start >= end:
        raise BadInput("the window is empty", field="end", value=end.isoformat(), allowed=f"after {start}")
    entries = entries_of(city, signals)
    if end is None and city.simulated:
        # A simulated city grows by whole days: any number of runs on one day then gives one lake.
        end = city.day_start(clock())
    work = _Gathering(settings, clock, Gathered(city, IngestReport(city.name, clock())))
    try:
        if from_raw:
            work.replay(entries, start, end, progress)
        else:
            work.fetch(entries, start, end, progress)
    except (SourceError, DataUnavailable, LakeConflict) as error:
        work.found.failure = error
        work.found.report.gave_up(error)
    return work.found


@dataclass
class _Gathering:
    """One city's work: what it works with, and what it has found."""

    settings: Settings
    clock: Clock
    found: Gathered
    intake: Intake = field(init=False)
    archive: RawArchive = field(init=False)
    answers: dict[tuple[str, Window], list[RawPayload]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.city, self.report = self.found.city, self.found.report
        self.intake = Intake(self.city, lake_of(self.settings).pinned(), self.report)
        self.archive = RawArchive(self.settings.raw_dir)

    def fetch(
        self, entries: list[Entry], start: datetime | None, end: datetime | None, progress: Progress | None
    ) -> None:
        """Ask every source for its pieces."""
        now, lake = self.clock(), self.intake.lake
        plan = [(entry, pieces(entry, self.city, lake, self.settings, now, start, end)) for entry in entries]
        total, done = sum(len(windows) for _, windows in plan), 0
        for entry, windows in plan:
            for index, window in enumerate(windows):
                going_on = self._fetch_piece(entry, window)
                # A month of a backfill is safe before the next one is asked for.
                self._write_early(force=len(windows) > PIECES_OF_A_NIGHT)
                done += 1 if going_on else len(windows) - index
                if progress is not None:
                    progress(f"{entry.signal} from {entry.label}", done, total)
                if not going_on:
                    break

    def _fetch_piece(self, entry: Entry, window: Window) -> bool:
        """Fetch one window; return False when asking this source further is pointless."""
        bounds = (window.start, window.end)
        told: list[pd.DataFrame] = []
        going_on = True
        try:
            for raw in self._answers(entry, window):
                kept = self.archive.put(raw, self.city.name, entry.signal, entry.label, bounds)
                rows, forecasts = self.intake.read(raw, entry, bounds, kept.received_at)
                told.append(rows)
                self.found.forecasts.append(forecasts)
        except NoData as error:
            self.report.failed(entry.label, entry.signal, error)
        except UrbanWMError as error:
            if isinstance(error, DataUnavailable) or error.exit_code == 1:
                raise
            self.report.failed(entry.label, entry.signal, error)
            going_on = False
        rows = self.intake.checked(entry, told)
        self.found.observations.append(self.intake.accepted(entry, rows, self.intake.stored(entry, rows)))
        return going_on

    def _answers(self, entry: Entry, window: Window) -> Iterable[RawPayload]:
        """Return a source's answers; fetched once for all signals where one answer holds them all."""
        ctx = FetchContext(self.city, entry.config, entry.signal, window, self.settings, self.clock)
        if not entry.module.TRAITS.one_answer:
            return entry.module.fetch(ctx)
        key = (entry.config.model_dump_json(), window)
        if key not in self.answers:
            self.answers[key] = list(entry.module.fetch(ctx))
        return self.answers[key]

    def replay(
        self, entries: list[Entry], start: datetime | None, end: datetime | None, progress: Progress | None
    ) -> None:
        """Read the archived answers of the city in the order in which they came."""
        known = _ByLabel(entries_of(self.city))
        told: dict[Entry, list[pd.DataFrame]] = {entry: [] for entry in entries}
        for receipt in self.archive.receipts(self.city.name):
            entry = known.entry(receipt)
            if entry is None:
                self.report.count("dropped", receipt.label, Counter(not_in_city_file=1))
            if entry is None or entry not in told:
                continue
            bounds = _narrower(receipt.window, (start, end))
            try:
                rows, forecasts = self.intake.read(receipt.raw, entry, bounds, receipt.raw.fetched_at)
            except UrbanWMError as error:
                if error.exit_code == 1:
                    raise
                self.report.failed(entry.label, entry.signal, error)
                continue
            told[entry].append(rows)
            self.found.forecasts.append(forecasts)
            if sum(map(len, told[entry])) > ROWS_BEFORE_REDUCTION:
                told[entry] = [self.intake.reduced(entry, told[entry])]
            self._write_early(force=False)
        for done, entry in enumerate(entries, 1):
            rows = self.intake.checked(entry, told[entry])
            self.found.observations.append(self.intake.accepted(entry, rows, nothing()))
            self._write_early(force=False)
            if progress is not None:
                progress(f"{entry.signal} from {entry.label}", done, len(told))

    def _write_early(self, *, force: bool) -> None:
        """Write what has been found, if it is worth a commit of its own."""
        if force or self.found.rows() >= ROWS_PER_FLUSH:
            store([self.found], self.settings)
            self.intake.lake = lake_of(self.settings).pinned()


class _ByLabel:
    """Finds who asked for an archived answer, also where the city's share of the zone has changed since."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._exact = {(entry.signal, entry.label): entry for entry in entries}
        self._unscaled = {(signal, unscaled(label)): entry for (signal, label), entry in self._exact.items()}

    def entry(self, receipt: Receipt) -> Entry | None:
        """Return the entry that an answer belongs to; None when the city file has it no more."""
        exact = self._exact.get((receipt.signal, receipt.label))
        return exact or self._unscaled.get((receipt.signal, unscaled(receipt.label)))


def _narrower(one: Bounds, other: Bounds) -> Bounds:
    """Return the intersection of two windows."""
    starts = [moment for moment in (one[0], other[0]) if moment is not None]
    ends = [moment for moment in (one[1], other[1]) if moment is not None]
    return max(starts, default=None), min(ends, default=None)
