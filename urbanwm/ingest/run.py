"""One city's new hours: fetched, archived raw, parsed, checked, merged into the lake.

Killed at any moment it loses nothing: answers are archived before they are parsed, commits are atomic, pieces
are written oldest first, and the next run continues from what the lake holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pandas as pd

from urbanwm.cities import City
from urbanwm.clock import Clock, floor_hour, require_utc, utc_now
from urbanwm.contracts.signals import TARGETS
from urbanwm.contracts.tables import (
    BATCH_COLUMNS,
    PARSED,
    PARSED_COLUMNS,
    UTC_MICROSECONDS,
    empty_rows,
    validate,
)
from urbanwm.errors import BadInput, DataUnavailable, NoData, UrbanWMError
from urbanwm.ingest.availability import news, settle
from urbanwm.ingest.plan import SHARED_ANSWERS, Entry, entries_of, pieces
from urbanwm.ingest.raw_archive import Bounds, RawArchive
from urbanwm.ingest.report import IngestReport
from urbanwm.lake import Lake
from urbanwm.quality import CONTEXT_DAYS, check_points, check_series
from urbanwm.settings import Settings
from urbanwm.sources import source_module
from urbanwm.sources.base import FetchContext, ParseContext, RawPayload, Window

__all__ = ["IngestReport", "Progress", "city_now", "ingest_city"]

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` after each piece of work."""

ROWS_PER_FLUSH = 250_000
"""Observations held back so that a night is one commit; a backfill is written whenever so many are ready."""
ROWS_BEFORE_REDUCTION = 1_000_000
"""Rows of one source that a rebuild holds before it reduces them to the source's present word."""
ANSWER_COLUMNS = ("fetched_at", "wanted_from", "wanted_until")


def city_now(city: City, lake: Lake, clock: Clock = utc_now) -> datetime:
    """Return where a city's future begins: the present hour, or the end of recorded or simulated data."""
    if city.replay or city.simulated:
        ends = [last for name in TARGETS if (last := lake.last_timestamp(city.name, name)) is not None]
        last = max(ends) if ends else lake.last_timestamp(city.name)
        if last is not None:
            return last + timedelta(hours=1)
    return floor_hour(clock())


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
        start: First hour wanted, UTC; None continues from what the lake holds (see `ingest_plan.pieces`).
        end: End of the hours wanted, exclusive; None is the present hour (a recorded city: all it has).
        clock: Gives the present.
        signals: Only these signals.
        from_raw: Rebuild from the raw archive, without asking any source.
        progress: Told about each finished piece.

    Raises:
        BadInput: A time without zone, an empty window, or a signal that the city has no source for.
        DataUnavailable: Nothing new came, and the lake holds nothing of the city.
    """
    start = None if start is None else floor_hour(require_utc(start, "start"))
    end = None if end is None else floor_hour(require_utc(end, "end"))
    if start is not None and end is not None and start >= end:
        raise BadInput("the window is empty", field="end", value=end.isoformat(), allowed=f"after {start}")
    entries = entries_of(city, signals)
    if end is None and city.simulated:
        end = _local_midnight(city, clock())
    run = _Run(city, settings, clock, IngestReport(city.name, clock()))
    if from_raw:
        run.replay(entries, start, end, progress)
    else:
        run.fetch(entries, start, end, progress)
    report = run.report
    report.version, report.last_timestamp = run.lake.version(), run.lake.last_timestamp(city.name)
    report.finished_at = clock()
    if report.last_timestamp is None:
        reasons = "; ".join(f"{e['source']} ({e['signal']}): {e['message']}" for e in report.errors)
        raise DataUnavailable(
            f"no data at all for {city.name}: {reasons or 'no source gave a value'}",
            field="city",
            value=city.name,
        )
    return report


def _local_midnight(city: City, now: datetime) -> datetime:
    """Return the start of the present local day: a simulated city grows by whole days.

    Any number of runs on one day then gives one lake, and nothing pretends to be live.
    """
    return now.astimezone(city.zone).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)


@dataclass
class _Run:
    """One ingest: what it works with, what it has collected, and its account."""

    city: City
    settings: Settings
    clock: Clock
    report: IngestReport
    lake: Lake = field(init=False)
    archive: RawArchive = field(init=False)
    pending: list[pd.DataFrame] = field(default_factory=list)
    answers: dict[tuple[str, Window], list[RawPayload]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lake = Lake(self.settings.lake_uri, self.settings.storage_options)
        self.archive = RawArchive(self.settings.raw_dir)

    def fetch(
        self, entries: list[Entry], start: datetime | None, end: datetime | None, progress: Progress | None
    ) -> None:
        """Ask every source for its pieces."""
        now = self.clock()
        plan = [
            (entry, pieces(entry, self.city, self.lake, self.settings, now, start, end)) for entry in entries
        ]
        total, done = sum(len(windows) for _, windows in plan), 0
        for entry, windows in plan:
            for index, window in enumerate(windows):
                going_on = self._fetch_piece(entry, window)
                # A month of a backfill is safe before the next one is asked for.
                self._flush(force=len(windows) > 1)
                done += 1 if going_on else len(windows) - index
                if progress is not None:
                    progress(f"{entry.signal} from {entry.label}", done, total)
                if not going_on:
                    break
        self._flush(force=True)

    def _fetch_piece(self, entry: Entry, window: Window) -> bool:
        """Fetch one window; return False when asking this source further is pointless."""
        bounds = (window.start, window.end)
        told: list[pd.DataFrame] = []
        going_on = True
        try:
            for raw in self._answers(entry, window):
                self.archive.put(raw, self.city.name, entry.signal, entry.label, bounds)
                told.append(self._read(raw, entry, bounds))
        except NoData as error:
            self.report.failed(entry.label, entry.signal, error)
        except UrbanWMError as error:
            if isinstance(error, DataUnavailable) or error.exit_code == 1:
                raise
            self.report.failed(entry.label, entry.signal, error)
            going_on = False
        rows = self._checked(entry, told)
        self._accept(entry, rows, self._stored(entry, rows))
        return going_on

    def _answers(self, entry: Entry, window: Window) -> Iterable[RawPayload]:
        """Return a source's answers; fetched once for all signals where one answer holds them all."""
        module = source_module(entry.config.source)
        ctx = FetchContext(self.city, entry.config, entry.signal, window, self.settings, self.clock)
        if entry.config.source not in SHARED_ANSWERS:
            return module.fetch(ctx)
        key = (entry.config.model_dump_json(), window)
        if key not in self.answers:
            self.answers[key] = list(module.fetch(ctx))
        return self.answers[key]

    def replay(
        self, entries: list[Entry], start: datetime | None, end: datetime | None, progress: Progress | None
    ) -> None:
        """Read the archived answers of the city in the order in which they came."""
        by_name = {(entry.signal, entry.label): entry for entry in entries_of(self.city)}
        told: dict[Entry, list[pd.DataFrame]] = {entry: [] for entry in entries}
        for receipt in self.archive.receipts(self.city.name):
            entry = by_name.get((receipt.signal, receipt.label))
            if entry is None:
                self.report.count("dropped", receipt.label, Counter(not_in_city_file=1))
            if entry is None or entry not in told:
                continue
            try:
                told[entry].append(self._read(receipt.raw, entry, _narrower(receipt.window, (start, end))))
            except UrbanWMError as error:
                if error.exit_code == 1:
                    raise
                self.report.failed(entry.label, entry.signal, error)
            if sum(map(len, told[entry])) > ROWS_BEFORE_REDUCTION:
                told[entry] = [self._reduced(entry, told[entry])]
        for done, entry in enumerate(entries, 1):
            self._accept(entry, self._checked(entry, told[entry]), _nothing())
            self._flush(force=False)
            if progress is not None:
                progress(f"{entry.signal} from {entry.label}", done, len(told))
        self._flush(force=True)

    def _read(self, raw: RawPayload, entry: Entry, bounds: Bounds) -> pd.DataFrame:
        """Parse an answer; each row remembers when it came and which hours were wanted."""
        place = self.city.location
        context = ParseContext(
            entry.config, entry.signal, self.city.timezone, place.latitude, place.longitude
        )
        parsed = source_module(entry.config.source).parse(raw, context)
        self.report.count("dropped", entry.label, parsed.dropped)
        moments = dict(zip(ANSWER_COLUMNS, (raw.fetched_at, *bounds), strict=True))
        index = parsed.rows.index
        return parsed.rows.assign(
            **{name: pd.Series(moment, index, UTC_MICROSECONDS) for name, moment in moments.items()}
        )

    def _checked(self, entry: Entry, told: list[pd.DataFrame]) -> pd.DataFrame:
        """Put answers together, keep the hours that were wanted, apply the rules of single values."""
        frames = [rows for rows in told if len(rows)]
        if not frames:
            return _nothing()
        rows = pd.concat(frames, ignore_index=True)
        validate(rows.loc[:, list(PARSED_COLUMNS)], PARSED)
        rows = rows[~(rows["timestamp"] < rows["wanted_from"])]
        checked = check_points(rows, timezone=self.city.timezone, now=rows["fetched_at"])
        self.report.count("dropped", entry.label, checked.dropped)
        self.report.count("flagged", entry.label, checked.flagged)
        # Cut at the end only now: hours that have not begun are counted, not quietly left out.
        return checked.rows[~(checked.rows["timestamp"] >= checked.rows["wanted_until"])]

    def _reduced(self, entry: Entry, told: list[pd.DataFrame]) -> pd.DataFrame:
        """Reduce what a source said so far to its present word, so that a long archive fits in memory."""
        present = settle(self._checked(entry, told), _nothing())
        always = pd.Series(pd.NaT, present.index, UTC_MICROSECONDS)
        return present.assign(fetched_at=present["available_at"], wanted_from=always, wanted_until=always)

    def _stored(self, entry: Entry, rows: pd.DataFrame) -> pd.DataFrame:
        """Return what the lake holds of this source around the rows, with the context of the rules."""
        if rows.empty:
            return _nothing()
        first = rows["timestamp"].min() - pd.Timedelta(days=CONTEXT_DAYS)
        last = rows["timestamp"].max() + pd.Timedelta(hours=1)
        try:
            stored = self.lake.read_provenance(
                self.city.name,
                start=first.to_pydatetime(),
                end=last.to_pydatetime(),
                signals=sorted(rows["signal"].unique()),
            )
        except DataUnavailable:
            return _nothing()
        return stored[stored["source"] == entry.label]

    def _accept(self, entry: Entry, rows: pd.DataFrame, stored: pd.DataFrame) -> None:
        """Apply the rules of a series to the present word of a source and keep what is new."""
        if rows.empty:
            return
        settled = settle(rows, stored)
        checked = check_series(settled, timezone=self.city.timezone, history=stored)
        self.report.count("dropped", entry.label, checked.dropped)
        self.report.count("flagged", entry.label, checked.flagged)
        self.report.rows_by_signal.update(checked.rows["signal"].value_counts().to_dict())
        fresh = news(checked.rows, stored).assign(city=self.city.name, source=entry.label)
        self.pending.append(fresh.loc[:, list(BATCH_COLUMNS)])

    def _flush(self, *, force: bool) -> None:
        """Write what has been collected, if it is worth a commit."""
        waiting = [rows for rows in self.pending if len(rows)]
        if waiting and (force or sum(map(len, waiting)) >= ROWS_PER_FLUSH):
            preference = {(self.city.name, name): self.city.preference(name) for name in self.city.signals}
            commit = self.lake.upsert(pd.concat(waiting, ignore_index=True), preference)
            self.report.inserted += commit.inserted
            self.report.updated += commit.updated
            self.pending.clear()


def _nothing() -> pd.DataFrame:
    """Return an empty provenance table."""
    return empty_rows().assign(source="")


def _narrower(one: Bounds, other: Bounds) -> Bounds:
    """Return the intersection of two windows."""
    starts = [moment for moment in (one[0], other[0]) if moment is not None]
    ends = [moment for moment in (one[1], other[1]) if moment is not None]
    return max(starts, default=None), min(ends, default=None)
