"""Reading the observations table: one function that hides what Delta, Arrow and the engine do differently."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable

from urbanwm.clock import require_utc
from urbanwm.contracts.signals import SIGNALS, nearest_name
from urbanwm.errors import BadInput, DataUnavailable
from urbanwm.lake.layout import PROVENANCE_COLUMNS, hourly_frame, long_frame
from urbanwm.lake.query import column_names, data_files, quoted, select, time_literal
from urbanwm.lake.stored import StoredTable, read_selected
from urbanwm.lake.winners import signal_columns


class LakeReader(StoredTable):
    """The observations table, read only; cheap, picklable and safe to share between threads."""

    def pinned(self) -> LakeReader:
        """Return a reader of what is the newest version now: many questions after one look at the log."""
        return _PinnedReader(self)

    def read(
        self,
        city: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        signals: Sequence[str] | None = None,
        known_at: datetime | None = None,
        version: int | None = None,
    ) -> pd.DataFrame:
        """Read a city on the full hourly grid `[start, end)`; NaN is missing, never filled.

        Args:
            city: City name.
            start: First hour, UTC; None is the first row.
            end: First hour no longer read; None is after the last row.
            signals: Columns wanted; None is every signal of the vocabulary. A signal without data is all NaN.
            known_at: Mask the values that became known later than this.
            version: Table version; None is the newest.

        Returns:
            Float64 columns over a regular UTC `DatetimeIndex` named "timestamp", first to last row found.

        Raises:
            DataUnavailable: The city has no rows (in this range, in this version).
            BadInput: An unknown signal, or a time without a zone.
        """
        names = checked_signals(signals)
        table = self._readable(version)
        there = column_names(table)
        columns = ["timestamp"]
        for name in (n for n in names if n in there):
            columns += [name] if known_at is None else [name, signal_columns(name)[2]]
        rows = self._city_rows(table, columns, city, start, end)
        return hourly_frame(rows, names, None if known_at is None else require_utc(known_at, "known_at"))

    def read_provenance(
        self,
        city: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        signals: Sequence[str] | None = None,
        known_at: datetime | None = None,
        version: int | None = None,
    ) -> pd.DataFrame:
        """Read where each value of a city comes from; arguments and errors as `read`.

        Returns:
            One row per value: timestamp, signal, value, source, available_at, flags (comma-separated).
        """
        table = self._readable(version)
        there = column_names(table)
        names = [name for name in checked_signals(signals) if name in there]
        columns = ["timestamp", "flags", *(c for name in names for c in signal_columns(name))]
        frame = long_frame(self._city_rows(table, columns, city, start, end), names)
        if known_at is not None:
            frame = frame[frame["available_at"] <= require_utc(known_at, "known_at")]
        return frame.loc[:, list(PROVENANCE_COLUMNS)].reset_index(drop=True)

    def last_timestamp(
        self, city: str, signal: str | None = None, sources: Sequence[str] | None = None
    ) -> datetime | None:
        """Return the last hour with a row of the city, or with a value of one signal; None without any.

        Args:
            city: City name.
            signal: Count only hours with a value of this signal.
            sources: Count only its values from these sources (provenance labels).
        """
        return self._edge("max", city, signal, sources)

    def first_timestamp(
        self, city: str, signal: str | None = None, sources: Sequence[str] | None = None
    ) -> datetime | None:
        """Return the first such hour; arguments as `last_timestamp`."""
        return self._edge("min", city, signal, sources)

    def labels(self, city: str, signal: str, *, start: datetime) -> list[str]:
        """Return the provenance labels of a signal's values from `start` on, sorted."""
        table = self._open()
        column = signal_columns(checked_signals([signal])[0])[1]
        if table is None or column not in column_names(table):
            return []
        start = require_utc(start, "start")
        where = [f"city = {quoted(city)}", f"year >= {start.year}", f"timestamp >= {time_literal(start)}"]
        found = select(table, [f"DISTINCT {column} AS label"], " AND ".join(where))["label"].to_pylist()
        return sorted(label for label in found if label is not None)

    def _edge(
        self, extreme: Literal["min", "max"], city: str, signal: str | None, sources: Sequence[str] | None
    ) -> datetime | None:
        """Look for the first or last hour, one year after the other."""
        table = self._open()
        if table is None or (signal is not None and signal not in column_names(table)):
            return None
        where = [f"city = {quoted(city)}"]
        if signal is not None:
            value, source, _ = signal_columns(checked_signals([signal])[0])
            where.append(f"{value} IS NOT NULL")
            if sources is not None:
                where.append(f"{source} IN ({', '.join(quoted(label) for label in sources)})")
        for year in sorted(set(data_files(table)["partition"]), reverse=extreme == "max"):
            found = select(table, [f"{extreme}(timestamp) AS edge"], " AND ".join([f"year = {year}", *where]))
            edge = found["edge"][0].as_py()
            if edge is not None:
                return datetime.fromtimestamp(edge.timestamp(), UTC)
        return None

    def _city_rows(
        self,
        table: DeltaTable,
        columns: list[str],
        city: str,
        start: datetime | None,
        end: datetime | None,
    ) -> pa.Table:
        """Return the rows of a city in `[start, end)`."""
        where = [f"city = {quoted(city)}"]
        if start is not None:
            start = require_utc(start, "start")
            where += [f"year >= {start.year}", f"timestamp >= {time_literal(start)}"]
        if end is not None:
            end = require_utc(end, "end")
            where += [f"year <= {end.year}", f"timestamp < {time_literal(end)}"]
        rows = read_selected(table, columns, " AND ".join(where))
        if rows.num_rows == 0:
            between = "" if start is None and end is None else f" in [{start or '…'}, {end or '…'})"
            raise DataUnavailable(f"no observations of {city}{between}", field="city", value=city)
        return rows


class _PinnedReader(LakeReader):
    """A reader that goes on seeing the version that was the newest when it was made."""

    def __init__(self, lake: LakeReader) -> None:
        super().__init__(lake.uri, lake.storage_options)
        self._table = super()._open()

    def _open(self, version: int | None = None) -> DeltaTable | None:
        return self._table if version is None else super()._open(version)


def checked_signals(signals: Sequence[str] | None) -> list[str]:
    """Return the wanted signals; an unknown one is the caller's mistake."""
    if signals is None:
        return list(SIGNALS)
    for name in signals:
        if name not in SIGNALS:
            raise BadInput(
                f"unknown signal '{name}'",
                field="signals",
                value=name,
                allowed=nearest_name(name, SIGNALS) or list(SIGNALS),
            )
    return list(signals)
