"""From a trained model to a bundle on disk."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from urbanwm.features import FeatureSpec
from urbanwm.model.bundle import PARITY, Bundle
from urbanwm.model.bundle_files import (
    DIRECT,
    EXAMPLE,
    FILTER,
    FORMAT,
    MANIFEST,
    ROLLOUT,
    WEIGHTS,
    canonical,
    encode_array,
    manifest_bytes,
)
from urbanwm.model.config import ExperimentConfig
from urbanwm.model.direct_file import write_direct
from urbanwm.model.graph import filter_graph, rollout_graph
from urbanwm.model.world_model import Batch, UrbanWorldModel

EXAMPLE_SEED = 20181130
EXAMPLE_TRIES = 20
EXAMPLE_BATCH, EXAMPLE_HORIZON_HOURS = 2, 24
EXAMPLE_PRESENT_SHARE = 0.9


def export_bundle(
    model: UrbanWorldModel,
    experiment: ExperimentConfig,
    spec: FeatureSpec,
    calibration: Mapping[str, Any],
    assumptions: Mapping[str, Any],
    provenance: Mapping[str, Any],
    out_dir: Path,
) -> Path:
    """Write a bundle and prove that it loads and answers before it gets its name.

    Args:
        model: The trained network; exported on the CPU in evaluation mode.
        experiment: What was trained.
        spec: What its inputs mean.
        calibration: As `urbanwm.calibration.fit_calibration` returned it, or empty.
        assumptions: The policy-effect preset, as plain JSON.
        provenance: Data, code and run, as plain JSON.
        out_dir: The bundle's folder; an existing one is replaced.

    Raises:
        BundleInvalid: The graphs do not answer like the network.
        ValueError: A document holds a value that JSON does not know, such as NaN.
    """
    model = model.cpu().eval()
    contents = {
        WEIGHTS: save({name: value.detach().contiguous() for name, value in model.state_dict().items()}),
        DIRECT: write_direct(spec.direct),
        FILTER: filter_graph(model),
        ROLLOUT: rollout_graph(model),
        EXAMPLE: canonical(_example(model, spec)),
    }
    sections = {
        "format": FORMAT,
        "experiment": experiment.to_dict(),
        "spec": spec.to_dict(),
        "calibration": dict(calibration),
        "assumptions": dict(assumptions),
        "provenance": dict(provenance),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    partial = out_dir.with_name(f".{out_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, content in {**contents, MANIFEST: manifest_bytes(sections)}.items():
        (partial / name).write_bytes(content)
    Bundle.load(partial).smoke_test()
    if out_dir.exists():
        shutil.rmtree(out_dir)
    return partial.rename(out_dir)


def _example(model: UrbanWorldModel, spec: FeatureSpec) -> dict[str, Any]:
    """Return random inputs with the network's own answers.

    A categorical latent jumps where two classes are equally likely, and rounding then decides: inputs on
    which float64 answers otherwise prove nothing about the graphs, and are drawn anew. If no draw will do,
    the bundle's own test of the last one decides.
    """
    double = copy.deepcopy(model).double()
    for seed in range(EXAMPLE_SEED, EXAMPLE_SEED + EXAMPLE_TRIES):
        batch, noise = _random_inputs(model, spec, seed)
        answers, exact = (
            _answers(model, batch, noise),
            _answers(double, batch.each(Tensor.double), noise.double()),
        )
        if all(_close(answers[name], exact[name]) for name in answers):
            break
    inputs = {name: getattr(batch, name) for name in ("observed", "observed_mask", "known", "action", "skip")}
    expected = {f"expected_{name}": value for name, value in answers.items()}
    arrays = {**inputs, "noise": noise, **expected}
    return {
        "context_hours": batch.context_hours,
        **{name: encode_array(value.numpy()) for name, value in arrays.items()},
    }


def _random_inputs(model: UrbanWorldModel, spec: FeatureSpec, seed: int) -> tuple[Batch, Tensor]:
    """Return windows and noise."""
    generator = torch.Generator().manual_seed(seed)
    dims, hours = model.dims, spec.context_hours + EXAMPLE_HORIZON_HOURS

    def normal(*shape: int) -> Tensor:
        return torch.randn(EXAMPLE_BATCH, hours, *shape, generator=generator)

    mask = (
        torch.rand(EXAMPLE_BATCH, hours, dims.observed, generator=generator) < EXAMPLE_PRESENT_SHARE
    ).float()
    batch = Batch(
        observed=normal(dims.observed) * mask,
        observed_mask=mask,
        known=normal(dims.known),
        action=normal(dims.action).abs(),
        target=torch.zeros(EXAMPLE_BATCH, hours, dims.targets),
        target_mask=torch.zeros(EXAMPLE_BATCH, hours, dims.targets),
        skip=normal(dims.targets, dims.skip),
        context_hours=spec.context_hours,
    )
    return batch, normal(model.config.latent_dim)


@torch.no_grad()
def _answers(model: UrbanWorldModel, batch: Batch, noise: Tensor) -> dict[str, Tensor]:
    """Return the belief at the origin and the forecast."""
    state, path = model.start(batch, noise[:, : batch.context_hours]), model.forecast(batch, noise)
    return {"h": state.h, "z": state.z, "output": path.output, "h_path": path.h, "z_path": path.z}


def _close(answer: Tensor, exact: Tensor) -> bool:
    """Tell whether rounding stays below what a loaded bundle may differ."""
    return bool(((answer - exact).abs() <= PARITY * exact.abs().clamp(min=1.0)).all())
