"""Starting a nightly run on request, without waiting for it."""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.envelope import AlreadyRunning, Unavailable
from urbanwm.settings import PROJECT_ROOT, Settings, child_environment

NIGHTLY_DEPLOYMENT = "nightly/nightly"
"""Prefect's `flow/deployment` name of the nightly run."""
COMMAND = ("-m", "urbanwm", "nightly", "--engine", "local")
API_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """A run that was started.

    Attributes:
        job_id: Prefect's flow run id, or the name of the local run's log.
        engine: Who runs it.
        status: What is known at the moment of the answer.
    """

    job_id: str
    engine: Literal["prefect", "local"]
    status: str


class Retrainer:
    """Starts the nightly run: through the Prefect server where there is one, else as a process of its own."""

    def __init__(self, settings: Settings) -> None:
        """Remember where things are; nothing is started."""
        self._settings = settings
        self._local: subprocess.Popen[bytes] | None = None

    def start(self) -> Job:
        """Start one run and return at once.

        Raises:
            AlreadyRunning: A local run has not finished.
            Unavailable: The Prefect server does not answer, or has no nightly deployment.
        """
        url = self._settings.prefect_api_url
        return self._through_prefect(url.rstrip("/")) if url else self._locally()

    def _through_prefect(self, api: str) -> Job:
        """Create a flow run of the nightly deployment, whose own concurrency limit prevents overlap."""
        import requests

        try:
            found = requests.get(f"{api}/deployments/name/{NIGHTLY_DEPLOYMENT}", timeout=API_TIMEOUT_SECONDS)
            if found.status_code == requests.codes.not_found:
                raise Unavailable(
                    "the Prefect server has no nightly deployment",
                    field="deployment",
                    allowed=NIGHTLY_DEPLOYMENT,
                )
            found.raise_for_status()
            made = requests.post(
                f"{api}/deployments/{found.json()['id']}/create_flow_run",
                json={
                    "state": {
                        "type": "SCHEDULED",
                        "name": "Scheduled",
                        "message": "asked for through the service",
                    }
                },
                timeout=API_TIMEOUT_SECONDS,
            )
            made.raise_for_status()
            return Job(job_id=str(made.json()["id"]), engine="prefect", status="scheduled")
        except (requests.RequestException, KeyError) as error:
            raise Unavailable(f"the Prefect server did not start the run ({type(error).__name__})") from error

    def _locally(self) -> Job:
        """Start `urbanwm nightly --engine local` in a session of its own.

        The child inherits the open lock file, so the lock lasts exactly as long as the run, whatever becomes
        of the service meanwhile.
        """
        if self._local is not None:
            self._local.poll()
        self._settings.locks_dir.mkdir(parents=True, exist_ok=True)
        logs = self._settings.runs_dir / "retrain"
        logs.mkdir(parents=True, exist_ok=True)
        job_id = secrets.token_hex(8)
        lock = os.open(
            self._settings.locks_dir / "retrain.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning("a run that was asked for earlier has not finished yet") from None
            self._local = _spawn(logs / f"{job_id}.log", lock)
        finally:
            os.close(lock)
        return Job(job_id=job_id, engine="local", status="started")


def _spawn(log_file: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start the nightly run detached from the service, its output in `log_file`."""
    with log_file.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *COMMAND],
            cwd=PROJECT_ROOT,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
