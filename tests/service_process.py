"""A real service: its own home folder, its own process, its own port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import requests

from urbanwm.registry import CHAMPION, ChampionCache, ModelVersion, directory_digest

PROJECT = Path(__file__).resolve().parents[1]
READY_SECONDS = 120.0
"""Bound for a loaded machine; on an idle one the service is ready in a few seconds."""
STOP_SECONDS = 10.0
FULL_SIZE = os.environ.get("URBANWM_FULL_SIZE") == "1"
"""Whether tests that come in two sizes run the one of minutes."""

DEMO_CITY_FILE = """
name: demo
timezone: Europe/Berlin
simulated: true
location: {latitude: 50.0, longitude: 10.0}
signals:
  pm25:            [{source: synthetic, seed: 7}]
  energy_mwh:      [{source: synthetic, seed: 7}]
  traffic_index:   [{source: synthetic, seed: 7}]
  renewable_share: [{source: synthetic, seed: 7}]
"""
EMPTY_CITY_FILE = DEMO_CITY_FILE.replace("name: demo", "name: silent").replace("simulated: true", "")


@dataclass
class RunningService:
    """A service that answers."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_seconds: float

    def get(self, path: str, **arguments: object) -> requests.Response:
        return requests.get(self.url + path, timeout=30, **arguments)

    def post(self, path: str, body: object = None, **arguments: object) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=30, **arguments)


def write_cities(home: Path) -> None:
    """Write the city files; there are no data."""
    cities = home / "cities"
    cities.mkdir(parents=True)
    (cities / "demo.yaml").write_text(DEMO_CITY_FILE)
    (cities / "silent.yaml").write_text(EMPTY_CITY_FILE)


def prepare_home(home: Path) -> None:
    """Write city files and fill the lake of `demo` with 60 simulated days; no champion."""
    write_cities(home)
    fill_lake(home)


def fill_lake(home: Path) -> None:
    """Fill the lake of `demo` with 60 simulated days."""
    from urbanwm.cities import load_city
    from urbanwm.ingest import ingest_city
    from urbanwm.settings import load_settings

    settings = load_settings(home=home, cities_dir=home / "cities")
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    ingest_city(load_city("demo", settings), settings, start=start, end=end, clock=lambda: end)


def untrained_bundle(home: Path, number: int) -> Path:
    """Export an untrained world model of `demo`; the number is its seed."""
    import torch

    from tests.small_world import random_direct
    from urbanwm.assumptions import load_assumptions
    from urbanwm.cities import load_city
    from urbanwm.features import build_spec
    from urbanwm.lake import Lake
    from urbanwm.model.config import ModelDims, load_experiment
    from urbanwm.model.export import export_bundle
    from urbanwm.model.world_model import UrbanWorldModel
    from urbanwm.settings import load_settings

    settings = load_settings(home=home, cities_dir=home / "cities")
    frames = {"demo": Lake(settings.lake_uri).read("demo")}
    spec = build_spec("urban", frames, {"demo": load_city("demo", settings)}, None, 72, 48)
    spec = replace(spec, direct=random_direct(spec, number))
    experiment = load_experiment("urban")
    torch.manual_seed(number)
    model = UrbanWorldModel(experiment.model, ModelDims.of(spec))
    assumptions = load_assumptions().describe()
    return export_bundle(model, experiment, spec, {}, assumptions, {}, home / f"bundle-{number}")


def add_champion(home: Path, version: str = "1") -> None:
    """Put an untrained world model into the champion cache, as the registry would have handed it out."""
    from urbanwm.settings import load_settings

    settings = load_settings(home=home, cities_dir=home / "cities")
    bundle = untrained_bundle(home, int(version))

    class OneChampion:
        def champion(self) -> ModelVersion:
            tags = {"bundle_digest": directory_digest(bundle), "dataset_version": "0"}
            return ModelVersion(
                version, f"run-{version}", datetime(2026, 3, 2, tzinfo=UTC), "", (CHAMPION,), tags
            )

        def download(self, version: ModelVersion, destination: Path) -> Path:
            return Path(shutil.copytree(bundle, destination))

    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    assert ChampionCache(settings.cache_dir, OneChampion()).sync() is not None


@contextmanager
def running_service(home: Path, probe: str = "/readyz", **environment: str) -> Iterator[RunningService]:
    """Start `bentoml serve`, wait until it is ready (`probe` answers 200), and stop it gracefully."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for folder in ("bentoml", "prometheus"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    variables = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("URBANWM_", "PREFECT_", "MLFLOW_"))
        },
        "URBANWM_HOME": str(home),
        "URBANWM_CITIES": str(home / "cities"),
        "BENTOML_HOME": str(home / "bentoml"),
        "PROMETHEUS_MULTIPROC_DIR": str(home / "prometheus"),
        "BENTOML_DO_NOT_TRACK": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:UrbanWM"]
    log = home / "service.log"
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=PROJECT,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url + probe, process, log)
        yield RunningService(url, process, log, time.perf_counter() - began)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS * 3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the service ended:\n{log.read_text()[-3000:]}"
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the service did not become ready:\n{log.read_text()[-3000:]}")
