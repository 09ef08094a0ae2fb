"""The performance table: from the benchmarks' JSON to Markdown, the same for `make bench` and the README.

    python -m benchmarks.table            # the README's table, from docs/performance.json

Every row names the figure, where it stands in the JSON, and what was promised.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).resolve().parents[1] / "docs" / "performance.json"
BEGIN, END = "<!-- performance:begin -->", "<!-- performance:end -->"
MIB = "MiB"
MACHINE = ("processor", "cores", "torch", "onnxruntime")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        label: What was measured.
        path: Where it stands in the results: part, then keys.
        goal: What was promised, in words.
        unit: Put after the number; `%` also multiplies it by 100.
    """

    label: str
    path: tuple[str, ...]
    goal: str
    unit: str = "×"

    @property
    def key(self) -> str:
        """Return the figure's name in the summary."""
        return " / ".join(self.path)

    def shown(self, value: float | str) -> str:
        """Return the figure as the table shows it; a text says why there is none."""
        if isinstance(value, str):
            return value
        if self.unit == "%":
            return f"{100 * value:.0f} %"
        number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        return f"{number} {self.unit}".replace(" ×", "×")


def _one(name: str) -> str:
    return f"reference_way_over_ours {name}"


ROWS = (
    Row("training step: torchrl's RSSM ÷ ours", ("training", "torchrl_over_ours"), "≥ 1.9×"),
    Row("training step: torchrl's fastest path ÷ ours", ("training", "torchrl_fastest_over_ours"), "≥ 1.5×"),
    Row("training step: the reference's way ÷ ours", ("training", "reference_way_over_ours"), "≥ 2.1×"),
    Row("training step: plain PyTorch loop ÷ ours", ("training", "plain_loop_over_ours"), ""),
    Row("training step: share of the matrix product", ("training", "share_of_gemm"), "≥ 75 %", "%"),
    Row("training step: its own products ÷ all of it", ("training", "own_products_over_ours"), "", "%"),
    Row("training step", ("training", "gflops"), "", "GFLOP/s"),
    Row("bfloat16 step: torchrl in float32 ÷ ours", ("training", "torchrl_over_ours_bf16"), "≥ 2.8×"),
    Row(
        "default experiment per parameter and hour ÷ the reference shape",
        ("training", "default_cost_per_parameter_hour"),
        "≤ 1.3×",
    ),
    Row("imagine 1 × 48 h", ("imagination", "milliseconds", "ours 1 x 48 h"), "", "ms"),
    Row("imagine 1 × 48 h: the reference's way ÷ ours", ("imagination", _one("1 x 48 h")), "≥ 6×"),
    Row("imagine 1 × 48 h ÷ the memory floor", ("imagination", "over_memory_floor"), "≤ 2.5×"),
    Row("imagine 1 × 168 h ÷ 1 × 48 h", ("imagination", "168_h_over_48_h"), "≤ 4×"),
    Row("imagine 64 × 48 h: share of the matrix product", ("imagination", "share_of_gemm_64"), "≥ 80 %", "%"),
    Row("imagine 64 × 48 h", ("imagination", "gflops_64"), "", "GFLOP/s"),
    Row(
        "10,000 policies × 48 h in one call",
        ("imagination", "ten_thousand_policies", "per_second"),
        "",
        "policies/s",
    ),
    Row(
        "10,000 policies: rate ÷ that of 64",
        ("imagination", "ten_thousand_policies", "over_64_rate"),
        "≥ 0.8×",
    ),
    Row(
        "10,000 policies: memory on top of the model",
        ("imagination", "ten_thousand_policies", "extra_mib"),
        "bounded",
        MIB,
    ),
    Row("`urbanwm --help`, processor time", ("start", "help", "processor_seconds"), "< 1 s", "s"),
    Row("`urbanwm simulate`, processor time", ("start", "simulate", "processor_seconds"), "< 3 s", "s"),
    Row(
        "first training step after process start",
        ("start", "first_training_step", "processor_seconds"),
        "< 5 s",
        "s",
    ),
    Row("service ready, wall clock", ("start", "service", "wall_seconds"), "", "s"),
    Row("training on 100 cities × 1 year, peak", ("memory", "training_mib", "training"), "< 2,048 MiB", MIB),
    Row("one service worker, resident", ("memory", "service_mib", "worker", "rss"), "< 350 MiB", MIB),
    Row("one service worker, proportional", ("memory", "service_mib", "worker", "pss"), "", MIB),
    Row("service ÷ bare Starlette app, answers per second", ("serving", "service_over_bare"), ""),
    Row("service ÷ `mlflow models serve`, answers per second", ("serving", "service_over_mlflow_plain"), ""),
    Row(
        "service ÷ `mlflow models serve` that remembers its nowcast",
        ("serving", "service_over_mlflow_remembering"),
        "",
    ),
    Row("ceiling: float32 matrix product", ("machine", "gemm_gflops"), "", "GFLOP/s"),
    Row("ceiling: reading 1.7 MB of weights", ("machine", "weight_reads_gbs"), "", "GB/s"),
)
GROWTH = (
    ("rows imagined for 48 h", "batch"),
    ("hours imagined for one row", "horizon_hours"),
    ("samples of an answer of 48 h", "samples"),
    ("cities read into training series (1 year)", "cities_reading"),
    ("cities that a training step draws from", "cities_training_step"),
)


def find(results: Mapping[str, Any], path: tuple[str, ...]) -> Any:  # noqa: ANN401 - whatever stands there
    """Return the value at a path, or None."""
    value: Any = results
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the table needs of the parts' documents."""
    figures = {row.key: value for row in ROWS if (value := find(results, row.path)) is not None}
    growth = {name: table for _, name in GROWTH if (table := find(results, ("growth", name))) is not None}
    loads = {part: found["load_before"] for part, found in results.items() if "load_before" in found}
    machine = {name: find(results, ("machine", name)) for name in MACHINE}
    return {"machine": machine, "load_before": loads, "figures": figures, "growth_ms": growth}


def markdown(figures: Mapping[str, Any]) -> str:
    """Return the tables, with what they were taken on."""
    machine, loads = figures["machine"], figures["load_before"].values()
    lines = ["| figure | measured | goal |", "|---|---|---|"]
    known = figures["figures"]
    lines += [
        f"| {row.label} | {row.shown(known[row.key])} | {row.goal} |" for row in ROWS if row.key in known
    ]
    if figures["growth_ms"]:
        lines += ["", "| cost in ms | | | | | |", "|---|---|---|---|---|---|"]
    for label, name in GROWTH:
        if name in figures["growth_ms"]:
            cells = [f"{count}: {value:,.0f}" for count, value in figures["growth_ms"][name].items()]
            lines.append("| " + " | ".join([label, *cells, *[""] * (5 - len(cells))]) + " |")
    load = f"; load average before the parts {min(loads)} to {max(loads)}" if loads else ""
    where = f"One thread of a {machine['processor']} ({machine['cores']} cores)"
    software = f"torch {machine['torch']}, ONNX Runtime {machine['onnxruntime']}"
    lines += ["", f"{where}, {software}{load}. `make bench` measures it again."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown(json.loads(PUBLISHED.read_text(encoding="utf-8"))))
