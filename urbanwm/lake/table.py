"""The only code that writes and reads the observations table: a Delta table on disk or in an object store.

One wide row per (city, hour), partitioned by year. Per signal three columns: `<signal>`, `<signal>_source`
and `<signal>_available_at`. Several processes may write at once: a writer reads a version, resolves the
winners against it, and commits only if nobody changed those partitions meanwhile; else it starts again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable, Schema

from urbanwm.contracts.signals import SIGNALS
from urbanwm.lake.layout import KEY_FIELDS, TABLE_CONFIGURATION
from urbanwm.lake.offers import Offers
from urbanwm.lake.query import column_names, literal_bounds, select
from urbanwm.lake.reader import LakeReader
from urbanwm.lake.stored import NO_TABLE
from urbanwm.lake.upkeep import KeptTable
from urbanwm.lake.winners import (
    KEY_COLUMNS,
    Preference,
    RowCounts,
    resolve,
    signal_columns,
    signal_fields,
)

__all__ = ["NO_TABLE", "Commit", "Lake"]

ROWS_PER_COMMIT = 200_000
"""Wide rows resolved at once; bounds the memory of a backfill to a few hundred MB."""


@dataclass(frozen=True)
class Commit:
    """What a merge did.

    Attributes:
        version: The version that holds the batch.
        inserted: Rows that are new.
        updated: Rows in which a value is new or corrected.
        cities: Both counts for each city with changes.
    """

    version: int
    inserted: int = 0
    updated: int = 0
    cities: Mapping[str, RowCounts] = field(default_factory=dict)

    @classmethod
    def of(cls, version: int, counts: Iterable[Mapping[str, RowCounts]]) -> Commit:
        """Add up the counts of one or several commits, the last of which made `version`."""
        cities: dict[str, RowCounts] = {}
        for part in counts:
            for city, (inserted, updated) in part.items():
                before = cities.get(city, RowCounts())
                cities[city] = RowCounts(before.inserted + inserted, before.updated + updated)
        return cls(
            version,
            sum(count.inserted for count in cities.values()),
            sum(count.updated for count in cities.values()),
            cities,
        )


class Lake(LakeReader, KeptTable):
    """The observations table, for reading (see `LakeReader`) and writing."""

    def upsert(self, batch: pd.DataFrame, preference: Preference | None = None) -> Commit:
        """Merge observations; the winner per (city, hour, signal) does not depend on the order of calls.

        The winner is the maximum of (preference rank, available_at, value, source, flags). A batch that
        changes nothing leaves the version as it is. A batch of more than `ROWS_PER_COMMIT` rows is written
        in several commits, oldest hours first; each is complete in itself and repeating the call is safe.

        Args:
            batch: Columns of `contracts.tables.BATCH`; repeated keys are resolved by the same rule.
            preference: Source labels per (city, signal), most trusted first; unlisted labels rank last.

        Raises:
            InternalContractBroken: A column or type of the batch is wrong.
            LakeConflict: Other writers kept winning for two minutes.
        """
        offers = Offers.of(batch)
        commits = [self._winning(partial(self._upsert_once, part, preference)) for part in _chunks(offers)]
        version = commits[-1].version if commits else self.version()
        return Commit.of(version, [commit.cities for commit in commits])

    def _upsert_once(self, offers: Offers, preference: Preference | None) -> Commit:
        """Resolve a batch against the newest version and commit what changes, if anything does."""
        signals = [offers.signal.distinct[code] for code in np.unique(offers.signal.codes)]
        cities = offers.city.distinct
        table = self._writable(signals)
        first, last = (
            pd.Timestamp(int(hour), unit="h", tz="UTC") for hour in (offers.hour.min(), offers.hour.max())
        )
        bounds = literal_bounds(first, last, cities)
        columns = ["city", "timestamp", "flags", *(c for s in signals for c in signal_columns(s))]
        stored = select(table, columns, " AND ".join(bounds))
        changes = resolve(offers, stored, preference)
        if changes.rows.num_rows == 0:
            return Commit(table.version())
        written = [c for c in changes.rows.column_names if c not in {*KEY_COLUMNS, "year"}]
        stamps = changes.rows["timestamp"].to_pandas()
        pruning = literal_bounds(stamps.min(), stamps.max(), cities, alias="t.")
        (
            table.merge(
                changes.rows,
                predicate=" AND ".join([*pruning, "t.city = s.city", "t.timestamp = s.timestamp"]),
                source_alias="s",
                target_alias="t",
            )
            .when_matched_update({c: f"s.{c}" for c in written})
            .when_not_matched_insert({c: f"s.{c}" for c in changes.rows.column_names})
            .execute()
        )
        return Commit.of(table.version(), [changes.counts])

    def _writable(self, signals: Sequence[str]) -> DeltaTable:
        """Open the table; create it, or add the columns of a new signal, where needed."""
        table = self._open()
        if table is None:
            fields = [*KEY_FIELDS, *(field for name in SIGNALS for field in signal_fields(name))]
            return self._created(pa.schema(fields), self.PARTITION, TABLE_CONFIGURATION)
        columns = column_names(table)
        added = [field for name in signals if name not in columns for field in signal_fields(name)]
        if added:
            table.alter.add_columns(Schema.from_arrow(pa.schema(added)).fields)
        return table


def _chunks(offers: Offers) -> Iterator[Offers]:
    """Cut a batch by time into parts of at most `ROWS_PER_COMMIT` wide rows."""
    if len(offers) == 0:
        return
    step = max(1, ROWS_PER_COMMIT // len(offers.city.distinct))
    part = (offers.hour - offers.hour.min()) // step
    if part.max() == 0:
        yield offers
        return
    for number in np.unique(part):
        yield offers.take(np.flatnonzero(part == number))
