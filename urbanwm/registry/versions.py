"""What a registered model version is, and the digest that ties it to its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

MODEL_NAME: Final = "urban-world-model"
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"

DIGEST_TAG: Final = "bundle_digest"
SCORES_TAG: Final = "scores"
DATASET_TAG: Final = "dataset_version"
DECISION_TAG: Final = "decision"
PREDECESSOR_TAG: Final = "previous_champion"
START_TAG: Final = "warm_start_from"
NIGHT_TAG: Final = "night_of"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version of the world model.

    Attributes:
        version: Its number as text (the SQLite store hands out integers, a server strings).
        run_id: The training run that made it.
        created_at: When it was registered, UTC.
        aliases: The aliases that point to it now.
        source: Where its bundle lies.
        tags: Everything that was noted on it, as text.
    """

    version: str
    run_id: str
    created_at: datetime
    source: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the bundle's files, empty if the version was registered by other means."""
        return self.tags.get(DIGEST_TAG, "")

    @property
    def scores(self) -> dict[str, float]:
        """Return the held-out errors noted when the version was registered (`test/pm25/mae`, in its unit)."""
        noted: dict[str, float] = json.loads(self.tags.get(SCORES_TAG, "{}"))
        return noted

    def to_dict(self) -> dict[str, Any]:
        """Return the version as `urbanwm models` prints it."""
        return {
            "version": self.version,
            "aliases": sorted(self.aliases),
            "run_id": self.run_id,
            "created": self.created_at.isoformat(),
            "dataset_version": self.tags.get(DATASET_TAG, ""),
            "decision": self.tags.get(DECISION_TAG, ""),
            "experiment": self.tags.get("experiment", ""),
            "candidate": self.tags.get("candidate", ""),
            "start": self.tags.get(START_TAG, ""),
            "night_of": self.tags.get(NIGHT_TAG, ""),
            "cities": self.tags.get("cities", ""),
            "git_sha": self.tags.get("git_sha", ""),
            "scores": self.scores,
        }


def directory_digest(folder: Path) -> str:
    """Return one SHA-256 over the names and contents of all files below `folder`.

    The same files in another place have the same digest; a changed, added or renamed file changes it.
    """
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()
