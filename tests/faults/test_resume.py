"""A run killed with kill -9 continues as if nothing had happened: the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.small_world import small_experiment, small_series
from urbanwm.training import train
from urbanwm.training.checkpoint import latest_checkpoint, read_checkpoint

STEPS = 12
_CODE = """
import sys, time
from pathlib import Path
from tests.small_world import small_experiment, small_series
from urbanwm.training import train
kind, folder = sys.argv[1], Path(sys.argv[2])
experiment = small_experiment(kind, training__steps=12, model__dropout=0.1)
spec, series = small_series(experiment)
def slow(step, metrics):
    print(step, flush=True)
    time.sleep(0.3)
train(experiment, series, spec, folder, on_metrics=slow, progress=False)
"""


def _killed_run(kind: str, folder: Path) -> None:
    """Start a run in its own process and kill it after its second checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, kind, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 6:
                break
        # The checkpoint of step 6 is written after its report; somewhere around it the process dies.
        time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["reference", "urban"])
def test_a_killed_run_continues_bit_for_bit(kind: str, tmp_path: Path) -> None:
    experiment = small_experiment(kind, training__steps=STEPS, model__dropout=0.1)
    spec, series = small_series(experiment)
    _killed_run(kind, tmp_path / "killed")
    checkpoint = latest_checkpoint(tmp_path / "killed")
    assert checkpoint is not None
    assert checkpoint.document["step"] in {4, 6}
    resumed = train(experiment, series, spec, tmp_path / "killed", progress=False)
    straight = train(experiment, series, spec, tmp_path / "straight", progress=False)
    for name in ("best.safetensors", "final.safetensors", f"step-{STEPS:06d}.safetensors"):
        one, other = (read_checkpoint(tmp_path / folder / name) for folder in ("killed", "straight"))
        assert one.document == other.document
        assert all(torch.equal(one.tensors[key], other.tensors[key]) for key in other.tensors)
    assert resumed.calibration == straight.calibration
    assert resumed.history == straight.history


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    first = train(experiment, series, spec, tmp_path, progress=False)
    reports: list[int] = []
    again = train(
        experiment, series, spec, tmp_path, on_metrics=lambda step, _: reports.append(step), progress=False
    )
    assert reports == []
    assert again.best_step == first.best_step
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_unreadable_checkpoint_is_skipped_for_the_one_before(tmp_path: Path) -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    first = train(experiment, series, spec, tmp_path, progress=False)
    newest = max(tmp_path.glob("step-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:100])
    again = train(experiment, series, spec, tmp_path, progress=False)
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    train(experiment, series, spec, tmp_path, progress=False)
    (tmp_path / ".step-000099.safetensors.partial").write_bytes(b"half")
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.document["step"] == experiment.training.steps
