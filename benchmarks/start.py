"""How long things take to start: the command line, an answer, the first training step, the service.

    python -m benchmarks.start [--rounds 5]

Each is a process of its own, with byte code and file cache warm. Processor seconds (user + system) are what
the process needs of an idle core; the clock on the wall says more only where nothing else runs. The first
training step is that of the reference shape, counted from the start of the process, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.serving import CITY, PROJECT, free_port, prepare, running
from benchmarks.timing import load_average

URBANWM = (sys.executable, "-m", "urbanwm")
SIMULATE = (*URBANWM, "simulate", "--city", CITY, "--car-free", "0.3", "--renewable", "0.5", "--json")
FIRST_STEP = (
    "from benchmarks.our_worlds import World; world = World.make('base'); world.step(world.batch(32))"
)


def processor_seconds() -> float:
    """Return what this process's finished children have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def started(command: Sequence[str], home: Path, rounds: int) -> dict[str, float]:
    """Run a command once to warm caches, then `rounds` times; return medians in seconds."""
    environment = {**os.environ, "URBANWM_HOME": str(home), "OMP_NUM_THREADS": "1"}
    processor, wall = [], []
    for counted in range(-1, rounds):
        used, begin = processor_seconds(), time.perf_counter()
        subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, check=True)
        if counted >= 0:
            processor.append(processor_seconds() - used)
            wall.append(time.perf_counter() - begin)
    return {"processor_seconds": round(median(processor), 2), "wall_seconds": round(median(wall), 2)}


def service(home: Path) -> dict[str, float]:
    """Return the seconds until `/readyz` says yes, and what parent and worker used until stopped."""
    used, begin, port = processor_seconds(), time.perf_counter(), free_port()
    with running([*URBANWM, "serve", "--port", str(port)], home, "/readyz", port):
        ready = time.perf_counter() - begin
    return {"wall_seconds": round(ready, 2), "processor_seconds": round(processor_seconds() - used, 2)}


def measure(rounds: int) -> dict[str, object]:
    """Return the figures."""
    load = load_average()
    with tempfile.TemporaryDirectory(prefix="urbanwm-bench-") as folder:
        home = Path(folder)
        prepare(home)
        return {
            "load_before": load,
            "help": started([*URBANWM, "--help"], home, rounds),
            "simulate": started(SIMULATE, home, rounds),
            "first_training_step": started([sys.executable, "-c", FIRST_STEP], home, rounds),
            "service": service(home),
        }


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of each command")
    print(json.dumps(measure(parser.parse_args().rounds), indent=2))


if __name__ == "__main__":
    main()
