"""Memory: training the default experiment on 100 cities × 1 year, and a service worker that has answered.

    python -m benchmarks.memory [--cities 100] [--skip-service]

The training is a process of its own that reads made-up cities into series and does a few steps of the default
experiment with its validation; its figure is the largest resident memory. A worker's figures are read from
`/proc` after it has answered: resident, and proportional (memory shared with other processes is divided).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.serving import drive, free_port, prepare, running, service_body
from benchmarks.timing import load_average

CITIES, DAYS, STEPS = 100, 365, 3
ANSWER_SECONDS = 4.0
MIB_PER_KIB = 1 / 1024


def peak_mib() -> float:
    """Return the largest resident memory of this process so far, MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MIB_PER_KIB, 1)


def train(count: int) -> dict[str, float]:
    """Train in this process; return the peaks after each part, MiB."""
    from benchmarks.our_worlds import made_up_city, made_up_hours
    from urbanwm.features import build_series
    from urbanwm.model.config import experiment_spec, load_experiment
    from urbanwm.training import train as run_training

    peaks = {"imports": peak_mib()}
    frames = {f"city{number}": made_up_hours(DAYS, seed=number) for number in range(count)}
    experiment = load_experiment("urban", {"training.steps": STEPS, "training.validate_every": STEPS})
    spec = experiment_spec(experiment, frames, {name: made_up_city(name) for name in frames})
    peaks["frames"] = peak_mib()
    series = {name: build_series(frame, name, spec) for name, frame in frames.items()}
    peaks["series"] = peak_mib()
    with tempfile.TemporaryDirectory() as scratch:
        run_training(experiment, series, spec, Path(scratch), progress=False)
    return peaks | {"training": peak_mib()}


def processes(root: int) -> dict[int, str]:
    """Return the command lines of a process and everything below it, by process id."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        fields = stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        parents[int(stat.parent.name)] = int(fields[1])
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in sorted(family)
    }


def memory_of(pid: int) -> dict[str, float]:
    """Return resident and proportional memory of a process, MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {name.lower(): round(kib[name] * MIB_PER_KIB, 1) for name in ("Rss", "Pss", "Anonymous")}


def serve(home: Path) -> dict[str, object]:
    """Start the service, let it answer, and return what its processes hold."""
    prepare(home)
    port = free_port()
    command = [sys.executable, "-m", "urbanwm", "serve", "--port", str(port)]
    with running(command, home, "/readyz", port) as root:
        drive(port, "/api/simulate", service_body, 1, ANSWER_SECONDS)
        found = processes(root)
        worker = next(pid for pid, line in found.items() if "worker" in line)
        return {"worker": memory_of(worker), "others": [memory_of(pid) for pid in found if pid != worker]}


def measure(cities: int, *, with_service: bool) -> dict[str, object]:
    """Return the figures."""
    load = load_average()
    child = [sys.executable, "-m", "benchmarks.memory", "--train-here", "--cities", str(cities)]
    done = subprocess.run(child, capture_output=True, text=True, check=True)
    found: dict[str, object] = {
        "load_before": load,
        "training_cities": cities,
        "training_mib": json.loads(done.stdout),
    }
    if with_service:
        with tempfile.TemporaryDirectory(prefix="urbanwm-bench-") as folder:
            found["service_mib"] = serve(Path(folder))
    return found


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cities", type=int, default=CITIES)
    parser.add_argument("--skip-service", action="store_true")
    parser.add_argument("--train-here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train_here:
        print(json.dumps(train(options.cities)))
    else:
        print(json.dumps(measure(options.cities, with_service=not options.skip_service), indent=2))


if __name__ == "__main__":
    main()
