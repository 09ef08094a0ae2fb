"""Measure a whole night of several cities on a Dask cluster of one worker, and of two.

    python -m benchmarks.night                     # 8 simulated cities, two candidates of 60 steps
    python -m benchmarks.night --cities 2 --steps 5
    python -m benchmarks.night --candidates urban --steps 250 --history-days 400  # a first night
    python -m benchmarks.night --candidates urban,warm --steps 250 --history-days 400 --usual

Prints one JSON document: per number of workers the seconds of each step and of the night, the ratio of the
nights, and whether both gave the same scores to the last digit. Every night starts from an empty home, or
with `--usual` from the same copy of what the night before left, a champion among it. It runs as
`python -m flows.nightly` with a Prefect server of its own, and finds its cluster running. Every worker is one
process on one thread; seconds are wall time, so a busy neighbour counts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.timing import load_average
from flows.ingest import UNPROFILED
from urbanwm.contracts.signals import TARGETS

WORKERS = (1, 2)
FIRST, NEXT = "2026-04-20T04:30:00+00:00", "2026-04-21T04:30:00+00:00"
WEATHER = ("temperature_c", "wind_speed_ms", "pressure_hpa")


def write_cities(folder: Path, number: int) -> Path:
    """Write simulated cities, each with a seed of its own."""
    folder.mkdir()
    for seed in range(1, number + 1):
        document = {
            "name": f"city_{seed}",
            "timezone": "Europe/Berlin",
            "location": {"latitude": 50.0, "longitude": 10.0},
            "simulated": True,
            "signals": {name: [{"source": "synthetic", "seed": seed}] for name in (*TARGETS, *WEATHER)},
        }
        (folder / f"city_{seed}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder


def night(
    folder: Path, as_of: str, workers: int, size: Mapping[str, str], surroundings: Mapping[str, str]
) -> dict[str, Any]:
    """Run one night below `folder` on a cluster of so many workers; return its report.

    Args:
        folder: Holds `cities/` and the night's `home/`, which is made if it is not there.
        as_of: The night's time.
        workers: Processes of the cluster, one thread each.
        size: Environment variables that say how much there is to do.
        surroundings: All others. Not those of this process after a night: results that arrive in it import
            the project, which points the frameworks at the default home.
    """
    environment = {
        **surroundings,
        "OMP_NUM_THREADS": "1",
        "URBANWM_HOME": str(folder / "home"),
        "URBANWM_CITIES": str(folder / "cities"),
        **size,
        "URBANWM_TASK_RUNNER": "dask",
    }
    distributed: Any = importlib.import_module("distributed")  # has no types
    with distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, env=environment, config=UNPROFILED
    ) as cluster:
        environment["URBANWM_DASK_SCHEDULER"] = cluster.scheduler_address
        command = [sys.executable, "-m", "flows.nightly", "--json", "--as-of", as_of]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the night failed:\n{done.stdout}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def scores(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return what must not depend on the number of workers: every candidate's scores on held-out hours."""
    return {item["label"]: item["metrics"] for item in report["candidates"]}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.night", description=__doc__)
    parser.add_argument("--cities", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps of each candidate")
    parser.add_argument("--candidates", default="urban,urban@1", help="as URBANWM_CANDIDATES")
    parser.add_argument("--history-days", type=int, default=120, help="days that each city brings")
    parser.add_argument("--usual", action="store_true", help="measure a second night, not the first one")
    options = parser.parse_args(arguments)
    size = {
        "URBANWM_HISTORY_DAYS": str(options.history_days),
        "URBANWM_TRAINING_STEPS": str(options.steps),
        "URBANWM_CANDIDATES": options.candidates,
    }
    own = ("URBANWM_", "PREFECT_", "MLFLOW_")
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    before = load_average()
    reports = {}
    with tempfile.TemporaryDirectory(prefix="urbanwm-night-") as scratch:
        folder = Path(scratch)
        home, before_it = folder / "home", folder / "before"
        write_cities(folder / "cities", options.cities)
        if options.usual:
            night(folder, FIRST, max(WORKERS), size, surroundings)
            home.rename(before_it)
        for workers in WORKERS:
            if options.usual:
                shutil.copytree(before_it, home)
            as_of = NEXT if options.usual else FIRST
            reports[workers] = night(folder, as_of, workers, size, surroundings)
            shutil.rmtree(home)
    seconds = {workers: sum(report["seconds"].values()) for workers, report in reports.items()}
    one, two = WORKERS
    document = {
        "cities": options.cities,
        "size": size,
        "load_before": before,
        "seconds": {workers: report["seconds"] for workers, report in reports.items()},
        "training_seconds": {
            workers: {item["label"]: item["seconds"] for item in report["candidates"]}
            for workers, report in reports.items()
        },
        "night_seconds": seconds,
        "ratio": seconds[one] / seconds[two],
        "identical": scores(reports[one]) == scores(reports[two]),
    }
    sys.stdout.write(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
