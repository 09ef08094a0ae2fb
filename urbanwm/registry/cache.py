"""The local cache of the model in service: what makes the service independent of the registry's uptime.

Layout below `cache_dir`: one folder `<version>-<digest>` per bundle and `champions.json`, which names the
current and the previous one. A folder appears complete (downloaded beside, verified, renamed) and
`champions.json` is replaced in one step, so a reader, or a process killed at any line, never sees half a
model.

Nothing here imports MLflow or torch: `current()` reads one small file (below 1 ms), so a service starts from
a warm cache at once and calls `sync()` afterwards, in the background. The first `sync()` imports MLflow
(3 s).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from urbanwm.errors import BundleInvalid, UpstreamUnavailable
from urbanwm.registry.versions import DATASET_TAG, ModelVersion, directory_digest
from urbanwm.whole_file import written_whole

POINTER_FILE: Final = "champions.json"
DIGEST_CHARACTERS: Final = 16


class ChampionSource(Protocol):
    """What the cache asks of a registry."""

    def champion(self) -> ModelVersion | None:
        """Return the version in service, or None."""
        ...

    def download(self, version: ModelVersion, destination: Path) -> Path:
        """Fetch and verify its bundle."""
        ...


@dataclass(frozen=True)
class CachedChampion:
    """A bundle on the local disk.

    Attributes:
        path: The folder of the bundle.
        version: Registered version.
        run_id: The run that trained it.
        dataset_version: The lake version it was trained on.
        digest: SHA-256 of its files.
        metrics: Held-out errors, `test/<signal>/mae` in the signal's unit.
        stale: Whether the registry could not confirm that this is the present champion.
        reason: Why it is stale, else None.
    """

    path: Path
    version: str
    run_id: str
    dataset_version: str
    digest: str
    metrics: dict[str, float] = field(default_factory=dict)
    stale: bool = False
    reason: str | None = None


class ChampionCache:
    """Keeps the champion and its predecessor on the local disk.

    Args:
        cache_dir: Folder of the cache; created at the first download.
        registry: Where the champion is looked up.
    """

    def __init__(self, cache_dir: Path, registry: ChampionSource) -> None:
        """Remember both; nothing is read or asked yet."""
        self._folder = cache_dir
        self._registry = registry

    def current(self) -> CachedChampion | None:
        """Return the cached champion without asking the registry."""
        return self._pointers().get("current")

    def previous(self) -> CachedChampion | None:
        """Return the champion that was cached before the current one."""
        return self._pointers().get("previous")

    def discard(self, entry: CachedChampion) -> None:
        """Delete a bundle that turned out damaged on this disk; the next `sync` fetches it again."""
        shutil.rmtree(entry.path, ignore_errors=True)

    def sync(self) -> CachedChampion | None:
        """Ask who is champion, download a new one, and return what there is to serve.

        Returns:
            The confirmed champion; or the cached one, marked stale with the reason, where the registry cannot
            be asked, names none, or hands out damaged files; or None where nothing is cached either.
        """
        cached = self.current()
        try:
            champion = self._registry.champion()
            if champion is None:
                return _stale(cached, "the registry names no champion")
            if cached and (cached.version, cached.digest) == (champion.version, champion.digest):
                return cached
            return self._adopt(champion, cached)
        except (UpstreamUnavailable, BundleInvalid, OSError) as error:
            return _stale(cached, str(error))

    def _adopt(self, champion: ModelVersion, cached: CachedChampion | None) -> CachedChampion:
        """Download `champion` where it is not here yet, then point at it."""
        path = self._folder / f"{champion.version}-{champion.digest[:DIGEST_CHARACTERS]}"
        if not path.is_dir() or directory_digest(path) != champion.digest:
            self._registry.download(champion, path)
        entry = CachedChampion(
            path=path,
            version=champion.version,
            run_id=champion.run_id,
            dataset_version=champion.tags.get(DATASET_TAG, ""),
            digest=champion.digest,
            metrics=champion.scores,
        )
        self._point_at(entry, cached)
        self._prune(keep={entry.path, cached.path} if cached else {entry.path})
        return entry

    def _pointers(self) -> dict[str, CachedChampion]:
        """Read the pointer file; an unreadable file, or an entry whose folder is gone, is not cached."""
        try:
            document: dict[str, dict[str, Any]] = json.loads((self._folder / POINTER_FILE).read_text("utf-8"))
            entries = {
                slot: CachedChampion(**{**entry, "path": self._folder / entry["path"]})
                for slot, entry in document.items()
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            # The file is a cache of what the registry knows: the next sync writes it anew.
            return {}
        return {slot: entry for slot, entry in entries.items() if entry.path.is_dir()}

    def _point_at(self, entry: CachedChampion, before: CachedChampion | None) -> None:
        """Write the pointer file in one step."""
        slots = {"current": entry} | ({"previous": before} if before else {})
        document = {slot: asdict(item) | {"path": item.path.name} for slot, item in slots.items()}
        with written_whole(self._folder / POINTER_FILE) as draft:
            draft.write_text(json.dumps(document, indent=2), "utf-8")

    def _prune(self, keep: set[Path]) -> None:
        """Delete the bundles that are neither current nor previous."""
        for folder in self._folder.iterdir():
            if folder.is_dir() and not folder.name.startswith(".") and folder not in keep:
                shutil.rmtree(folder, ignore_errors=True)


def _stale(cached: CachedChampion | None, reason: str) -> CachedChampion | None:
    """Mark what is cached as unconfirmed."""
    return replace(cached, stale=True, reason=reason) if cached else None
