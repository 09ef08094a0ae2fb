"""The optimiser, its learning-rate schedule, the averaged weights and the seasonal start."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from urbanwm.features import Windows
from urbanwm.model.config import TrainingConfig
from urbanwm.model.predictor import QuantilePredictor

EMA_WARMUP = 10.0
"""The average follows the first steps closely: decay is at most (1 + step) / (10 + step)."""
SEASONAL_RIDGE = 1e-3
"""Penalty per row of the seasonal regression, which pulls its weights to the plain mean of the levels."""


def learning_rate(recipe: TrainingConfig, step: int) -> float:
    """Return the learning rate of a step (0-based): linear warm-up, then a cosine down to the minimum."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    span = max(1, recipe.steps - recipe.warmup_steps)
    progress = min(1.0, (step - recipe.warmup_steps) / span)
    low, high = min(recipe.min_learning_rate, recipe.learning_rate), recipe.learning_rate
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, recipe: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW with the recipe's moments and decay; the rate is set step by step."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


class AveragedWeights:
    """An exponential moving average of a model's parameters; with decay 0, the parameters themselves."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start at the model's present weights."""
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights after a step (0-based)."""
        decay = min(self.decay, (1.0 + step) / (EMA_WARMUP + step))
        parameters = dict(model.named_parameters())
        torch._foreach_lerp_(  # noqa: SLF001 - the documented multi-tensor lerp has no public name
            list(self.values.values()), [parameters[name].detach() for name in self.values], 1.0 - decay
        )


@torch.no_grad()
def load_weights(model: nn.Module, values: dict[str, torch.Tensor]) -> None:
    """Copy weights into a model by name, strictly."""
    parameters = dict(model.named_parameters())
    if parameters.keys() != values.keys():
        raise KeyError(f"weights do not fit the model: {sorted(parameters.keys() ^ values.keys())}")
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


@torch.no_grad()
def start_from_seasons(predictor: QuantilePredictor, windows: Windows, levels: int) -> None:
    """Set the skip weights to the ridge regression of the horizon on its seasonal predictions.

    Before its first step the model then forecasts like a good linear seasonal model, and learns the rest.

    Args:
        predictor: The head; only its skip weights change.
        windows: Training windows.
        levels: Number of leading skip features that are levels.
    """
    ahead = slice(windows.context_hours, None)
    for target in range(windows.target.shape[-1]):
        seen = windows.target_mask[:, ahead, target] > 0
        features = windows.skip[:, ahead, target][seen].astype(np.float64)
        if len(features) == 0:
            continue
        prior = np.where(np.arange(features.shape[1]) < levels, 1.0 / levels, 0.0)
        residual = windows.target[:, ahead, target][seen] - features @ prior
        gram = features.T @ features + SEASONAL_RIDGE * len(features) * np.eye(features.shape[1])
        weights = prior + np.linalg.solve(gram, features.T @ residual)
        predictor.skip_weights[target] = torch.as_tensor(weights, dtype=predictor.skip_weights.dtype)
