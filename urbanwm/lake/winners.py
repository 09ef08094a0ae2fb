"""Which observation wins: the rule that makes the lake independent of the order of its batches.

Several sources may speak for the same city, hour and signal, and each may correct itself later. The winner is
the maximum of `(preference rank, available_at, value, source, flags)`. A maximum is associative, commutative
and idempotent (a semilattice), so any interleaving, duplication or re-ordering of batches ends in one table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from urbanwm.lake.offers import HOUR_MICROSECONDS, Offers
from urbanwm.lake.row_flags import RowFlags, plain_text

Preference = Mapping[tuple[str, str], Sequence[str]]

KEY_COLUMNS = ("city", "timestamp")
MICROSECOND_TIME = pa.timestamp("us", tz="UTC")
SOURCE_SUFFIX, AVAILABLE_SUFFIX = "_source", "_available_at"
UNLISTED_RANK = -1
ABSENT_CODE = -1
NEVER = np.iinfo(np.int64).min


class RowCounts(NamedTuple):
    """How many rows a commit added, and in how many it changed a value."""

    inserted: int = 0
    updated: int = 0


@dataclass(frozen=True)
class Changes:
    """Rows that differ from the stored table.

    Attributes:
        rows: Wide rows to write: key, year, flags and the columns of every signal in the batch.
        counts: Per city the rows whose key is new, and the rows of a stored key in which a cell has a new
            winner; cities without changes are left out.
    """

    rows: pa.Table
    counts: Mapping[str, RowCounts]


@dataclass
class _Cells:
    """One signal over the rows; a missing cell has value NaN, `NEVER` and code -1."""

    value: NDArray[np.float64]
    available_at: NDArray[np.int64]
    source: NDArray[np.int64]
    flags: NDArray[np.int64]

    @classmethod
    def empty(cls, rows: int) -> _Cells:
        return cls(
            np.full(rows, np.nan),
            np.full(rows, NEVER),
            np.full(rows, ABSENT_CODE),
            np.full(rows, ABSENT_CODE),
        )


def signal_columns(signal: str) -> tuple[str, str, str]:
    """Return the three columns that hold a signal: value, source label, time it became known."""
    return signal, signal + SOURCE_SUFFIX, signal + AVAILABLE_SUFFIX


def signal_fields(signal: str) -> list[pa.Field]:
    """Return the Arrow fields of a signal's three columns."""
    types = (pa.float64(), pa.string(), MICROSECOND_TIME)
    return [pa.field(name, kind) for name, kind in zip(signal_columns(signal), types, strict=True)]


def _vocabulary(*texts: Iterable[str | None]) -> pa.Array:
    """Return the sorted distinct texts of several collections."""
    return pa.array(sorted({text for part in texts for text in part if text is not None}), pa.string())


class _Resolver:
    """Rows and vocabularies shared by a batch and the stored rows it meets."""

    def __init__(self, offers: Offers, stored: pa.Table, preference: Preference | None) -> None:
        self.offers, self.stored, self.preference = offers, stored, preference or {}
        self.signals = [offers.signal.distinct[code] for code in np.unique(offers.signal.codes)]
        self.cities = offers.city.distinct
        self.keys, self.row = np.unique(
            offers.hour * len(self.cities) + offers.city.codes, return_inverse=True
        )
        stored_city = pc.index_in(plain_text(stored["city"]), value_set=pa.array(self.cities, pa.string()))
        stored_hour = stored["timestamp"].cast(pa.int64()).to_numpy() // HOUR_MICROSECONDS
        # A row of a city that the batch does not name has no code; it gets a key that no offer has.
        stored_key = np.where(
            stored_city.is_valid().to_numpy(),
            stored_hour * len(self.cities) + stored_city.fill_null(0).to_numpy(),
            NEVER,
        )
        place = np.searchsorted(self.keys, stored_key).clip(max=len(self.keys) - 1)
        self.known = self.keys[place] == stored_key
        self.stored_row = place[self.known]
        self.stored_flags = RowFlags(stored["flags"])
        names = [
            name.removesuffix(SOURCE_SUFFIX) for name in stored.column_names if name.endswith(SOURCE_SUFFIX)
        ]
        old_sources = [plain_text(stored[name + SOURCE_SUFFIX]).unique().to_pylist() for name in names]
        old_flags = [self.stored_flags.distinct(name) for name in names]
        self.sources = _vocabulary(offers.source.distinct, *old_sources)
        self.flags = _vocabulary(offers.flags.distinct, *old_flags)
        self.source_codes = offers.source.within(self.sources.to_pylist())
        self.flag_codes = offers.flags.within(self.flags.to_pylist())

    def _ranks(self, signal: str, row: NDArray[np.int64], source: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how preferred each source is for its city: larger is better, unlisted is lowest."""
        table = np.zeros((len(self.cities), len(self.sources) + 1), dtype=np.int64)
        for index, city in enumerate(self.cities):
            order = self.preference.get((city, signal))
            if order is not None:
                table[index] = UNLISTED_RANK
                for place, label in enumerate(order):
                    code = pc.index(self.sources, label).as_py()
                    table[index, code] = max(table[index, code], len(order) - place)
                table[index, ABSENT_CODE] = UNLISTED_RANK
        ranks: NDArray[np.int64] = table[self.keys[row] % len(self.cities), source]
        return ranks

    def stored_cells(self, signal: str) -> _Cells:
        """Return the stored winners of a signal on the rows of the batch."""
        cells = _Cells.empty(len(self.keys))
        if signal not in self.stored.column_names:
            return cells
        value, source, available = (self.stored[name] for name in signal_columns(signal))
        there = self.known & value.is_valid().to_numpy()
        at = np.searchsorted(np.flatnonzero(self.known), np.flatnonzero(there))
        row = self.stored_row[at]
        cells.value[row] = value.to_numpy()[there]
        cells.available_at[row] = available.cast(pa.int64()).fill_null(NEVER).to_numpy()[there]
        cells.source[row] = pc.index_in(plain_text(source), value_set=self.sources).to_numpy()[there]
        texts = pa.array(self.stored_flags.of(signal)[there], pa.string())
        cells.flags[row] = pc.index_in(texts, value_set=self.flags).to_numpy()
        return cells

    def offered_cells(self, signal: str) -> _Cells:
        """Return the batch's best candidate of a signal on each row."""
        mine = np.flatnonzero(self.offers.signal.codes == self.offers.signal.distinct.index(signal))
        row, value, available = self.row[mine], self.offers.value[mine], self.offers.available_at[mine]
        source, flags = self.source_codes[mine], self.flag_codes[mine]
        order = np.argsort(row, kind="stable")
        if (np.diff(row[order]) == 0).any():
            order = np.lexsort((flags, source, value, available, self._ranks(signal, row, source), row))
            order = order[np.append(np.diff(row[order]) > 0, True)]
        cells = _Cells.empty(len(self.keys))
        row = row[order]
        cells.value[row], cells.available_at[row] = value[order], available[order]
        cells.source[row], cells.flags[row] = source[order], flags[order]
        return cells

    def better(self, signal: str, offered: _Cells, stored: _Cells) -> NDArray[np.bool_]:
        """Return where the offered cell beats the stored one."""
        rows = np.arange(len(self.keys))
        pairs = (
            (self._ranks(signal, rows, offered.source), self._ranks(signal, rows, stored.source)),
            (offered.available_at, stored.available_at),
            (offered.value, stored.value),
            (offered.source, stored.source),
            (offered.flags, stored.flags),
        )
        wins, tied = np.zeros(len(rows), dtype=bool), np.ones(len(rows), dtype=bool)
        for new, old in pairs:
            wins |= tied & (new > old)
            tied &= new == old
        present, missing = ~np.isnan(offered.value), np.isnan(stored.value)
        return present & (missing | wins)


def resolve(offers: Offers, stored: pa.Table, preference: Preference | None = None) -> Changes:
    """Compare a batch with the stored rows of the same cities and hours and return what changes.

    Args:
        offers: The batch, not empty; a key may repeat.
        stored: Wide rows of the table: key, flags and columns of signals (of the batch's signals at least).
        preference: Source labels per (city, signal), most trusted first; absent: all are equal.
    """
    resolver = _Resolver(offers, stored, preference)
    rows = len(resolver.keys)
    stays = np.zeros(rows, dtype=bool)
    stays[resolver.stored_row] = True
    changed = np.zeros(rows, dtype=bool)
    merged: dict[str, _Cells] = {}
    for signal in resolver.signals:
        offered, cells = resolver.offered_cells(signal), resolver.stored_cells(signal)
        wins = resolver.better(signal, offered, cells)
        for name in ("value", "available_at", "source", "flags"):
            getattr(cells, name)[wins] = getattr(offered, name)[wins]
        changed |= wins
        merged[signal] = cells
    keep = np.flatnonzero(changed)
    rows_of_city = np.bincount(resolver.keys[keep] % len(resolver.cities), minlength=len(resolver.cities))
    old = keep[stays[keep]]
    updated = np.bincount(resolver.keys[old] % len(resolver.cities), minlength=len(resolver.cities))
    counts = {
        city: RowCounts(int(every - corrected), int(corrected))
        for city, every, corrected in zip(resolver.cities, rows_of_city, updated, strict=True)
        if every
    }
    return Changes(_wide(resolver, merged, keep), counts)


def _wide(resolver: _Resolver, merged: Mapping[str, _Cells], keep: NDArray[np.int64]) -> pa.Table:
    """Lay the changed rows out as the table stores them."""
    hours, city = np.divmod(resolver.keys[keep], len(resolver.cities))
    stamps = pd.DatetimeIndex((hours * HOUR_MICROSECONDS).astype("datetime64[us]"))
    columns: dict[str, pa.Array] = {
        "city": pa.array(resolver.cities, pa.string()).take(pa.array(city)),
        "timestamp": pa.array(stamps.asi8, MICROSECOND_TIME),
        "year": pa.array(stamps.year.to_numpy(), pa.int32()),
        "flags": pa.array(_row_flags(resolver, merged, keep), pa.string()),
    }
    for signal, cells in merged.items():
        missing = np.isnan(cells.value[keep])
        value, source, available = signal_columns(signal)
        columns[value] = pa.array(cells.value[keep], mask=missing)
        columns[source] = resolver.sources.take(pa.array(cells.source[keep], mask=missing))
        columns[available] = pa.array(cells.available_at[keep], pa.int64(), mask=missing).cast(
            MICROSECOND_TIME
        )
    return pa.table(columns)


def _row_flags(
    resolver: _Resolver, merged: Mapping[str, _Cells], keep: NDArray[np.int64]
) -> NDArray[np.object_]:
    """Join the flags of all signals of a row, signals in alphabetical order."""
    texts = np.array([*resolver.flags.to_pylist(), ""], dtype=object)  # code -1 reads ""
    joined = np.full(len(keep), "", dtype=object)
    for signal in sorted({*merged, *resolver.stored_flags.signals}):
        if signal in merged:
            flags = texts[merged[signal].flags[keep]]
        else:
            on_rows = np.full(len(resolver.keys), "", dtype=object)
            on_rows[resolver.stored_row] = resolver.stored_flags.of(signal)[resolver.known]
            flags = on_rows[keep]
        marked = flags != ""
        if marked.any():
            glue = np.where(joined[marked] == "", "", ";").astype(object)
            joined[marked] = joined[marked] + glue + (signal + ":") + flags[marked]
    return joined
