"""One training step, forward, backward, clip and AdamW, beside other ways to do it; batch 32 × 50 h, float32.

    python -m benchmarks.training [--rounds 9]

One thread; medians of interleaved rounds, ratios of the same round. Peers, all at the widths of
`urbanwm/configs/base.yaml`: torchrl's Gaussian and categorical recurrences (with the extra `bench`), the loop
that one writes first, and the reference implementation's way (everything inside the loop, dropout 0.1, which
ours has too in that pair). Useful work is 8.22 GFLOP a step (3 × 2 × 857k multiply-adds × 1600 rows); the
share of GEMM compares it with a 1600 × 256 × 1024 product timed in the same round. The step's own products,
50 × 3 × 2 of them with 32 rows only, are timed beside it: what is left of the step is everything else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.machine import GEMM_GFLOP, gemm
from benchmarks.other_worlds import PlainLoop, ReferenceWay, Sequences
from benchmarks.our_worlds import World
from benchmarks.products import step_products
from benchmarks.timing import Job, interleave, load_average, median_ratio
from urbanwm.memory import keep_freed_memory

BATCH, HOURS = 32, 50
STEP_GFLOP = 8.22
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
NO_TORCHRL = "torchrl is not installed: pip install -e .[bench]"
NO_BF16 = f"this processor has none of {', '.join(BF16_FLAGS)}"


def peer_step(model: nn.Module, loss: Callable[[], Tensor]) -> Job:
    """Return a training step of a peer: the same clip, and torch's fused AdamW."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return step


def torchrl_jobs(batch: Sequences) -> dict[str, Job]:
    """Return torchrl's steps, or none where it is not installed."""
    if find_spec("torchrl") is None:
        return {}
    from benchmarks.torchrl_worlds import Categorical, Gaussian

    gaussian, categorical = Gaussian(), Categorical()
    return {
        "torchrl": peer_step(gaussian, lambda: gaussian.loss(batch)),
        "torchrl_fastest": peer_step(categorical, lambda: categorical.loss(batch)),
    }


def has_bf16() -> bool:
    """Tell whether the processor multiplies bfloat16 by itself; emulated, it is slower than float32."""
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    return any(flag in flags for flag in BF16_FLAGS)


def measure(rounds: int) -> dict[str, object]:
    """Return times in ms and how many times longer the peers take."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()  # as a training run does; the peers gain from it too
    load = load_average()
    batch = Sequences.random(BATCH, HOURS)
    plain, reference = PlainLoop(), ReferenceWay()
    ours, dropping, default = World.make("base", model__dropout=0.0), World.make("base"), World.make("urban")
    windows, default_windows = ours.batch(BATCH), default.batch(BATCH)
    products, products_gflop = step_products(ours.model, BATCH, HOURS)
    jobs: dict[str, Job] = {
        "gemm": gemm(),
        "own_products": products,
        "ours": lambda: ours.step(windows),
        "ours_dropout": lambda: dropping.step(windows),
        "default": lambda: default.step(default_windows),
        "plain_loop": peer_step(plain, lambda: plain.loss(batch)),
        "reference_way": peer_step(reference, lambda: reference.loss(batch)),
        **torchrl_jobs(batch),
    }
    if has_bf16():
        half = World.make("base", model__dropout=0.0, training__precision="bfloat16")
        jobs["ours_bf16"] = lambda: half.step(windows)
    timed = interleave(jobs, rounds)
    own_hours = BATCH * HOURS * ours.model.parameter_count()
    default_hours = default_windows.target[..., 0].numel() * default.model.parameter_count()
    found: dict[str, object] = {
        "load_before": load,
        "milliseconds": {name: timed.milliseconds(name) for name in jobs},
        "sequences_per_second": round(1e3 * BATCH / timed.milliseconds("ours"), 1),
        "gflops": round(1e3 * STEP_GFLOP / timed.milliseconds("ours"), 1),
        "share_of_gemm": median_ratio(timed.rates("ours", STEP_GFLOP), timed.rates("gemm", GEMM_GFLOP)),
        "own_products_gflops": round(1e3 * products_gflop / timed.milliseconds("own_products"), 1),
        "own_products_over_ours": timed.ratio("own_products", "ours"),
        "plain_loop_over_ours": timed.ratio("plain_loop", "ours"),
        "reference_way_over_ours": timed.ratio("reference_way", "ours_dropout"),
        "default_cost_per_parameter_hour": round(
            timed.ratio("default", "ours_dropout") * own_hours / default_hours, 3
        ),
    }
    for name in ("torchrl", "torchrl_fastest"):
        found[f"{name}_over_ours"] = timed.ratio(name, "ours") if name in jobs else NO_TORCHRL
    if "ours_bf16" in jobs and "torchrl" in jobs:
        found["torchrl_over_ours_bf16"] = timed.ratio("torchrl", "ours_bf16")
    else:
        found["torchrl_over_ours_bf16"] = NO_TORCHRL if has_bf16() else NO_BF16
    return found


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds")
    print(json.dumps(measure(parser.parse_args().rounds), indent=2))


if __name__ == "__main__":
    main()
