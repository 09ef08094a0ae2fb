"""Where a model comes from: the code, the locked packages and the configuration that made it."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from urbanwm.settings import PROJECT_ROOT

UNKNOWN: Final = "unknown"
LOCK_FILE: Final = "requirements.lock"
GIT_TIMEOUT_S: Final = 10.0
HASH_CHARACTERS: Final = 16
TRACKED_PACKAGES: Final = ("numpy", "pandas", "torch", "onnxruntime", "deltalake", "mlflow", "urbanwm")


@dataclass(frozen=True)
class Provenance:
    """The state of code and packages at one moment.

    Attributes:
        git_sha: Commit of the checkout, or "unknown" outside of one (an installed wheel, an image).
        git_dirty: Whether tracked files differ from that commit; None where the commit is unknown.
        lock_hash: First 16 hex digits of the lock file's SHA-256, or "unknown".
        python: Version of the interpreter.
        packages: Installed versions of the packages that can change a result.
    """

    git_sha: str
    git_dirty: bool | None
    lock_hash: str
    python: str
    packages: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, as a bundle carries them."""
        return asdict(self)

    def tags(self) -> dict[str, str]:
        """Return flat tags for a run."""
        dirty = UNKNOWN if self.git_dirty is None else str(self.git_dirty).lower()
        return {
            "git_sha": self.git_sha,
            "git_dirty": dirty,
            "lock_hash": self.lock_hash,
            "python": self.python,
        } | {f"package.{name}": number for name, number in self.packages.items()}


def collect_provenance(root: Path = PROJECT_ROOT) -> Provenance:
    """Look at the checkout and the installed packages (20 ms; runs `git` twice)."""
    sha = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no") if sha else None
    lock = root / LOCK_FILE
    return Provenance(
        git_sha=sha or UNKNOWN,
        git_dirty=None if changes is None else bool(changes),
        lock_hash=short_hash(lock.read_bytes()) if lock.is_file() else UNKNOWN,
        python=platform.python_version(),
        packages={name: _package_version(name) for name in TRACKED_PACKAGES},
    )


def short_hash(content: bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()[:HASH_CHARACTERS]


def document_hash(document: Mapping[str, Any]) -> str:
    """Return a hash of a JSON document that does not depend on the order of its keys."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return short_hash(canonical.encode())


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git prints, or None where there is no git, no repository or no commit."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _package_version(name: str) -> str:
    """Return the installed version of a package, or "unknown"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return UNKNOWN
