"""The nightly lease: of two nights on one home, one works and the other leaves."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from urbanwm.settings import Settings

LOCK_FILE: Final = "nightly.lock"
HOLDER_FILE: Final = "nightly.json"
_LOG = logging.getLogger(__name__)


class LeaseTaken(Exception):
    """Another night is at work; says which, as far as it is known."""


@contextmanager
def night_lease(settings: Settings, now: datetime) -> Iterator[None]:
    """Hold the lease for the body, or leave at once.

    The lease is a lock of the operating system on a file below the home: it ends with its process, so a night
    that was killed never blocks the next one, and it needs no clock. It holds among all processes that share
    the home, also over NFS 4. Machines that share only a Prefect server are kept apart by the deployment's
    concurrency limit (`flows.deployments`), and promotions by the registry's own lock.

    Args:
        settings: Where the lock files are.
        now: Noted for whoever finds the lease taken.

    Raises:
        LeaseTaken: Another night holds it.
    """
    settings.locks_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.locks_dir / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise LeaseTaken(_holder(settings.locks_dir)) from None
    try:
        note = {"host": platform.node(), "pid": os.getpid(), "since": now.isoformat()}
        (settings.locks_dir / HOLDER_FILE).write_text(json.dumps(note), "utf-8")
        yield
    finally:
        lock.release()


def night_at_work(settings: Settings) -> str | None:
    """Return who holds the lease, or None where it is free; takes nothing for longer than a moment."""
    if not (settings.locks_dir / LOCK_FILE).exists():
        return None
    try:
        with FileLock(settings.locks_dir / LOCK_FILE).acquire(blocking=False):
            return None
    except Timeout:
        return _holder(settings.locks_dir)


def _holder(folder: Path) -> str:
    """Describe the process that holds the lease; its note may be missing for the first moment."""
    try:
        note = json.loads((folder / HOLDER_FILE).read_text("utf-8"))
        return f"process {note['pid']} on {note['host']} since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        _LOG.debug("the lease has no readable note: %s", error)
        return "another process"
