"""The promotion lock: MLflow's aliases have no compare-and-set, the last writer would win."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from urbanwm.errors import UpstreamUnavailable
from urbanwm.registry.connection import translated

LOCK_FILE: Final = "promotion.lock"
POSTGRES: Final = ("postgresql://", "postgresql+psycopg2://")
ADVISORY_KEY: Final = 0x75_77_6D_31
"""Key of the advisory lock, the letters "uwm1": one per database, shared by every machine that opens it."""
POLL_S: Final = 0.2


@contextmanager
def promotion_lock(tracking_uri: str, folder: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock for the body.

    A file lock keeps processes apart that share the home, and ends with its process. Where the registry is a
    PostgreSQL database that is opened directly, an advisory lock of that database also keeps machines apart;
    it ends with its connection. Behind an MLflow server over HTTP only the file lock holds: there, one
    machine promotes (the Prefect deployment's concurrency limit), and a promotion reads the champion before
    and after.

    Args:
        tracking_uri: The registry's address.
        folder: Where the lock file is.
        timeout_s: How long another holder is waited for, seconds.

    Raises:
        UpstreamUnavailable: Another process did not let go in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(folder / LOCK_FILE, timeout=timeout_s))
        except Timeout:
            raise UpstreamUnavailable(
                f"another process has held the promotion lock for {timeout_s:g} s", source="mlflow"
            ) from None
        if tracking_uri.startswith(POSTGRES):
            held.enter_context(_advisory_lock(tracking_uri, timeout_s))
        yield


@contextmanager
def _advisory_lock(address: str, timeout_s: float) -> Iterator[None]:
    """Hold a PostgreSQL advisory lock on a connection of its own."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    # Without a transaction around the whole promotion, which a server may end as idle.
    engine = create_engine(address, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with translated(address, "lock the promotion"):
        connection = engine.connect()
    with connection:
        deadline = time.monotonic() + timeout_s
        statement = text("SELECT pg_try_advisory_lock(:key)")
        while True:
            with translated(address, "lock the promotion"):
                taken = bool(connection.execute(statement, {"key": ADVISORY_KEY}).scalar())
            if taken:
                break
            if time.monotonic() > deadline:
                raise UpstreamUnavailable(
                    f"another machine has held the promotion lock for {timeout_s:g} s", source="mlflow"
                )
            time.sleep(POLL_S)
        yield
