"""The services of docker-compose.yml as local processes, each by its own command."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
import yaml

PROJECT = Path(__file__).resolve().parents[1]
READY_SECONDS = 300.0
STOP_SECONDS = 30.0
SECRETS = {"POSTGRES_PASSWORD": "a-password", "S3_ACCESS_KEY": "an-id", "S3_SECRET_KEY": "a-secret"}
POSTGRES_USER = "urbanwm"
REFERENCE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def compose_file() -> dict[str, Any]:
    """Return docker-compose.yml as it is written."""
    document: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
    return document


def postgres_folder() -> Path | None:
    """Return where PostgreSQL's programs are, the newest first; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return found[0].parent if found else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """Ports in place of host names, and everything that was started."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.document = compose_file()
        self.variables = {**SECRETS, **variables}
        self.ports = {name: free_port() for name in ("postgres", "minio", "mlflow", "prefect", "service")}
        self._started = ExitStack()

    def close(self) -> None:
        self._started.close()

    def url(self, name: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports[name]}{path}"

    def fill(self, text: str) -> str:
        """Fill in variables as Compose does, and put local addresses in place of the containers' names."""

        def value(found: re.Match[str]) -> str:
            name, kind, default = found.groups()
            return self.variables.get(name) or (default if kind == "-" else "")

        text = REFERENCE.sub(value, text)
        for name, port in self.ports.items():
            inside = {"postgres": 5432, "minio": 9000, "mlflow": 5000, "prefect": 4200, "service": 3000}[name]
            text = text.replace(f"{name}:{inside}", f"127.0.0.1:{port}")
            text = text.replace(f"--port={inside}", f"--port={port}")
        return text

    def command(self, name: str) -> list[str]:
        """Return a service's own command."""
        words = [self.fill(word) for word in self.document["services"][name]["command"]]
        if name == "prefect":
            words[words.index("4200")] = str(self.ports["prefect"])
        return words

    def environment(self, name: str) -> dict[str, str]:
        """Return a service's own environment, on top of what any process needs."""
        stated = self.document["services"][name].get("environment", {})
        own = {key: self.fill(str(value)) for key, value in stated.items()}
        inherited = {key: os.environ[key] for key in ("LANG", "TZ") if key in os.environ}
        return {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "URBANWM_HOME": str(self.folder / name),
            "URBANWM_PORT": str(self.ports["service"]),
            **own,
            **{key: value for key, value in self.variables.items() if key.startswith("URBANWM_")},
        }

    def start(self, name: str) -> Path:
        """Start a service by its own command; returns its log."""
        (self.folder / name).mkdir(exist_ok=True)
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(name),
                cwd=PROJECT,
                env=self.environment(name),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.callback(_stop, process)
        return log

    def start_postgres(self) -> None:
        """Start PostgreSQL as the image does, and run the project's own set-up script on it."""
        programs = postgres_folder()
        assert programs is not None
        data = self.folder / "postgres"
        data.mkdir()
        as_user: list[str] = []
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            os.chown(data, pwd.getpwnam("postgres").pw_uid, pwd.getpwnam("postgres").pw_gid)
            for parent in (self.folder, *self.folder.parents):
                if parent.stat().st_uid == 0 and parent != Path("/"):
                    parent.chmod(parent.stat().st_mode | 0o011)
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        password = self.folder / "password"
        password.write_text(self.variables["POSTGRES_PASSWORD"])
        password.chmod(0o644)
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", POSTGRES_USER, "--auth=scram-sha-256"]
        subprocess.run([*as_user, *initdb, f"--pwfile={password}"], check=True, capture_output=True)
        server = [str(programs / "postgres"), "-D", str(data), "-p", str(self.ports["postgres"])]
        process = subprocess.Popen(
            [*as_user, *server, "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._started.callback(_stop, process)
        environment = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.ports["postgres"]),
            "PGDATABASE": "postgres",
            "PGPASSWORD": self.variables["POSTGRES_PASSWORD"],
            "POSTGRES_USER": POSTGRES_USER,
        }
        ready = [str(programs / "pg_isready"), "-U", POSTGRES_USER]
        wait_until(
            lambda: subprocess.run(ready, env=environment, capture_output=True, check=False).returncode == 0,
            what="PostgreSQL",
        )
        subprocess.run(["sh", str(PROJECT / "infra" / "postgres-init.sh")], env=environment, check=True)

    def start_s3(self) -> None:
        """Start an S3 and make the bucket that `bucket` makes."""
        import boto3
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer("127.0.0.1", self.ports["minio"], verbose=False)
        server.start()
        self._started.callback(server.stop)
        client = boto3.client(
            "s3",
            endpoint_url=self.url("minio"),
            region_name="us-east-1",
            aws_access_key_id=self.variables["S3_ACCESS_KEY"],
            aws_secret_access_key=self.variables["S3_SECRET_KEY"],
        )
        client.create_bucket(Bucket="urbanwm")


@contextmanager
def stack(folder: Path, **variables: str) -> Iterator[Stack]:
    """Yield a stack in which nothing runs yet; everything that was started ends with it."""
    made = Stack(folder, variables)
    try:
        yield made
    finally:
        made.close()


def wait_until(condition: Any, seconds: float = READY_SECONDS, what: str = "it") -> None:
    """Wait for a condition; a connection that is refused counts as not yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except requests.RequestException:
            pass
        time.sleep(0.3)
    raise AssertionError(f"{what} did not come true within {seconds:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and whatever it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT if "postgres" in str(process.args) else signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def promtool() -> str | None:
    """Return Prometheus' own checker, None where it is not installed."""
    return shutil.which("promtool")
