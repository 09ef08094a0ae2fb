"""From an upstream's answers to the rows that the lake takes: parsed, checked, reduced to what is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import pandas as pd

from urbanwm.cities import City
from urbanwm.contracts.tables import BATCH_COLUMNS, PARSED_COLUMNS, UTC_MICROSECONDS, empty_rows
from urbanwm.errors import DataUnavailable
from urbanwm.ingest.availability import news, settle
from urbanwm.ingest.plan import Entry
from urbanwm.ingest.raw_archive import Bounds
from urbanwm.ingest.report import IngestReport
from urbanwm.lake import LakeReader
from urbanwm.quality import CONTEXT_DAYS, check_points, check_series
from urbanwm.sources.base import ParseContext, RawPayload

ANSWER_COLUMNS = ("fetched_at", "wanted_from", "wanted_until")


class Answer(NamedTuple):
    """One parsed answer: what it says about the past, and what it says ahead.

    `rows` are parsed observations with the columns `ANSWER_COLUMNS`, `forecasts` a batch for `Forecasts.add`.
    """

    rows: pd.DataFrame
    forecasts: pd.DataFrame


@dataclass
class Intake:
    """Reads the answers of one city's sources and keeps account of what was dropped and flagged."""

    city: City
    lake: LakeReader
    report: IngestReport

    def read(self, raw: RawPayload, entry: Entry, bounds: Bounds, received_at: datetime) -> Answer:
        """Parse an answer; each row remembers when it came and which hours were wanted.

        Args:
            raw: The answer.
            entry: Who was asked for what.
            bounds: Hours wanted, `[start, end)`; None leaves a side open.
            received_at: When this very answer was received first: since then its forecasts are known.

        Raises:
            SourceError: What the answer stands for.
        """
        place = self.city.location
        context = ParseContext(
            entry.config, entry.signal, self.city.timezone, place.latitude, place.longitude
        )
        parsed = entry.module.parse(raw, context)
        self.report.count("dropped", entry.label, parsed.dropped)
        moments = dict(zip(ANSWER_COLUMNS, (raw.fetched_at, *bounds), strict=True))
        index = parsed.rows.index
        rows = parsed.rows.assign(
            **{name: pd.Series(moment, index, UTC_MICROSECONDS) for name, moment in moments.items()}
        )
        return Answer(rows, self._forecasts(parsed.forecast_rows, entry, received_at))

    def _forecasts(self, rows: pd.DataFrame, entry: Entry, received_at: datetime) -> pd.DataFrame:
        """Check forecasts by the rules of single values; they count as available when we had them."""
        from urbanwm.contracts.table_checks import PARSED, validate

        if rows.empty:
            return pd.DataFrame(columns=list(BATCH_COLUMNS))
        validate(rows.loc[:, list(PARSED_COLUMNS)], PARSED)
        checked = check_points(rows, timezone=self.city.timezone)
        self.report.count("dropped", entry.label, checked.dropped)
        issued = pd.Series(received_at, checked.rows.index, UTC_MICROSECONDS)
        batch = checked.rows.assign(city=self.city.name, source=entry.label, available_at=issued)
        return batch.loc[:, list(BATCH_COLUMNS)]

    def checked(self, entry: Entry, told: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """Put answers together, keep the hours that were wanted, apply the rules of single values."""
        from urbanwm.contracts.table_checks import PARSED, validate

        frames = [rows for rows in told if len(rows)]
        if not frames:
            return nothing()
        rows = pd.concat(frames, ignore_index=True)
        validate(rows.loc[:, list(PARSED_COLUMNS)], PARSED)
        # Cut before the rules: of two answers received together, each speaks for the hours asked of it only.
        # Hours that had not begun stay until they are counted.
        early = rows["timestamp"] < rows["wanted_from"]
        late = rows["timestamp"] >= rows["wanted_until"]
        rows = rows[~early & ~(late & (rows["timestamp"] <= rows["fetched_at"]))]
        checked = check_points(rows, timezone=self.city.timezone, now=rows["fetched_at"])
        self.report.count("dropped", entry.label, checked.dropped)
        self.report.count("flagged", entry.label, checked.flagged)
        return checked.rows[~(checked.rows["timestamp"] >= checked.rows["wanted_until"])]

    def reduced(self, entry: Entry, told: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """Reduce what a source said so far to its present word, so that a long archive fits in memory."""
        present = settle(self.checked(entry, told), nothing())
        always = pd.Series(pd.NaT, present.index, UTC_MICROSECONDS)
        return present.assign(fetched_at=present["available_at"], wanted_from=always, wanted_until=always)

    def stored(self, entry: Entry, rows: pd.DataFrame) -> pd.DataFrame:
        """Return what the lake holds of this source around the rows, with the context of the rules."""
        if rows.empty:
            return nothing()
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
            return nothing()
        return stored[stored["source"] == entry.label]

    def accepted(self, entry: Entry, rows: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
        """Apply the rules of a series to the present word of a source; return what is new, as a batch."""
        if rows.empty:
            return pd.DataFrame(columns=list(BATCH_COLUMNS))
        settled = settle(rows, stored)
        checked = check_series(settled, timezone=self.city.timezone, history=stored)
        self.report.count("dropped", entry.label, checked.dropped)
        self.report.count("flagged", entry.label, checked.flagged)
        self.report.rows_by_signal.update(checked.rows["signal"].value_counts().to_dict())
        fresh = news(checked.rows, stored).assign(city=self.city.name, source=entry.label)
        return fresh.loc[:, list(BATCH_COLUMNS)]


def nothing() -> pd.DataFrame:
    """Return an empty provenance table."""
    return empty_rows().assign(source="")
