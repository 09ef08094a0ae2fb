"""The only code that writes and reads the observations table: a Delta table on disk or in an object store.

One wide row per (city, hour), partitioned by year. Per signal three columns: `<signal>`, `<signal>_source`
and `<signal>_available_at`. Several processes may write at once: a writer reads a version, resolves the
winners against it, and commits only if nobody changed those partitions meanwhile; else it starts again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from urbanwm.contracts.signals import SIGNALS
from urbanwm.errors import BadInput, LakeConflict
from urbanwm.lake.layout import KEY_FIELDS, TABLE_CONFIGURATION, TARGET_FILE_BYTES, fragmented_years
from urbanwm.lake.offers import Offers
from urbanwm.lake.query import column_names, data_files, literal_bounds, select
from urbanwm.lake.reader import NO_TABLE, LakeReader
from urbanwm.lake.winners import KEY_COLUMNS, Preference, resolve, signal_columns, signal_fields

__all__ = ["NO_TABLE", "Commit", "Lake"]

ROWS_PER_COMMIT = 200_000
"""Wide rows resolved at once; bounds the memory of a backfill to a few hundred MB."""
COMMIT_PATIENCE_SECONDS = 120.0
LONGEST_COMMIT_WAIT_SECONDS = 2.0
RETENTION_HOURS = 24
"""Files replaced more recently than this survive a vacuum, so that a running reader never loses one."""


@dataclass(frozen=True)
class Commit:
    """What an upsert did: the version that holds the batch, and how many rows are new or changed."""

    version: int
    inserted: int
    updated: int


def _is_conflict(error: BaseException) -> bool:
    """Whether another writer was faster; any other failure is raised as it is."""
    if isinstance(error, CommitFailedError):
        return True
    return isinstance(error, DeltaError) and "already exists" in str(error).lower()


class Lake(LakeReader):
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
        commits = [self._retrying(part, preference) for part in _chunks(offers)]
        return Commit(
            commits[-1].version if commits else self.version(),
            sum(commit.inserted for commit in commits),
            sum(commit.updated for commit in commits),
        )

    def _retrying(self, offers: Offers, preference: Preference | None) -> Commit:
        """Read, resolve and commit; start again from the new version when another writer was faster."""
        attempts = Retrying(
            retry=retry_if_exception(_is_conflict),
            wait=wait_random_exponential(multiplier=0.02, max=LONGEST_COMMIT_WAIT_SECONDS),
            stop=stop_after_delay(COMMIT_PATIENCE_SECONDS),
        )
        try:
            return attempts(self._upsert_once, offers, preference)
        except RetryError as error:
            raise LakeConflict(
                f"other writers kept changing the lake for {COMMIT_PATIENCE_SECONDS:.0f} s; nothing written"
            ) from error

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
            return Commit(table.version(), 0, 0)
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
        return Commit(table.version(), changes.inserted, changes.updated)

    def _writable(self, signals: Sequence[str]) -> DeltaTable:
        """Open the table; create it, or add the columns of a new signal, where needed."""
        table = self._open()
        if table is None:
            fields = [*KEY_FIELDS, *(field for name in SIGNALS for field in signal_fields(name))]
            if "://" not in self.uri:
                Path(self.uri).mkdir(parents=True, exist_ok=True)
            return DeltaTable.create(
                self.uri,
                schema=pa.schema(fields),
                partition_by=["year"],
                configuration=TABLE_CONFIGURATION,
                storage_options=self.storage_options,
            )
        columns = column_names(table)
        added = [field for name in signals if name not in columns for field in signal_fields(name)]
        if added:
            table.alter.add_columns(Schema.from_arrow(pa.schema(added)).fields)
        return table

    def compact(self) -> int:
        """Sort the years whose files overlap by time and cut them into small files; return how many years.

        A night then rewrites one small file, however long the history is. The content does not change,
        old versions stay readable, and a table that is in order gets no new version.
        """
        table = self._open()
        years = [] if table is None else fragmented_years(data_files(table))
        for year in years:
            attempts = Retrying(
                retry=retry_if_exception(_is_conflict),
                wait=wait_random_exponential(multiplier=0.02, max=LONGEST_COMMIT_WAIT_SECONDS),
                stop=stop_after_delay(COMMIT_PATIENCE_SECONDS),
                reraise=True,
            )
            attempts(self._compact_year, year)
        return len(years)

    def _compact_year(self, year: int) -> None:
        """Rewrite one year; opened anew, because another writer may have committed since."""
        self._readable(None).optimize.z_order(
            ["timestamp"], partition_filters=[("year", "=", str(year))], target_size=TARGET_FILE_BYTES
        )

    def vacuum(self, keep_version: int, retention_hours: int = RETENTION_HOURS) -> int:
        """Delete files that no version from `keep_version` on needs; return how many.

        Args:
            keep_version: Oldest version that must stay readable, such as the champion's dataset version.
            retention_hours: Files replaced more recently than this stay in any case.

        Raises:
            BadInput: `keep_version` is not a version of the table.
        """
        table = self._readable(None)
        newest = table.version()
        if not 0 <= keep_version <= newest:
            raise BadInput(
                "keep_version is not a version of the lake",
                field="keep_version",
                value=keep_version,
                allowed=f"0 to {newest}",
            )
        removed = table.vacuum(
            retention_hours=retention_hours,
            dry_run=False,
            enforce_retention_duration=False,
            keep_versions=list(range(keep_version, newest + 1)),
        )
        return len(removed)


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
