"""Starting a run from the weights of a trained model instead of random ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from urbanwm.errors import BadInput
from urbanwm.model.bundle_files import WEIGHTS
from urbanwm.model.predictor import QuantilePredictor
from urbanwm.training.optimisation import load_weights


def bundle_weights(bundle_dir: Path) -> dict[str, Tensor]:
    """Return the weights of a verified bundle by parameter name, on the CPU."""
    return load_file(bundle_dir / WEIGHTS)


def start_from(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into a model of the same shape; entries that are no parameters (buffers) are left out.

    Raises:
        BadInput: A parameter is missing, or has another shape: the model they come from was built otherwise.
    """
    wanted = {name: tuple(value.shape) for name, value in model.named_parameters()}
    given = {name: tuple(value.shape) for name, value in weights.items() if name in wanted}
    if given != wanted:
        differing = sorted(name for name in wanted if given.get(name) != wanted[name])
        raise BadInput(
            "the initial weights are of a model of another shape",
            field="initial_weights",
            value=differing[0],
            allowed=f"shape {wanted[differing[0]]}",
        )
    load_weights(model, {name: weights[name] for name in wanted})
    predictor = model.get_submodule("predictor")
    if isinstance(predictor, QuantilePredictor):
        predictor.keep([1.0] * predictor.targets)  # how much of it is kept is decided anew


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names and values, 16 hex digits: what identifies a start."""
    content = hashlib.sha256()
    for name, value in sorted(weights.items()):
        content.update(name.encode())
        content.update(np.ascontiguousarray(value.detach().to(torch.float64).cpu().numpy()).tobytes())
    return content.hexdigest()[:16]
