"""Files that appear complete or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a draft beside `path` to write, which takes its place in one step; a failure leaves no draft.

    A reader, also after kill -9, sees the old file or the new one. The folder is made.

    Raises:
        OSError: The disk does not take it; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
