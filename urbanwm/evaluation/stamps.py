"""Which bundles have passed the behaviour suite under this very code, kept beside the champion cache."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import urbanwm
from urbanwm.settings import PROJECT_ROOT
from urbanwm.whole_file import written_whole

STAMP_FILE = "examined.json"
CODE_FOLDERS = ("urbanwm", "serving")
STAMPS_MAX = 16
"""The champion, its predecessor, and some that were tried; the oldest is forgotten."""


class Stamps:
    """Remembers which bundles passed, in the gate or in a service, for as long as the code does not change.

    A start then answers some seconds sooner. Checksums and the stored example are verified at every load all
    the same; only the suite, which can say nothing new about the same weights under the same code, is spared.
    """

    def __init__(self, folder: Path) -> None:
        """Keep the stamps in `folder`; nothing is read yet."""
        self._file = folder / STAMP_FILE

    def has(self, digest: str) -> bool:
        """Return whether a bundle has passed under this code."""
        return digest in self._read()

    def add(self, digest: str) -> None:
        """Note that a bundle has passed.

        Raises:
            OSError: The folder cannot be written.
        """
        passed = [known for known in self._read() if known != digest]
        document = {"code": code_digest(), "passed": [*passed, digest][-STAMPS_MAX:]}
        with written_whole(self._file) as draft:
            draft.write_text(json.dumps(document), "utf-8")

    def _read(self) -> list[str]:
        """Return the digests that were stamped under this code; an unreadable file stamps nothing."""
        try:
            document = json.loads(self._file.read_text("utf-8"))
            passed = document["passed"] if document["code"] == code_digest() else []
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return [str(digest) for digest in passed] if isinstance(passed, list) else []


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return one SHA-256 over our own source files (about 10 ms): an edit anywhere voids the stamps."""
    total = hashlib.sha256(urbanwm.__version__.encode())
    for folder in CODE_FOLDERS:
        for path in sorted((PROJECT_ROOT / folder).rglob("*.py")):
            total.update(f"{path.relative_to(PROJECT_ROOT)}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()
