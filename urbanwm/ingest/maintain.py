"""The lake's upkeep after a night: few files, and none that nobody needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from urbanwm.lake import NO_TABLE
from urbanwm.lake.upkeep import KeptTable
from urbanwm.settings import Settings
from urbanwm.stores import forecasts_of, lake_of


@dataclass(frozen=True)
class LakeUpkeep:
    """What an upkeep did to observations and forecasts.

    Attributes:
        version: Version of the observations afterwards; the same as before if nothing was to be done.
        compacted: Years and months whose files were put together.
        deleted_files: Files deleted that no version in use needs.
        unknown_versions: Versions that were to be kept and that this lake does not have.
    """

    version: int
    compacted: int = 0
    deleted_files: int = 0
    unknown_versions: tuple[int, ...] = ()


def maintain_lake(settings: Settings, keep_versions: Collection[int] | None = None) -> LakeUpkeep:
    """Put small files together and delete replaced ones, where there are enough of them to be worth it.

    Meant for the end of every night: it looks at the list of files and the newest commits only, works on the
    partitions that changed, and leaves a lake in order without a new version. What it does is committed or
    not done at all, so it may be killed. Values never change.

    Args:
        settings: Where the lake is.
        keep_versions: Versions of the observations that must stay readable: the `dataset_version` of the
            champion, of the previous champion, of every model that may be judged again. None: not known, so
            nothing is deleted.

    Raises:
        LakeConflict: Other writers kept changing the lake.
    """
    lake, forecasts = lake_of(settings), forecasts_of(settings)
    compacted = lake.compact(overlaps=False) + forecasts.compact(overlaps=False)
    if keep_versions is None:
        return LakeUpkeep(lake.version(), compacted)
    newest = lake.version()
    kept = {version for version in keep_versions if 0 <= version <= newest}
    deleted = _vacuumed(lake, kept) + _vacuumed(forecasts, ())
    return LakeUpkeep(lake.version(), compacted, deleted, tuple(sorted(set(keep_versions) - kept)))


def _vacuumed(table: KeptTable, kept: Collection[int]) -> int:
    """Vacuum a table that has enough replaced files; return how many were deleted."""
    if table.version() == NO_TABLE or not table.is_worth_a_vacuum():
        return 0
    return table.vacuum(kept)
