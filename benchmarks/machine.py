"""What this machine can do at most, one thread: the ceilings that a roofline compares with.

    python -m benchmarks.machine

Matrix products (float32 and bfloat16) at the shapes of a training step, at the rows of a rollout, and the
speed at which a matrix–vector product streams weights that do not fit a core's own cache.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.timing import Job, interleave, load_average

ROWS, INNER, OUTER = 1600, 256, 1024
"""The large product of a training step: 32 × 50 rows through GRU and prior."""
ROLLOUT_ROWS = 64
WEIGHT_BYTES = 4 * (INNER * OUTER + INNER * INNER + 128 * 768)
"""Weights that one imagined hour has to read: h to gates and head, head to z, z to gates; 1.70 MB."""
READS_PER_ROUND = 50
PRODUCTS_PER_ROUND = 10
"""So many that a round of products takes as long as a training step, and meets the same machine."""
GEMM_GFLOP = PRODUCTS_PER_ROUND * 2 * ROWS * INNER * OUTER / 1e9
"""Work of a round of products, large or of 64 rows."""


def gemm(dtype: torch.dtype = torch.float32) -> Job:
    """Return a round of large products."""
    left, right = torch.randn(ROWS, INNER, dtype=dtype), torch.randn(INNER, OUTER, dtype=dtype)
    out = torch.empty(ROWS, OUTER, dtype=dtype)
    return lambda: [torch.mm(left, right, out=out) for _ in range(PRODUCTS_PER_ROUND)]


def rollout_gemm() -> Job:
    """Return as much work in products of 64 rows, as one imagined hour has them."""
    left, right = torch.randn(ROLLOUT_ROWS, INNER), torch.randn(INNER, OUTER)
    out = torch.empty(ROLLOUT_ROWS, OUTER)
    repeats = PRODUCTS_PER_ROUND * ROWS // ROLLOUT_ROWS
    return lambda: [torch.mm(left, right, out=out) for _ in range(repeats)]


def weight_reads() -> Job:
    """Return `READS_PER_ROUND` passes over as many weights as one imagined hour reads."""
    weights = np.ones(WEIGHT_BYTES // 4, np.float32)
    return lambda: [float(weights.max()) for _ in range(READS_PER_ROUND)]


def weight_read_gbs(seconds: float) -> float:
    """Return GB/s of `weight_reads`."""
    return READS_PER_ROUND * WEIGHT_BYTES / seconds / 1e9


def describe() -> dict[str, object]:
    """Return what the figures were taken on."""
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if "model name" in line]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "load_before": load_average(),
    }


def measure(rounds: int = 15) -> dict[str, object]:
    """Return the ceilings."""
    torch.set_num_threads(1)
    jobs: dict[str, Job] = {
        "gemm": gemm(),
        "gemm_bf16": gemm(torch.bfloat16),
        "rollout_gemm": rollout_gemm(),
        "reads": weight_reads(),
    }
    best = {name: min(values) for name, values in interleave(jobs, rounds).seconds.items()}
    return {
        **describe(),
        "gemm_gflops": round(GEMM_GFLOP / best["gemm"], 1),
        "gemm_bf16_gflops": round(GEMM_GFLOP / best["gemm_bf16"], 1),
        "gemm_64_rows_gflops": round(GEMM_GFLOP / best["rollout_gemm"], 1),
        "weight_reads_gbs": round(weight_read_gbs(best["reads"]), 1),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
