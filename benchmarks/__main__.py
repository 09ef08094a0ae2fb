"""`make bench`: every benchmark in a process of its own, one Markdown table and one JSON file.

The service's benchmark needs a state with a champion (`make nightly` first) and is left out without one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

OUT = Path("benchmarks/results.json")
PARTS = ("model", "lake", "serving")
NEEDS_A_CHAMPION = "serving"


def main() -> None:
    """Run the parts, write `benchmarks/results.json`, print the table."""
    results = {}
    failed = []
    for name in PARTS:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(f"{name}: no figures\n{done.stderr[-2000:]}\n")
            failed += [name] if name != NEEDS_A_CHAMPION else []
            continue
        results[name] = json.loads(done.stdout)
    OUT.write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
    print("| benchmark | figure | value |\n|---|---|---|")
    for name, figures in results.items():
        for figure, value in figures.items():
            shown = json.dumps(value) if isinstance(value, (dict, list)) else value
            print(f"| {name} | {figure} | {shown} |")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
