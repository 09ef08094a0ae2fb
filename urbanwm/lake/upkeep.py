"""Keeping a table fast as it ages: small files are put together, files nobody needs are deleted.

Both are Delta commits: a process killed in between leaves the version before or the version after.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import pandas as pd
from deltalake import DeltaTable

from urbanwm.errors import BadInput
from urbanwm.lake.query import data_files
from urbanwm.lake.stored import StoredTable

TARGET_FILE_BYTES = 4 << 20
"""Files of a compacted partition are cut by time at this size, so that a night rewrites one small file."""
# A merge writes snappy, a compaction zstd: the same rows take about twice the space before a compaction.
OVERSIZED_FILE_BYTES = 4 * TARGET_FILE_BYTES
CRUMBS_PER_PARTITION = 16
"""A night adds one or two small files; so many more than the rows need are worth a compaction."""
RETENTION_HOURS = 24
"""Files replaced more recently than this survive a vacuum, so that a running reader never loses one."""
REPLACED_FILES_WORTH_A_VACUUM = 32
NEWEST_COMMITS_LOOKED_AT = 256
"""How far back a vacuum is looked for; so many commits without one always hold enough replaced files."""


def fragmented_partitions(files: pd.DataFrame, *, overlaps: bool = True) -> list[int]:
    """Return the partitions with a file that is far too large, or with many more files than their size needs.

    Args:
        files: One row per file: `partition`, `bytes`, `first` and `last` timestamp.
        overlaps: Whether two files that overlap in time are reason enough.
    """
    found = []
    for partition, part in files.sort_values("first").groupby("partition"):
        overlap = (part["first"].iloc[1:].to_numpy() < part["last"].iloc[:-1].to_numpy()).any()
        oversized = (part["bytes"] > OVERSIZED_FILE_BYTES).any()
        crumbs = len(part) - part["bytes"].sum() / TARGET_FILE_BYTES > CRUMBS_PER_PARTITION
        if oversized or crumbs or (overlaps and overlap):
            found.append(int(partition))
    return found


class KeptTable(StoredTable):
    """A table that can be put in order.

    Attributes:
        PARTITION: The integer column that the table is partitioned by.
    """

    PARTITION = "year"

    def compact(self, *, overlaps: bool = True) -> int:
        """Sort fragmented partitions by time and cut them into small files; return how many partitions.

        A night then rewrites one small file, however long the history is. The content does not change,
        old versions stay readable, and a table that is in order gets no new version.

        Args:
            overlaps: Whether files that overlap in time are reason enough. Every night leaves some, so the
                nightly upkeep waits until there are too many files.
        """
        table = self._open()
        if table is None:
            return 0
        partitions = fragmented_partitions(data_files(table, self.PARTITION), overlaps=overlaps)
        for partition in partitions:
            self._winning(partial(self._compact_partition, partition))
        return len(partitions)

    def _compact_partition(self, partition: int) -> None:
        """Rewrite one partition; opened anew, because another writer may have committed since."""
        self._readable(None).optimize.z_order(
            ["timestamp"],
            partition_filters=[(self.PARTITION, "=", str(partition))],
            target_size=TARGET_FILE_BYTES,
        )

    def vacuum(self, keep_versions: Collection[int], retention_hours: int = RETENTION_HOURS) -> int:
        """Delete files that neither the newest version nor `keep_versions` needs; return how many.

        Files of killed writers, which no version ever had, go too once they are older than the retention.

        Args:
            keep_versions: Versions that must stay readable, such as the champion's dataset version.
            retention_hours: Files replaced or written more recently than this stay in any case.

        Raises:
            BadInput: One of `keep_versions` is not a version of the table.
        """
        table = self._readable(None)
        newest = table.version()
        for version in keep_versions:
            if not 0 <= version <= newest:
                raise BadInput(
                    "keep_versions names a version that the lake does not have",
                    field="keep_versions",
                    value=version,
                    allowed=f"0 to {newest}",
                )
        removed = table.vacuum(
            retention_hours=retention_hours,
            dry_run=False,
            enforce_retention_duration=False,
            full=True,
            keep_versions=sorted(keep_versions),
        )
        return len(removed)

    def is_worth_a_vacuum(self) -> bool:
        """Whether enough files were replaced since the last vacuum; reads the newest commits only."""
        table = self._open()
        return table is not None and _replaced_since_vacuum(table) >= REPLACED_FILES_WORTH_A_VACUUM


def _replaced_since_vacuum(table: DeltaTable) -> int:
    """Count the files that commits replaced since the last vacuum."""
    replaced = 0
    for commit in table.history(NEWEST_COMMITS_LOOKED_AT):
        if commit["operation"].startswith("VACUUM"):
            break
        metrics = commit.get("operationMetrics", {})
        replaced += int(metrics.get("num_target_files_removed", 0)) + int(metrics.get("numFilesRemoved", 0))
    return replaced
