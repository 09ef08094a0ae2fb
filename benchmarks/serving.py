"""Measure the service against a bare Starlette app and `mlflow models serve`, all doing the same rollout.

    python -m benchmarks.serving                    # about two minutes; prints one JSON document
    python -m benchmarks.serving --seconds 3 --skip-mlflow

Every server answers the same question (48 h, 20 samples, a new seed each time) with the same library and
untrained world model, from a home folder made for the purpose. `bare` is one async Starlette route under
uvicorn that calls `Answers.simulate` and nothing else: no queue, limits, log line, metrics. `mlflow_plain` is
`mlflow models serve` of a pyfunc that filters and rolls out at every call, as such a model does;
`mlflow_remembering` keeps its nowcast as the service does, which leaves the difference of the servers. The
load comes from this process, which shares the machine with the server: absolute figures are modest, ratios
are what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from urbanwm.cities import load_city
from urbanwm.features import build_spec
from urbanwm.ingest import ingest_city
from urbanwm.lake import Lake
from urbanwm.registry import Registry, directory_digest, promote
from urbanwm.settings import Settings, load_settings

PROJECT = Path(__file__).resolve().parents[1]
CITY = "demo"
DATA_END = datetime(2026, 3, 2, tzinfo=UTC)
DATA_DAYS = 400
BODY: dict[str, Any] = {
    "city": CITY,
    "horizon_hours": 48,
    "policy": {"car_free_ratio": 0.3, "renewable_mix": 0.5},
    "uncertainty_samples": 20,
}
READY_SECONDS = 90.0
STOP_SECONDS = 15.0
OVERLOAD_FACTOR = 4
"""Connections of the overload run, in multiples of the normal one: more than the queue admits."""
Encode = Callable[[int], bytes]


@dataclass
class Load:
    """What a number of connections saw: seconds and status of every answer."""

    seconds: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    elapsed: float = 0.0

    def report(self) -> dict[str, Any]:
        """Return throughput and latency of the answers with status 200, and how many there were of each."""
        times = np.array(self.seconds) * 1e3
        good = np.array(self.statuses) == 200
        refused = np.array(self.statuses) == 429
        median, high = np.percentile(times[good], (50, 99)) if good.any() else (np.nan, np.nan)
        report = {
            "answers_per_second": round(float(good.sum()) / self.elapsed, 1),
            "p50_ms": round(float(median), 1),
            "p99_ms": round(float(high), 1),
            "p99_over_p50": round(float(high / median), 2),
            "statuses": dict(Counter(self.statuses)),
        }
        if refused.any():
            report["refused_p99_ms"] = round(float(np.percentile(times[refused], 99)), 1)
        return report


async def _connection(port: int, path: str, encode: Encode, load: Load, until: float, first: int) -> None:
    """Ask one question after the other over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seed = first
    while time.perf_counter() < until:
        body = encode(seed)
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        began = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        load.seconds.append(time.perf_counter() - began)
        load.statuses.append(int(answer.split(b" ", 2)[1]))
        seed += 1
    writer.close()


async def _drive(port: int, path: str, encode: Encode, connections: int, seconds: float) -> Load:
    load = Load()
    began = time.perf_counter()
    tasks = [
        _connection(port, path, encode, load, began + seconds, number * 1_000_000)
        for number in range(connections)
    ]
    await asyncio.gather(*tasks)
    load.elapsed = time.perf_counter() - began
    return load


def drive(port: int, path: str, encode: Encode, connections: int, seconds: float) -> Load:
    """Put `connections` on a server for some seconds, after a warm-up with as many."""
    asyncio.run(_drive(port, path, encode, connections, min(2.0, seconds)))
    return asyncio.run(_drive(port, path, encode, connections, seconds))


def service_body(seed: int) -> bytes:
    """Return a request of our own API."""
    return orjson.dumps({**BODY, "seed": seed})


def pyfunc_body(seed: int) -> bytes:
    """Return a request of MLflow's scoring server."""
    return orjson.dumps({"dataframe_records": [{"body": orjson.dumps({**BODY, "seed": seed}).decode()}]})


def prepare(home: Path) -> Settings:
    """Fill a lake with simulated data and promote an untrained model: its arithmetic is a trained one's."""
    import torch

    from benchmarks.our_worlds import with_direct_forecast
    from urbanwm.assumptions import load_assumptions
    from urbanwm.model.config import ModelDims, load_experiment
    from urbanwm.model.export import export_bundle
    from urbanwm.model.world_model import UrbanWorldModel

    settings = load_settings(home=home, tracking_uri=f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    city = load_city(CITY, settings)
    begin = DATA_END - timedelta(days=DATA_DAYS)
    ingest_city(city, settings, start=begin, end=DATA_END, clock=lambda: DATA_END)
    experiment = load_experiment("urban")
    frames = {CITY: Lake(settings.lake_uri).read(CITY)}
    spec = with_direct_forecast(build_spec("urban", frames, {CITY: city}, None, 72, 48), frames)
    torch.manual_seed(0)
    model = UrbanWorldModel(experiment.model, ModelDims.of(spec))
    bundle = export_bundle(model, experiment, spec, {}, load_assumptions().describe(), {}, home / "bundle")
    registry = Registry(settings)
    with registry.start_run("benchmark", {"stage": "train"}) as run:
        run.log_folder(bundle, "bundle")
    tags = {"bundle_digest": directory_digest(bundle), "dataset_version": 1}
    version = registry.register(run.run_id, tags, {}).version
    promote(registry, version, validate=lambda _: None, expected_champion=None)
    return settings


@contextlib.contextmanager
def running(command: list[str], home: Path, ready_path: str, port: int) -> Iterator[int]:
    """Start a server, wait until it is ready, and stop it with everything it started."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("URBANWM_", "MLFLOW_"))},
        "URBANWM_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}{ready_path}", process)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}; see server.log in the home folder")
        with contextlib.suppress(urllib.error.URLError, OSError):
            if urllib.request.urlopen(url, timeout=2).status == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"{url} was not ready within {READY_SECONDS:.0f} s")


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_bare(home: Path, port: int) -> None:
    """Serve one Starlette route, one process, until a signal comes."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from serving.answers import Answers

    answers = Answers.from_settings(load_settings(home=home))

    async def simulate(request: Request) -> Response:
        document = answers.simulate(orjson.loads(await request.body())).document
        return Response(orjson.dumps(document), media_type="application/json")

    async def ready(_: Request) -> Response:
        return Response(status_code=200 if answers.unready is None else 503)

    routes = [Route("/api/simulate", simulate, methods=["POST"]), Route("/readyz", ready)]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=port, log_level="warning", access_log=False)


def save_pyfunc(home: Path, *, remember: bool) -> Path:
    """Save the same rollout as an MLflow model from code."""
    import mlflow

    folder = home / f"pyfunc-{remember}"
    options = {"project": str(PROJECT), "home": str(home), "city": CITY, "remember": remember}
    code = str(PROJECT / "benchmarks" / "rollout_model.py")
    mlflow.pyfunc.save_model(folder, python_model=code, model_config=options, pip_requirements=[])
    return folder


def measure(home: Path, connections: int, seconds: float, *, with_mlflow: bool) -> dict[str, Any]:
    """Run the servers one after the other under the same load."""
    results: dict[str, Any] = {}
    port = free_port()
    this = [sys.executable, "-m", "benchmarks.serving"]
    with running([*this, "--bare", str(home), "--port", str(port)], home, "/readyz", port):
        results["bare"] = drive(port, "/api/simulate", service_body, connections, seconds).report()
    port = free_port()
    bentoml = [sys.executable, "-m", "urbanwm", "serve", "--port", str(port)]
    with running(bentoml, home, "/readyz", port):
        results["service"] = drive(port, "/api/simulate", service_body, connections, seconds).report()
        many = OVERLOAD_FACTOR * connections
        results["overload"] = drive(port, "/api/simulate", service_body, many, seconds).report()
        results["after"] = drive(port, "/api/simulate", service_body, 1, seconds / 2).report()
    for name, remember in (("plain", False), ("remembering", True)) if with_mlflow else ():
        model, port = save_pyfunc(home, remember=remember), free_port()
        scoring = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
        with running([*scoring, "-m", str(model), "-p", str(port)], home, "/ping", port):
            report = drive(port, "/invocations", pyfunc_body, connections, seconds).report()
        results[f"mlflow_{name}"] = report
    speed = {name: result["answers_per_second"] for name, result in results.items()}
    for rival in speed.keys() - {"service", "overload", "after"}:
        results[f"service_over_{rival}"] = round(speed["service"] / speed[rival], 2)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0, help="per server, after a warm-up")
    parser.add_argument("--skip-mlflow", action="store_true")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        serve_bare(options.bare, options.port)
        return
    with tempfile.TemporaryDirectory(prefix="urbanwm-bench-") as folder:
        home = Path(folder)
        prepare(home)
        load = round(os.getloadavg()[0], 2)
        found = measure(home, options.connections, options.seconds, with_mlflow=not options.skip_mlflow)
    about = {"cores": os.cpu_count(), "load_before": load, "question": BODY}
    print(json.dumps({**about, "connections": options.connections, **found}, indent=2))


if __name__ == "__main__":
    main()
