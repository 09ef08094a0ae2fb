"""Starting a nightly run on request, without waiting for it."""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serving.envelope import AlreadyRunning, Unavailable
from urbanwm.clock import Clock, utc_now
from urbanwm.lease import night_at_work
from urbanwm.settings import PROJECT_ROOT, Settings, child_environment

NIGHTLY_DEPLOYMENT = "nightly/nightly"
"""Prefect's `flow/deployment` name of the nightly run."""
COMMAND = ("-m", "urbanwm", "nightly", "--engine", "local")
API_TIMEOUT_SECONDS = 10.0
ASKED = "asked for through the service"


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

    def __init__(self, settings: Settings, clock: Clock = utc_now) -> None:
        """Remember where things are; nothing is started."""
        self._settings = settings
        self._clock = clock
        self._local: subprocess.Popen[bytes] | None = None

    def start(self) -> Job:
        """Start one run and return at once.

        Raises:
            AlreadyRunning: A run has not finished, or has not begun.
            Unavailable: The Prefect server does not answer, or has no nightly deployment.
        """
        holder = night_at_work(self._settings)
        if holder is not None:
            raise AlreadyRunning(f"a nightly run is at work: {holder}")
        url = self._settings.prefect_api_url
        return self._through_prefect(url.rstrip("/")) if url else self._locally()

    def _through_prefect(self, api: str) -> Job:
        """Create a flow run of the nightly deployment.

        The deployment's own limit would cancel a second run without a word to whoever asked for it, so a run
        that is under way, or was asked for and has not begun, is looked for first.
        """
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
            deployment = str(found.json()["id"])
            for states, sentence in self._in_the_way(deployment):
                counted = requests.post(f"{api}/flow_runs/count", json=states, timeout=API_TIMEOUT_SECONDS)
                counted.raise_for_status()
                if counted.json():
                    raise AlreadyRunning(sentence)
            made = requests.post(
                f"{api}/deployments/{deployment}/create_flow_run",
                json={"state": {"type": "SCHEDULED", "name": "Scheduled", "message": ASKED}},
                timeout=API_TIMEOUT_SECONDS,
            )
            made.raise_for_status()
            return Job(job_id=str(made.json()["id"]), engine="prefect", status="scheduled")
        except (requests.RequestException, KeyError) as error:
            raise Unavailable(f"the Prefect server did not start the run ({type(error).__name__})") from error

    def _in_the_way(self, deployment: str) -> list[tuple[dict[str, Any], str]]:
        """Return Prefect's filters of the runs that leave no room for another, with what to say of each."""
        of_it = {"deployments": {"id": {"any_": [deployment]}}}
        running = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
        overdue = {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "expected_start_time": {"before_": self._clock().isoformat()},
        }
        return [
            ({**of_it, "flow_runs": running}, "a nightly run is under way"),
            ({**of_it, "flow_runs": overdue}, "a run that was asked for earlier has not begun yet"),
        ]

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
