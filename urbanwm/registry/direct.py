"""The service's two questions to the registry, asked without MLflow: who is champion, and its files.

Importing MLflow and connecting takes 4 s of one core and 110 MB, in a service that asks every few seconds
for one row. So that row is read from the SQLite database itself, or asked of the server's REST interface, and
the files are copied or downloaded likewise. Whatever else a registry may be (another database, another
artifact store, a log-in) is left to `Registry`, which imports MLflow; a test holds both to the same answers.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlencode, urlsplit
from urllib.request import urlopen

from urbanwm.errors import UpstreamUnavailable
from urbanwm.registry.connection import sqlite_file
from urbanwm.registry.store import ABSENT_CODES, Registry, place_bundle
from urbanwm.registry.versions import CHAMPION, MODEL_NAME, ModelVersion

Answer = TypeVar("Answer")

TIMEOUT_SECONDS: Final = 10.0
API: Final = "api/2.0/mlflow"
ARTIFACTS_API: Final = "api/2.0/mlflow-artifacts/artifacts"
PROXIED: Final = "mlflow-artifacts:"
FILE_BYTES_MAX: Final = 256 * 1024 * 1024
"""A bundle is a few megabytes; an answer without end must not fill the disk."""
PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
CHAMPION_ROW: Final = """
    SELECT v.version, v.run_id, v.creation_time, v.source
    FROM registered_model_aliases AS a JOIN model_versions AS v ON v.name = a.name AND v.version = a.version
    WHERE a.name = ? AND a.alias = ?
"""
ALIAS_ROWS: Final = "SELECT alias FROM registered_model_aliases WHERE name = ? AND version = ?"
TAG_ROWS: Final = "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?"


class _NotDirect(Exception):
    """This registry must be asked through MLflow."""


class DirectRegistry:
    """Answers as `Registry` does; a `ChampionSource` for the cache of a service.

    Args:
        registry: Asked where the direct way is not known.
    """

    def __init__(self, registry: Registry) -> None:
        """Remember the registry; nothing is opened yet."""
        self._registry = registry
        self._database = sqlite_file(registry.tracking_uri)
        self._address = registry.tracking_uri.rstrip("/")

    def champion(self) -> ModelVersion | None:
        """Return the version in service, or None where the alias points nowhere (1 to 20 ms).

        Raises:
            UpstreamUnavailable: The registry cannot be asked.
        """
        self._registry.require_existing()
        if self._database is not None:
            return _ask(partial(_from_database, self._database), self._registry.champion)
        return _ask(self._from_server, self._registry.champion)

    def download(self, version: ModelVersion, destination: Path) -> Path:
        """Fetch the bundle of `version` into the new folder `destination`, checked against its digest.

        Raises:
            BundleInvalid: The files differ from those that were registered.
            UpstreamUnavailable: They cannot be fetched.
        """
        return _ask(
            lambda: place_bundle(version, destination, partial(self._fetch, version.source)),
            lambda: self._registry.download(version, destination),
        )

    def _from_server(self) -> ModelVersion | None:
        """Ask MLflow's REST interface."""
        query = urlencode({"name": MODEL_NAME, "alias": CHAMPION})
        try:
            with self._open(f"{API}/registered-models/alias?{query}") as answer:
                found = json.load(answer)["model_version"]
        except HTTPError as refusal:
            if _error_code(refusal) in ABSENT_CODES:
                return None
            raise _NotDirect from refusal
        except (ValueError, KeyError) as error:
            raise _NotDirect from error
        return ModelVersion(
            version=str(found["version"]),
            run_id=str(found["run_id"]),
            created_at=datetime.fromtimestamp(int(found["creation_timestamp"]) / 1000, tz=UTC),
            source=str(found["source"]),
            aliases=tuple(found.get("aliases", ())),
            tags={item["key"]: item.get("value", "") for item in found.get("tags", ())},
        )

    def _fetch(self, source: str, scratch: Path) -> Path:
        """Copy or download the folder `source` below `scratch`."""
        place = urlsplit(source)
        target = scratch / "bundle"
        if place.scheme == "file" and not place.netloc:
            try:
                return Path(shutil.copytree(unquote(place.path), target))
            except OSError as error:
                raise UpstreamUnavailable(
                    f"the bundle cannot be copied: {type(error).__name__}", source="mlflow"
                ) from error
        if source.startswith(PROXIED) and not place.netloc and self._database is None:
            target.mkdir()
            self._fetch_folder(place.path.strip("/"), target)
            return target
        raise _NotDirect

    def _fetch_folder(self, path: str, target: Path) -> None:
        """Download the files of a flat folder through the server."""
        try:
            with self._open(f"{ARTIFACTS_API}?{urlencode({'path': path})}") as answer:
                listed = json.load(answer)["files"]
            for item in listed:
                name = str(item["path"])
                if item["is_dir"] or not PLAIN_NAME.fullmatch(name):
                    raise _NotDirect
                with self._open(f"{ARTIFACTS_API}/{quote(path)}/{quote(name)}") as answer:
                    content = answer.read(FILE_BYTES_MAX)
                (target / name).write_bytes(content)
        except (HTTPError, ValueError, KeyError) as error:
            raise _NotDirect from error

    @contextmanager
    def _open(self, path: str) -> Iterator[Any]:
        """Open one address of the server.

        Raises:
            HTTPError: The server refuses.
            UpstreamUnavailable: It does not answer.
        """
        if not self._address.startswith(("http://", "https://")) or "@" in self._address:
            raise _NotDirect
        try:
            # The scheme was checked above.
            with urlopen(f"{self._address}/{path}", timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                yield answer
        except HTTPError:
            raise
        except (URLError, OSError) as error:
            raise UpstreamUnavailable(
                f"the model registry at {self._address} does not answer ({type(error).__name__})",
                source="mlflow",
            ) from error


def _ask(directly: Callable[[], Answer], through_mlflow: Callable[[], Answer]) -> Answer:
    """Ask directly where that is possible."""
    try:
        return directly()
    except _NotDirect:
        return through_mlflow()


def _from_database(database: Path) -> ModelVersion | None:
    """Read the champion's rows, without ever writing."""
    try:
        with closing(
            sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=TIMEOUT_SECONDS)
        ) as db:
            row = db.execute(CHAMPION_ROW, (MODEL_NAME, CHAMPION)).fetchone()
            if row is None:
                return None
            version, run_id, created_ms, source = row
            aliases = db.execute(ALIAS_ROWS, (MODEL_NAME, version)).fetchall()
            tags = dict(db.execute(TAG_ROWS, (MODEL_NAME, version)).fetchall())
    except sqlite3.Error as error:
        # A database of another MLflow, or one that must be migrated first.
        raise _NotDirect from error
    return ModelVersion(
        version=str(version),
        run_id=str(run_id),
        created_at=datetime.fromtimestamp(created_ms / 1000, tz=UTC),
        source=str(source),
        aliases=tuple(sorted(alias for (alias,) in aliases)),
        tags=tags,
    )


def _error_code(refusal: HTTPError) -> str:
    """Return MLflow's name of an error, empty where the answer is not MLflow's."""
    try:
        return str(json.load(refusal).get("error_code", ""))
    except (ValueError, AttributeError):
        return ""
