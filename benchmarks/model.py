"""Training step and imagination of the reference shape against the plain loop and this machine's limits.

    python -m benchmarks.model [--rounds 7]

One thread, float32, batch 32 × 50 h; medians of interleaved rounds, as machines are noisy. The plain loop
is `recurrence_plain`: the same model by ordinary autograd. GEMM is a 1600 × 256 × 1024 product in the same
rounds. A training step is 8.22 GFLOP: 3 × 2 × 857k multiply-adds × 1600 rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from tests.small_world import small_city, small_frame
from urbanwm.features import build_spec
from urbanwm.model import rssm
from urbanwm.model.bundle import Bundle
from urbanwm.model.config import ModelDims, load_experiment
from urbanwm.model.export import export_bundle
from urbanwm.model.recurrence_plain import run_recurrence_plain
from urbanwm.model.rssm import State
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training.optimisation import AdamW

BATCH, HOURS = 32, 50
STEP_GFLOP = 8.22
GEMM_GFLOP = 2 * 1600 * 256 * 1024 / 1e9


@contextmanager
def plain_loop() -> Iterator[None]:
    """Run the recurrence by ordinary autograd meanwhile."""
    fast = rssm.run_recurrence
    rssm.run_recurrence = run_recurrence_plain
    try:
        yield
    finally:
        rssm.run_recurrence = fast


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(rounds: int) -> dict[str, float]:
    """Return medians in milliseconds, and the ratios that survive a noisy machine."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    experiment = load_experiment("base", {"training.threads": 1})
    spec = build_spec("reference", {"smallville": small_frame()}, {"smallville": small_city()}, None, 1, 49)
    model = UrbanWorldModel(experiment.model, ModelDims.of(spec))
    optimiser = AdamW(model, experiment.training)
    shape = (BATCH, HOURS)
    batch = Batch(
        observed=torch.randn(*shape, spec.observed_dim),
        observed_mask=torch.ones(*shape, spec.observed_dim),
        known=torch.zeros(*shape, spec.known_dim),
        action=torch.rand(*shape, spec.action_dim),
        target=torch.rand(*shape, 3),
        target_mask=torch.ones(*shape, 3),
        skip=torch.zeros(*shape, 3, spec.skip_dim),
        context_hours=1,
    )
    noise = torch.randn(*shape, experiment.model.latent_dim)
    left, right = torch.randn(1600, 256), torch.randn(256, 1024)

    def step() -> None:
        optimiser.zero_grad()
        model.loss(batch, noise, experiment.training, 100).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(1, 3e-4)

    def plain_step() -> None:
        with plain_loop():
            step()

    with tempfile.TemporaryDirectory() as scratch:
        bundle = Bundle.load(
            export_bundle(model.eval(), experiment, spec, {}, {"name": "none"}, {}, Path(scratch) / "b")
        )
        rolls = {f"{size} x {hours} h": (size, hours) for size, hours in ((1, 48), (64, 48), (1, 168))}
        jobs: dict[str, Callable[[], object]] = {
            "gemm": lambda: left @ right,
            "train_step": step,
            "train_step_plain": plain_step,
        }
        for name, (size, hours) in rolls.items():
            jobs[f"imagine {name} onnx"] = _onnx_roll(bundle, size, hours)
            jobs[f"imagine {name} torch"] = _torch_roll(model, size, hours)
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for counted in range(-1, rounds):
            for name, job in jobs.items():
                seconds = timed(job)
                if counted >= 0:
                    times[name].append(seconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    result = {f"{name} ms": round(1000 * value, 2) for name, value in median.items()}
    result["plain loop ÷ train_step"] = round(median["train_step_plain"] / median["train_step"], 2)
    result["train_step share of GEMM"] = round(
        (STEP_GFLOP / median["train_step"]) / (GEMM_GFLOP / median["gemm"]), 2
    )
    for name in rolls:
        ratio = median[f"imagine {name} torch"] / median[f"imagine {name} onnx"]
        result[f"imagine {name}: torch ÷ onnx"] = round(ratio, 2)
    return result


def _inputs(size: int, hours: int) -> dict[str, np.ndarray]:
    """Return random inputs of a rollout of the reference."""
    random = np.random.default_rng(0)
    return {
        "h": np.zeros((size, 256), np.float32),
        "z": random.standard_normal((size, 128), dtype=np.float32),
        "known": np.zeros((size, hours, 0), np.float32),
        "action": random.random((size, hours, 2), dtype=np.float32),
        "skip": np.zeros((size, hours, 3, 0), np.float32),
        "noise": random.standard_normal((size, hours, 128), dtype=np.float32),
    }


def _onnx_roll(bundle: Bundle, size: int, hours: int) -> Callable[[], object]:
    inputs = _inputs(size, hours)
    return lambda: bundle.imagine(**inputs)


def _torch_roll(model: UrbanWorldModel, size: int, hours: int) -> Callable[[], object]:
    tensors = {name: torch.from_numpy(value) for name, value in _inputs(size, hours).items()}
    state = State(tensors.pop("h"), tensors.pop("z"))

    @torch.no_grad()
    def roll() -> object:
        with plain_loop():
            return model.imagine(state, **tensors)

    return roll


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds; the median is reported")
    print(json.dumps(measure(parser.parse_args().rounds), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
