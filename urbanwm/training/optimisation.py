"""The optimiser, its learning-rate schedule, and the averaged weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from urbanwm.model.config import TrainingConfig

EMA_WARMUP = 10.0
"""The average follows the first steps closely: decay is at most (1 + step) / (10 + step)."""


def learning_rate(recipe: TrainingConfig, step: int) -> float:
    """Return the learning rate of a step (0-based): linear warm-up, then a cosine down to the minimum."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    span = max(1, recipe.steps - recipe.warmup_steps)
    progress = min(1.0, (step - recipe.warmup_steps) / span)
    low, high = min(recipe.min_learning_rate, recipe.learning_rate), recipe.learning_rate
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, recipe: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW with the recipe's moments and decay; the rate is set step by step.

    The seasonal path starts at a fitted optimum, so nothing pulls it to zero.
    """
    seasonal = [value for name, value in model.named_parameters() if name.startswith("seasonal.")]
    others = [value for name, value in model.named_parameters() if not name.startswith("seasonal.")]
    groups = [{"params": others, "weight_decay": recipe.weight_decay}]
    if seasonal:
        groups.append({"params": seasonal, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)


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
        torch._foreach_lerp_(
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
