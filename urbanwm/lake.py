"""The only code that writes and reads the observations table: a Delta table on disk or in an object store.

One wide row per (city, hour), partitioned by year. Per signal three columns: `<signal>`, `<signal>_source`
and `<signal>_available_at`. Several processes may write at once: a writer reads a version, resolves the
winners against it, and commits only if nobody changed those partitions meanwhile; else it starts again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from urbanwm.clock import require_utc
from urbanwm.contracts.signals import SIGNALS, nearest_name
from urbanwm.contracts.tables import BATCH, BATCH_COLUMNS, validate
from urbanwm.errors import BadInput, DataUnavailable, LakeConflict
from urbanwm.lake_layout import (
    KEY_FIELDS,
    PROVENANCE_COLUMNS,
    TABLE_CONFIGURATION,
    TARGET_FILE_BYTES,
    fragmented_years,
    hourly_frame,
    long_frame,
)
from urbanwm.lake_query import column_names, data_files, literal_bounds, quoted, select, time_literal
from urbanwm.winners import KEY_COLUMNS, Preference, resolve, signal_columns, signal_fields

NO_TABLE = -1
ROWS_PER_COMMIT = 200_000
"""Wide rows resolved at once; bounds the memory of a backfill to a few hundred MB."""
COMMIT_PATIENCE_SECONDS = 120.0
LONGEST_COMMIT_WAIT_SECONDS = 2.0
RETENTION_HOURS = 24
"""Files replaced more recently than this survive a vacuum, so that a running reader never loses one."""
OFFERED = pandera.DataFrameSchema(BATCH.columns, strict=True)
"""An observation batch in which a key may repeat."""


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


class Lake:
    """The observations table.

    Instances hold no open handle: they are cheap, picklable and safe to share between threads.

    Args:
        uri: Folder, or an `s3://` address.
        storage_options: Options of the object store; credentials come from the environment.
    """

    def __init__(self, uri: str | Path, storage_options: dict[str, str] | None = None) -> None:
        self.uri = str(uri)
        self.storage_options = dict(storage_options or {})

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
        batch = validate(batch.loc[:, list(BATCH_COLUMNS)], OFFERED)
        inserted = updated = 0
        version = self.version()
        for part in _chunks(batch):
            commit = self._retrying(part, preference)
            version, inserted, updated = commit.version, inserted + commit.inserted, updated + commit.updated
        return Commit(version, inserted, updated)

    def _retrying(self, batch: pd.DataFrame, preference: Preference | None) -> Commit:
        """Read, resolve and commit; start again from the new version when another writer was faster."""
        attempts = Retrying(
            retry=retry_if_exception(_is_conflict),
            wait=wait_random_exponential(multiplier=0.02, max=LONGEST_COMMIT_WAIT_SECONDS),
            stop=stop_after_delay(COMMIT_PATIENCE_SECONDS),
        )
        try:
            return attempts(self._upsert_once, batch, preference)
        except RetryError as error:
            raise LakeConflict(
                f"other writers kept changing the lake for {COMMIT_PATIENCE_SECONDS:.0f} s; nothing written"
            ) from error

    def _upsert_once(self, batch: pd.DataFrame, preference: Preference | None) -> Commit:
        """Resolve a batch against the newest version and commit what changes, if anything does."""
        signals = sorted(batch["signal"].unique())
        table = self._writable(signals)
        cities = sorted(batch["city"].unique())
        bounds = literal_bounds(batch["timestamp"].min(), batch["timestamp"].max(), cities)
        columns = ["city", "timestamp", "flags", *(c for s in signals for c in signal_columns(s))]
        stored = select(table, columns, " AND ".join(bounds))
        changes = resolve(batch, stored, preference)
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
        names = _checked_signals(signals)
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
        names = [name for name in _checked_signals(signals) if name in there]
        columns = ["timestamp", "flags", *(c for name in names for c in signal_columns(name))]
        frame = long_frame(self._city_rows(table, columns, city, start, end), names)
        if known_at is not None:
            frame = frame[frame["available_at"] <= require_utc(known_at, "known_at")]
        return frame.loc[:, list(PROVENANCE_COLUMNS)].reset_index(drop=True)

    def version(self) -> int:
        """Return the newest version; -1 before the first write."""
        table = self._open()
        return NO_TABLE if table is None else table.version()

    def cities(self) -> list[str]:
        """Return the names of the cities that have rows."""
        table = self._open()
        return [] if table is None else sorted(select(table, ["DISTINCT city"], "TRUE")["city"].to_pylist())

    def last_timestamp(self, city: str, signal: str | None = None) -> datetime | None:
        """Return the last hour with a row of the city, or with a value of one signal; None without any."""
        table = self._open()
        if table is None or (signal is not None and signal not in column_names(table)):
            return None
        present = "" if signal is None else f" AND {_checked_signals([signal])[0]} IS NOT NULL"
        for year in sorted(set(data_files(table)["year"]), reverse=True):
            where = f"year = {year} AND city = {quoted(city)}{present}"
            last = select(table, ["max(timestamp) AS last"], where)["last"][0].as_py()
            if last is not None:
                return datetime.fromtimestamp(last.timestamp(), UTC)
        return None

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

    def _open(self, version: int | None = None) -> DeltaTable | None:
        """Open a version of the table; None when there is no table yet."""
        try:
            return DeltaTable(self.uri, version=version, storage_options=self.storage_options)
        except TableNotFoundError:
            return None

    def _readable(self, version: int | None) -> DeltaTable:
        """Open a version that must exist."""
        try:
            table = self._open(version)
        except DeltaError as error:
            if version is None:
                raise
            raise DataUnavailable(
                "this version of the lake is not available", field="version", value=version
            ) from error
        if table is None:
            raise DataUnavailable("the lake is empty: ingest a city first", field="lake", value=self.uri)
        return table

    def _city_rows(
        self,
        table: DeltaTable,
        columns: Sequence[str],
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
        try:
            rows = select(table, columns, " AND ".join(where))
        except Exception as error:  # the engine raises nothing narrower for a vacuumed file
            if "not found" not in str(error).lower():
                raise
            raise DataUnavailable(
                "files of this version of the lake were vacuumed", field="version", value=table.version()
            ) from error
        if rows.num_rows == 0:
            between = "" if start is None and end is None else f" in [{start or '…'}, {end or '…'})"
            raise DataUnavailable(f"no observations of {city}{between}", field="city", value=city)
        return rows


def _chunks(batch: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Cut a batch by time into parts of at most `ROWS_PER_COMMIT` wide rows."""
    if batch.empty:
        return
    hours = (batch["timestamp"] - batch["timestamp"].min()) // pd.Timedelta("1h")
    step = max(1, ROWS_PER_COMMIT // batch["city"].nunique())
    if hours.max() < step:
        yield batch
        return
    for _, part in batch.groupby((hours // step).to_numpy(np.int64), sort=True):
        yield part


def _checked_signals(signals: Sequence[str] | None) -> list[str]:
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
