"""What all Delta tables of the lake share: where they are, versions, winning against other writers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from urbanwm.errors import DataUnavailable, LakeConflict
from urbanwm.lake.query import select

NO_TABLE = -1
COMMIT_PATIENCE_SECONDS = 120.0
LONGEST_COMMIT_WAIT_SECONDS = 2.0

Result = TypeVar("Result")


class StoredTable:
    """One Delta table, on disk or in an object store.

    Instances hold no open handle: they are cheap, picklable and safe to share between threads.

    Args:
        uri: Folder, or an `s3://` address.
        storage_options: Options of the object store; credentials come from the environment.
    """

    def __init__(self, uri: str | Path, storage_options: dict[str, str] | None = None) -> None:
        self.uri = str(uri)
        self.storage_options = dict(storage_options or {})

    def version(self) -> int:
        """Return the newest version; -1 before the first write."""
        table = self._open()
        return NO_TABLE if table is None else table.version()

    def cities(self) -> list[str]:
        """Return the names of the cities that have rows."""
        table = self._open()
        return [] if table is None else sorted(select(table, ["DISTINCT city"], "TRUE")["city"].to_pylist())

    def _open(self, version: int | None = None) -> DeltaTable | None:
        """Open a version of the table; None when there was no table yet."""
        if version == NO_TABLE:
            return None
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

    def _created(self, schema: pa.Schema, partition: str, configuration: dict[str, str]) -> DeltaTable:
        """Make the empty table."""
        if "://" not in self.uri:
            Path(self.uri).mkdir(parents=True, exist_ok=True)
        return DeltaTable.create(
            self.uri,
            schema=schema,
            partition_by=[partition],
            configuration=dict(configuration),
            storage_options=self.storage_options,
        )

    def _winning(self, commit: Callable[[], Result]) -> Result:
        """Call `commit`, which opens the table anew, until no other writer was faster.

        Raises:
            LakeConflict: Other writers kept winning for two minutes.
        """
        attempts = Retrying(
            retry=retry_if_exception(_is_conflict),
            wait=wait_random_exponential(multiplier=0.02, max=LONGEST_COMMIT_WAIT_SECONDS),
            stop=stop_after_delay(COMMIT_PATIENCE_SECONDS),
        )
        try:
            return attempts(commit)
        except RetryError as error:
            raise LakeConflict(
                f"other writers kept changing the lake for {COMMIT_PATIENCE_SECONDS:.0f} s; nothing written"
            ) from error


def read_selected(table: DeltaTable, columns: list[str], where: str) -> pa.Table:
    """Select from a version whose files may have been vacuumed.

    Raises:
        DataUnavailable: Files of this version are gone.
    """
    try:
        return select(table, columns, where)
    except Exception as error:  # the engine raises nothing narrower for a vacuumed file
        if "not found" not in str(error).lower():
            raise
        raise DataUnavailable(
            "files of this version of the lake were vacuumed", field="version", value=table.version()
        ) from error


def _is_conflict(error: BaseException) -> bool:
    """Whether another writer was faster; any other failure is raised as it is."""
    if isinstance(error, CommitFailedError):
        return True
    return isinstance(error, DeltaError) and "already exists" in str(error).lower()
