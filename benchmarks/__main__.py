"""`make bench`: every part in a process of its own, on one thread; one JSON file and one Markdown table.

    python -m benchmarks [PART …] [--publish]

Writes `benchmarks/results/bench.json` and `bench.md`; parts that are not asked for keep their last figures.
With `--publish` the figures of the README's table go to `docs/performance.json`, from which `python -m
benchmarks.table` makes the table. torchrl is a peer where it is installed (`pip install -e .[bench]`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.table import PUBLISHED, markdown, summary

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("machine", "training", "imagination", "growth", "start", "memory", "features", "lake", "serving")
ERROR_CHARACTERS = 2000


def run_part(name: str) -> dict[str, Any] | str:
    """Run a part in a fresh process on one thread; return its document, or the end of what went wrong."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return done.stderr[-ERROR_CHARACTERS:]
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def main() -> None:
    """Run the parts, write the results, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}; default: all")
    parser.add_argument("--publish", action="store_true", help=f"write {PUBLISHED.name} for the README")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part is named {', '.join(sorted(unknown))}")
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "bench.json"
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    failed = []
    for name in options.parts or PARTS:
        found = run_part(name)
        if isinstance(found, str):
            sys.stderr.write(f"{name}: no figures\n{found}\n")
            failed.append(name)
        else:
            results[name] = found
            file.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    figures = summary(results)
    table = markdown(figures)
    (RESULTS / "bench.md").write_text(table, encoding="utf-8")
    if options.publish:
        PUBLISHED.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(table)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
