"""Imagining hours with the bundle's graph (ONNX Runtime, no torch), beside other ways; reference shape.

    python -m benchmarks.imagination [--rounds 9]

One thread; medians of interleaved rounds. The memory floor of one trajectory is the time to read the 1.70 MB
of recurrent weights once per hour, at the speed at which NumPy reads as much in the same round; with 64 rows
the ceiling is the matrix product of the same round. Ten thousand policies are imagined in one call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import GEMM_GFLOP, READS_PER_ROUND, gemm, weight_reads
from benchmarks.other_worlds import INPUTS, PlainLoop, ReferenceWay
from benchmarks.our_worlds import World, rollout_inputs
from benchmarks.timing import Job, Rounds, interleave, load_average, median_ratio
from urbanwm.model.bundle import ROWS_PER_RUN, Bundle

SHAPES = {"1 x 48 h": (1, 48), "64 x 48 h": (64, 48), "1 x 168 h": (1, 168)}
HOUR_GFLOP = 2 * (256 * 1024 + 256 * 256 + 128 * 768 + 384 * 256 + 256 * 256 + 256 * 3) / 1e9
"""Work of one row and hour: gates and head, z, and the read-out 384 → 256 → 256 → 3."""
POLICIES, POLICY_HOURS = 10_000, 48
MIB = 2**20


def ours(bundle: Bundle, rows: int, hours: int) -> Job:
    """Return a rollout by the bundle."""
    inputs = rollout_inputs(bundle, rows, hours)
    return lambda: bundle.imagine(**inputs)


def peer(world: PlainLoop, rows: int, hours: int) -> Job:
    """Return a rollout by PyTorch, hour by hour."""
    observed = torch.randn(rows, INPUTS)
    action, noise = torch.rand(rows, hours, 2), torch.randn(rows, hours, 128)
    return lambda: world.imagine(observed, action, noise)


def many_policies(bundle: Bundle) -> Job:
    """Return a rollout of ten thousand action schedules from one belief, which they share."""
    one = rollout_inputs(bundle, 1, POLICY_HOURS)
    shared = {name: np.broadcast_to(value, (POLICIES, *value.shape[1:])) for name, value in one.items()}
    random = np.random.default_rng(1)
    action = random.random((POLICIES, POLICY_HOURS, bundle.spec.action_dim), dtype=np.float32)
    return lambda: bundle.imagine_outputs(**(shared | {"action": action}))


def resident_mib(field: str) -> float:
    """Return `VmRSS`, this process's resident memory, or `VmHWM`, its largest since the last reset."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def reset_peak() -> None:
    """Let `VmHWM` start again from here (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def policies(bundle: Bundle) -> dict[str, float]:
    """Return the throughput of ten thousand policies against that of 64, and the memory they took."""
    jobs = {"64": ours(bundle, ROWS_PER_RUN, POLICY_HOURS), "many": many_policies(bundle)}
    warm = interleave({"64": jobs["64"]}, rounds=1)
    reset_peak()
    before = resident_mib("VmRSS")
    # 64 rows a few times around the long call, so that both see the same machine.
    around = [warm.seconds["64"][0]]
    long: list[float] = []
    for _ in range(2):
        around += interleave({"64": jobs["64"]}, rounds=8, warm_up=0).seconds["64"]
        long += interleave({"many": jobs["many"]}, rounds=1, warm_up=0).seconds["many"]
    rate, rate_64 = POLICIES / statistics.median(long), ROWS_PER_RUN / statistics.median(around)
    return {
        "per_second": round(rate),
        "over_64_rate": round(rate / rate_64, 3),
        "extra_mib": round(resident_mib("VmHWM") - before, 1),
        "output_mib": round(POLICIES * POLICY_HOURS * 3 * 4 / MIB, 1),
    }


def figures(timed: Rounds) -> dict[str, object]:
    """Return what the rounds say about ours, shape by shape."""
    floor_48 = [48 * seconds / READS_PER_ROUND for seconds in timed.seconds["reads"]]
    one = [value / floor for value, floor in zip(timed.seconds["ours 1 x 48 h"], floor_48, strict=True)]
    work = 64 * 48 * HOUR_GFLOP
    share = median_ratio(timed.rates("ours 64 x 48 h", work), timed.rates("gemm", GEMM_GFLOP))
    found: dict[str, object] = {
        "milliseconds": {name: timed.milliseconds(name) for name in timed.seconds},
        "memory_floor_1_x_48_h_ms": round(1e3 * statistics.median(floor_48), 3),
        "over_memory_floor": round(statistics.median(one), 2),
        "share_of_gemm_64": share,
        "gflops_64": round(statistics.median(timed.rates("ours 64 x 48 h", work)), 1),
        "168_h_over_48_h": timed.ratio("ours 1 x 168 h", "ours 1 x 48 h"),
    }
    for name in SHAPES:
        found[f"reference_way_over_ours {name}"] = timed.ratio(f"reference_way {name}", f"ours {name}")
        found[f"plain_loop_over_ours {name}"] = timed.ratio(f"plain_loop {name}", f"ours {name}")
    return found


def measure(rounds: int) -> dict[str, object]:
    """Return times in ms, ratios to the machine's limits and to the other ways."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    load = load_average()
    plain, reference = PlainLoop().eval(), ReferenceWay().eval()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = World.make("base").bundle(Path(scratch) / "bundle")
    jobs: dict[str, Job] = {"gemm": gemm(), "reads": weight_reads()}
    for name, shape in SHAPES.items():
        jobs[f"ours {name}"] = ours(bundle, *shape)
        jobs[f"plain_loop {name}"] = peer(plain, *shape)
        jobs[f"reference_way {name}"] = peer(reference, *shape)
    timed = interleave(jobs, rounds)
    return {"load_before": load, **figures(timed), "ten_thousand_policies": policies(bundle)}


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds")
    print(json.dumps(measure(parser.parse_args().rounds), indent=2))


if __name__ == "__main__":
    main()
