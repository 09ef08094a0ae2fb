"""One optimiser step: precision, compilation, dropout, memory, and several processes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_world import small_experiment, small_series
from urbanwm.errors import BadInput, TrainingDiverged
from urbanwm.features import Windows
from urbanwm.memory import keep_freed_memory
from urbanwm.model import arithmetic
from urbanwm.model.config import ExperimentConfig, ModelDims
from urbanwm.model.dropout import FastDropout
from urbanwm.model.recurrence_plain import run_recurrence_plain
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.pipeline.fit import fit
from urbanwm.training.optimisation import AdamW
from urbanwm.training.parallel import Workers, joined
from urbanwm.training.pieces import loss_function
from urbanwm.training.step import take_step

KINDS = ["reference", "urban", "categorical"]


def _windows(experiment: ExperimentConfig, rows: int = 8) -> Windows:
    _, series = small_series(experiment)
    (city,) = series.values()
    recipe = experiment.training
    return city.windows(list(range(800, 800 + rows)), recipe.context_hours, recipe.horizon_hours)


def _model(experiment: ExperimentConfig) -> UrbanWorldModel:
    spec, _ = small_series(experiment)
    torch.manual_seed(0)
    model = UrbanWorldModel(experiment.model, ModelDims.of(spec))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def _gradient(experiment: ExperimentConfig) -> Tensor:
    """Return all gradients of the first step, before clipping, as one vector."""
    model, windows = _model(experiment), _windows(experiment)
    noise = torch.randn(
        len(windows), windows.observed.shape[1], 8, generator=torch.Generator().manual_seed(1)
    )
    recipe = experiment.training.model_copy(update={"gradient_clip": 1e9})
    take_step(loss_function(model, recipe), model, AdamW(model, recipe), Batch.of(windows), noise, recipe, 0)
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def _rounds() -> bool:
    """Return whether this processor rounds what it multiplies: one with bfloat16 but without AMX does not."""
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    with arithmetic._ROUNDED:
        rounded = torch.mm(left, right)
    return not torch.equal(rounded, torch.mm(left, right))


@pytest.mark.parametrize("way", ["rounding", "casting"])
@pytest.mark.parametrize("kind", ["reference", "urban"])
def test_bfloat16_points_the_same_way_as_float32(
    kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A categorical draw can jump between precisions; the Gaussian's gradients cannot.

    A CPU rounds what it reads, if it has bfloat16, and only in large products; everything else casts.
    """
    monkeypatch.setattr(arithmetic, "LARGE_PRODUCT", 0)
    if way == "rounding" and not _rounds():
        pytest.skip("this processor multiplies float32 as it is, whatever it is told")
    if way == "casting":
        monkeypatch.setattr(arithmetic, "multiplies_bfloat16", lambda: False)
    full = _gradient(small_experiment(kind, model__dropout=0.0))
    half = _gradient(small_experiment(kind, model__dropout=0.0, training__precision="bfloat16"))
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert _cosine(half, full) >= 0.999


def test_only_products_of_a_bfloat16_step_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "LARGE_PRODUCT", 0)
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    before = torch.mm(left, right)
    _gradient(small_experiment("urban", training__precision="bfloat16"))
    assert torch.equal(torch.mm(left, right), before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_models_gradient_is_that_of_the_plain_recurrence(kind: str) -> None:
    experiment = small_experiment(kind, model__dropout=0.0)
    model, windows = _model(experiment).double(), _windows(experiment)
    batch = Batch.of(windows)
    doubles = {name: value.double() for name, value in vars(batch).items() if isinstance(value, Tensor)}
    double = replace(batch, **doubles)  # type: ignore[arg-type]
    noise = torch.randn(len(windows), windows.observed.shape[1], 8, dtype=torch.float64)
    gradients, learned = [], [value for value in model.parameters() if value.requires_grad]
    for run in (model.rssm.run, run_recurrence_plain):
        model.rssm.run, total = run, model.loss(double, noise, experiment.training, 5).total
        gradients.append(torch.autograd.grad(total, learned, allow_unused=True))
    for fast, plain in zip(*gradients, strict=True):
        if plain is not None:
            torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_loss_has_the_same_gradient() -> None:
    plain = _gradient(small_experiment("urban", model__dropout=0.0))
    compiled = _gradient(small_experiment("urban", model__dropout=0.0, training__compile="eager"))
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)


def test_a_step_that_diverges_moves_nothing() -> None:
    experiment = small_experiment("urban")
    model, windows = _model(experiment), _windows(experiment)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    noise = torch.full((len(windows), windows.observed.shape[1], 8), torch.nan)
    recipe = experiment.training
    with pytest.raises(TrainingDiverged):
        take_step(
            loss_function(model, recipe), model, AdamW(model, recipe), Batch.of(windows), noise, recipe, 0
        )
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = FastDropout(0.1)(torch.ones(500, 401))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(dropped[dropped > 0].unique(), torch.tensor([1 / (1 - round(0.1 * 2**16) / 2**16)]))


def test_dropout_is_decided_by_torchs_random_state_and_off_in_evaluation() -> None:
    layer, ones = FastDropout(0.5), torch.ones(7, 9)
    torch.manual_seed(4)
    first, second = layer(ones), layer(ones)
    torch.manual_seed(4)
    assert torch.equal(layer(ones), first)
    assert not torch.equal(first, second)
    assert layer.eval()(ones) is ones


def test_dropout_passes_gradients_only_through_what_it_kept() -> None:
    torch.manual_seed(5)
    x = torch.ones(50, 20, requires_grad=True)
    y = FastDropout(0.3)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@pytest.mark.slow
def test_freed_memory_stays_with_the_process() -> None:
    """Left alone, glibc returns it at nearly every full-size step: thousands of page faults each."""
    if not keep_freed_memory():
        pytest.skip("another C library than glibc")
    hidden = {"model__hidden_dim": 256, "model__latent_dim": 128, "training__context_hours": 2}
    experiment = small_experiment("reference", **hidden, training__horizon_hours=48)
    model, windows, recipe = _model(experiment), _windows(experiment, rows=32), experiment.training
    batch, noise = Batch.of(windows), torch.randn(32, 50, 128)
    loss, optimizer = loss_function(model, recipe), AdamW(model, recipe)

    def faults_of_a_step() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        take_step(loss, model, optimizer, batch, noise, recipe, 0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults = [faults_of_a_step() for _ in range(8)]
    assert sum(faults[3:]) < 4_000, faults


def test_training_memory_comes_in_large_pages() -> None:
    """In a process of its own: the heap grows only where not enough of it is free."""
    offered = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not offered.is_file() or "[never]" in offered.read_text(encoding="ascii"):
        pytest.skip("the kernel offers no large pages")
    code = """
import ctypes, pathlib
from urbanwm.memory import keep_freed_memory
print(keep_freed_memory())
library = ctypes.CDLL("libc.so.6")
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
for _ in range(64):
    ctypes.memset(library.malloc(2**20), 1, 2**20)
rollup = pathlib.Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
print(next(line.split()[1] for line in rollup.splitlines() if line.startswith("AnonHugePages")))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    kept, large_kib = done.stdout.split()
    if kept == "False":
        pytest.skip("another C library than glibc")
    assert int(large_kib) >= 32 * 1024


def test_alone_a_process_takes_the_whole_batch() -> None:
    with joined() as workers:
        assert workers == Workers(0, 1)
        windows = _windows(small_experiment("urban"))
        assert workers.share(windows) is windows


def test_shares_of_a_batch_are_disjoint_and_complete() -> None:
    windows = _windows(small_experiment("urban"), rows=7)
    shares = [Workers(rank, 3).share(windows) for rank in range(3)]
    assert sum(len(share) for share in shares) == len(windows)
    joined_again = np.concatenate([share.target for share in shares])
    order = np.concatenate([np.arange(7)[rank::3] for rank in range(3)])
    np.testing.assert_array_equal(joined_again, windows.target[order])
    assert {share.context_hours for share in shares} == {windows.context_hours}


def _train(folder: Path, processes: int, batch: int) -> list[float]:
    """Train in fresh interpreters under torchrun; return the losses that the first process reported."""
    script = Path(__file__).parents[1] / "parallel_training.py"
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    subprocess.run(
        [*launcher, str(script), str(folder), str(batch)],
        check=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])},
    )
    return list(json.loads((folder / "losses.json").read_text(encoding="utf-8")))


def test_a_recorded_training_is_refused_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each process would register the same version; and one would wait for the other's lock."""
    nothing_is_read = cast("Any", None)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    with pytest.raises(BadInput, match="torchrun"):
        fit(nothing_is_read, tmp_path, nothing_is_read, "run")


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    one, two = _train(alone, processes=1, batch=8), _train(together, processes=2, batch=4)
    assert len(one) == 6
    assert one[-1] != one[0]
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert sorted(p.name for p in together.glob("*.safetensors")) == sorted(
        p.name for p in alone.glob("*.safetensors")
    )
    # The first process alone reports; both return the weights that it wrote.
    first, second = (
        json.loads((together / f"result-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)
    )
    assert first["weights"] == second["weights"]
    assert (first["reports"], second["reports"]) == (6, 0)
