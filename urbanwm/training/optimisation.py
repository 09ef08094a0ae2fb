"""The optimiser, its learning-rate schedule, and the averaged weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from urbanwm.model.config import TrainingConfig

ADAM_EPSILON = 1e-8
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


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), by the kernel of `torch.optim.AdamW`.

    Called directly because importing `torch.optim`'s classes loads the compiler, seconds before the first
    step; and because its state is then two named sets of tensors. One pass over the memory, a third of the
    time of six.
    """

    def __init__(self, model: nn.Module, recipe: TrainingConfig) -> None:
        """Start with zero moments for every parameter of the model."""
        self.betas, self.weight_decay = recipe.betas, recipe.weight_decay
        self.parameters = dict(model.named_parameters())
        self.first = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in self.parameters.items()}

    def gradient_norm(self) -> float:
        """Return the norm of all gradients as one vector."""
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    @torch.no_grad()
    def step(self, step: int, rate: float, divisor: float = 1.0) -> None:
        """Move every parameter by its gradient over the divisor, which clips it; `step` is 0-based."""
        names = [name for name, value in self.parameters.items() if value.grad is not None]
        values: list[torch.Tensor] = [self.parameters[name] for name in names]
        # The kernel takes the 1-based step as float tensors beside the values.
        count = torch.tensor(float(step + 1), device=values[0].device)
        scale = None if divisor == 1.0 else torch.tensor(divisor, device=values[0].device)
        torch._fused_adamw_(
            values,
            [value.grad for value in values if value.grad is not None],
            [self.first[name] for name in names],
            [self.second[name] for name in names],
            [],
            [count] * len(names),
            lr=rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=ADAM_EPSILON,
            amsgrad=False,
            maximize=False,
            grad_scale=scale,
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
