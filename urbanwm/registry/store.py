"""The registry: runs, model versions and aliases, at an explicit address, never the current folder's."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from urbanwm.clock import Clock, utc_now
from urbanwm.errors import BadInput, BundleInvalid, UpstreamUnavailable
from urbanwm.registry.connection import LOCK_TIMEOUT_S, connect, sqlite_file, translated
from urbanwm.registry.lock import promotion_lock
from urbanwm.registry.tracking import RunLog
from urbanwm.registry.versions import (
    CHALLENGER,
    CHAMPION,
    DIGEST_TAG,
    MODEL_NAME,
    PREVIOUS,
    SCORES_TAG,
    ModelVersion,
    directory_digest,
)
from urbanwm.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

EXPERIMENT: Final = "urbanwm"
BUNDLE_PATH: Final = "bundle"
ABSENT_CODES: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})


class Registry:
    """MLflow's tracking and model registry, behind the few questions that UrbanWM asks.

    MLflow is imported and the database opened at the first question. Every method raises
    `UpstreamUnavailable` (retryable) where the store cannot be asked.

    Args:
        settings: Gives the tracking URI and the folders.
        clock: Stamps metrics.
    """

    def __init__(self, settings: Settings, clock: Clock = utc_now) -> None:
        """Remember where the registry is; nothing is opened yet."""
        self.tracking_uri = settings.tracking_uri
        self._artifacts = settings.artifacts_dir
        self._locks = settings.locks_dir
        self._clock = clock

    @cached_property
    def client(self) -> MlflowClient:
        """Return the connected MLflow client; a missing SQLite database is created."""
        return connect(self.tracking_uri, self._locks / "mlflow-init.lock")

    @property
    def exists(self) -> bool:
        """Whether there is a registry to ask: false only before the SQLite file is first made."""
        database = sqlite_file(self.tracking_uri)
        return database is None or database.is_file()

    def require_existing(self) -> None:
        """Refuse to go on where the SQLite file is missing: a reader must not create an empty registry.

        Raises:
            UpstreamUnavailable: There is no database file.
        """
        if not self.exists:
            raise UpstreamUnavailable(f"there is no model registry at {self.tracking_uri}", source="mlflow")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the promotion lock; see `urbanwm.registry.lock`."""
        with promotion_lock(self.tracking_uri, self._locks, LOCK_TIMEOUT_S):
            yield

    def start_run(self, name: str, tags: Mapping[str, object], parent_run_id: str | None = None) -> RunLog:
        """Open a run in the UrbanWM experiment; use it as a context manager."""
        full_tags = {key: str(value) for key, value in tags.items()}
        if parent_run_id is not None:
            full_tags["mlflow.parentRunId"] = parent_run_id
        client = self.client
        with translated(self.tracking_uri, "start a run"):
            run = client.create_run(self.experiment_id(), run_name=name, tags=full_tags)
        return self.run_log(run.info.run_id)

    def run_log(self, run_id: str) -> RunLog:
        """Return a log for an existing run; entered as a context it ends the run, otherwise it only adds."""
        return RunLog(self.client, run_id, self.tracking_uri, self._clock)

    def experiment_id(self) -> str:
        """Return the experiment's id, creating it with an artifact folder that does not depend on the cwd."""
        with self.locked():
            found = self.client.get_experiment_by_name(EXPERIMENT)
            if found is not None:
                return str(found.experiment_id)
            location = None if sqlite_file(self.tracking_uri) is None else self._artifacts.as_uri()
            return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))

    def end_abandoned_runs(self, tags: Mapping[str, str], status: str = "KILLED") -> int:
        """End runs with `tags` that still say "running"; the caller knows that their process is dead.

        Returns:
            How many there were: one per process that died in the middle of this work.
        """
        conditions = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        client = self.client
        with translated(self.tracking_uri, "end abandoned runs"):
            runs = client.search_runs(
                [self.experiment_id()],
                filter_string=" and ".join([*conditions, "attributes.status = 'RUNNING'"]),
            )
            for run in runs:
                client.set_terminated(run.info.run_id, status=status)
        return len(runs)

    def fetch(self, run_id: str, path: str, folder: Path) -> Path:
        """Copy one file or folder of a run below `folder`, which must exist, and return where it is.

        Raises:
            BadInput: There is no such run.
        """
        from mlflow.exceptions import MlflowException

        client = self.client
        with translated(self.tracking_uri, f"fetch {path}"):
            try:
                return Path(client.download_artifacts(run_id, path, str(folder)))
            except MlflowException as error:
                if error.error_code in ABSENT_CODES:
                    raise BadInput(f"no run '{run_id}'", field="run_id", value=run_id) from error
                raise

    def register(self, run_id: str, tags: Mapping[str, object], scores: Mapping[str, float]) -> ModelVersion:
        """Register the bundle stored under the run as a new version with the alias `challenger`.

        Raises:
            BadInput: The tags do not hold the bundle's digest; such a version could never be verified.
        """
        if not tags.get(DIGEST_TAG):
            raise BadInput("a model version needs the digest of its bundle", field=DIGEST_TAG)
        full_tags = {key: str(value) for key, value in tags.items()}
        full_tags[SCORES_TAG] = json.dumps(dict(scores), sort_keys=True)
        client = self.client
        with translated(self.tracking_uri, "register a version"), self.locked():
            if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
                client.create_registered_model(MODEL_NAME)
            artifacts = client.get_run(run_id).info.artifact_uri
            made = client.create_model_version(
                MODEL_NAME, f"{artifacts}/{BUNDLE_PATH}", run_id=run_id, tags=full_tags
            )
        self.set_alias(CHALLENGER, str(made.version))
        return self.version(str(made.version))

    def version(self, version: str) -> ModelVersion:
        """Return one version.

        Raises:
            BadInput: There is no such version.
        """
        known = {item.version: item for item in self.list_versions()}
        if version not in known:
            raise BadInput(
                f"{MODEL_NAME} has no version {version}",
                field="version",
                value=version,
                allowed=sorted(known),
            )
        return known[version]

    def version_of_run(self, run_id: str) -> ModelVersion | None:
        """Return the version that the run registered, or None where it ended before it could."""
        return next((item for item in self.list_versions() if item.run_id == run_id), None)

    def by_alias(self, alias: str) -> ModelVersion | None:
        """Return the version that `alias` points to, or None where it points nowhere (4 to 20 ms)."""
        from mlflow.exceptions import MlflowException

        self.require_existing()
        client = self.client
        with translated(self.tracking_uri, f"look up the alias {alias}"):
            try:
                found = client.get_model_version_by_alias(MODEL_NAME, alias)
            except MlflowException as error:
                if error.error_code in ABSENT_CODES:
                    return None
                raise
        return _plain(found, tuple(found.aliases))

    def champion(self) -> ModelVersion | None:
        """Return the version in service, or None before the first promotion."""
        return self.by_alias(CHAMPION)

    def previous(self) -> ModelVersion | None:
        """Return the version that was in service before the champion, or None."""
        return self.by_alias(PREVIOUS)

    def list_versions(self) -> list[ModelVersion]:
        """Return all versions, newest first, with their aliases; empty where nothing was ever registered."""
        client = self.client
        with translated(self.tracking_uri, "list versions"):
            if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
                return []
            aliases: dict[str, list[str]] = {}
            # A search may leave the aliases out ("for performance"); the registered model itself has them.
            for alias, version in client.get_registered_model(MODEL_NAME).aliases.items():
                aliases.setdefault(str(version), []).append(alias)
            found = client.search_model_versions(f"name = '{MODEL_NAME}'")
        plain = [_plain(item, tuple(aliases.get(str(item.version), ()))) for item in found]
        return sorted(plain, key=lambda item: int(item.version), reverse=True)

    def set_alias(self, alias: str, version: str) -> None:
        """Point `alias` at `version`."""
        client = self.client
        with translated(self.tracking_uri, f"set the alias {alias}"):
            client.set_registered_model_alias(MODEL_NAME, alias, version)

    def delete_alias(self, alias: str) -> None:
        """Take `alias` away; nothing happens where it points nowhere."""
        client = self.client
        with translated(self.tracking_uri, f"delete the alias {alias}"):
            client.delete_registered_model_alias(MODEL_NAME, alias)

    def tag_version(self, version: str, tags: Mapping[str, object]) -> None:
        """Note `tags` on a version."""
        client = self.client
        with translated(self.tracking_uri, "tag a version"):
            for key, value in tags.items():
                client.set_model_version_tag(MODEL_NAME, version, key, str(value))

    def download(self, version: ModelVersion, destination: Path) -> Path:
        """Fetch the bundle of `version` into the new folder `destination`, checked against its digest.

        The folder appears complete or not at all.

        Raises:
            BundleInvalid: The files differ from those that were registered.
        """
        client = self.client

        def fetch(scratch: Path) -> Path:
            with translated(self.tracking_uri, f"fetch version {version.version}"):
                return Path(client.download_artifacts(version.run_id, BUNDLE_PATH, str(scratch)))

        return place_bundle(version, destination, fetch)


def place_bundle(version: ModelVersion, destination: Path, fetch: Callable[[Path], Path]) -> Path:
    """Let `fetch` put the bundle's folder below a scratch folder, verify it, and move it to `destination`.

    Raises:
        BundleInvalid: The files differ from those that were registered.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".fetch-") as scratch:
        fetched = fetch(Path(scratch))
        digest = directory_digest(fetched)
        if digest != version.digest:
            raise BundleInvalid(
                f"the files of version {version.version} are not those that were registered",
                field=DIGEST_TAG,
                value=digest,
                allowed=version.digest or "a version registered with a digest",
            )
        if destination.exists():
            shutil.rmtree(destination)
        fetched.replace(destination)
    return destination


def _plain(found: MlflowVersion, aliases: tuple[str, ...]) -> ModelVersion:
    """Copy what MLflow returned; its version is an int from SQLite and text from a server."""
    return ModelVersion(
        version=str(found.version),
        run_id=str(found.run_id),
        created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, tz=UTC),
        source=str(found.source),
        aliases=aliases,
        tags=dict(found.tags),
    )
