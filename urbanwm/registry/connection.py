"""Opening MLflow: explicit address, one process at a time on a new database, one named error."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock

from urbanwm.errors import UpstreamUnavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE_PREFIX: Final = "sqlite:///"
LOCK_TIMEOUT_S: Final = 120.0
DRAFT_PREFIX: Final = ".new-"
"""Folders beside the database in which a new one is made."""
USER_INFO = re.compile(r"//[^/@]+@")


def sqlite_file(tracking_uri: str) -> Path | None:
    """Return the file behind a SQLite URI, or None where the registry is a server."""
    if not tracking_uri.startswith(SQLITE_PREFIX):
        return None
    return Path(tracking_uri.removeprefix(SQLITE_PREFIX))


def connect(tracking_uri: str, lock_file: Path) -> MlflowClient:
    """Return a client for both tracking and registry; creates a missing SQLite database (4 s).

    Args:
        tracking_uri: An absolute `sqlite:///` path, or the address of a server.
        lock_file: Held while a SQLite database is opened: two processes that migrate one new file crash each
            other.

    Raises:
        UpstreamUnavailable: The database or the server cannot be reached.
    """
    with warnings.catch_warnings():
        # MLflow 3.17 uses parts of SQLAlchemy that SQLAlchemy 2.1 deprecates, at import and connect only.
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        # MLflow reports each table it creates on stderr, where users read our own one-line messages.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        with translated(tracking_uri, "open"):
            database = sqlite_file(tracking_uri)
            if database is None:
                return MlflowClient(tracking_uri, tracking_uri)
            database.parent.mkdir(parents=True, exist_ok=True)
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock_file, timeout=LOCK_TIMEOUT_S):
                if not database.is_file():
                    _create(database)
                return MlflowClient(tracking_uri, tracking_uri)


def _create(database: Path) -> None:
    """Make a SQLite database with all its tables, complete or not at all.

    Its migrations commit one by one: a process killed in between would leave a file that no later one can
    open. Every attempt has a folder of its own, because MLflow keeps the connections of an address.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in database.parent.glob(f"{DRAFT_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=database.parent)) / database.name
    store = SqlAlchemyStore(f"{SQLITE_PREFIX}{draft}", str(database.parent / "artifacts"))
    store.engine.dispose()
    draft.replace(database)
    draft.parent.rmdir()


@contextmanager
def translated(tracking_uri: str, action: str) -> Iterator[None]:
    """Turn every way in which MLflow's stores fail into one named, retryable error.

    Raises:
        UpstreamUnavailable: With the first line of what the store said; no password of the URI is shown.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        reason = str(error).partition("\n")[0]
        address = USER_INFO.sub("//…@", tracking_uri)
        raise UpstreamUnavailable(
            f"the model registry at {address} failed to {action}: {USER_INFO.sub('//…@', reason)}",
            source="mlflow",
        ) from error
