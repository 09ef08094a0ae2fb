"""One optimiser step: loss, gradients, their mean over processes, clipping, AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from urbanwm.errors import TrainingDiverged
from urbanwm.model.config import TrainingConfig
from urbanwm.model.losses import Losses
from urbanwm.model.recurrence_plain import run_recurrence_plain
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training.optimisation import AdamW, learning_rate
from urbanwm.training.parallel import ALONE, Workers

LossFunction = Callable[[Batch, Tensor, TrainingConfig, int], Losses]


class StepOutcome(NamedTuple):
    """What a step leaves to report."""

    loss: float
    """Mean over the processes."""
    parts: dict[str, Tensor]
    """Parts of this process' loss."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float


def loss_function(model: UrbanWorldModel, recipe: TrainingConfig) -> LossFunction:
    """Return the model's loss, compiled if the recipe says so.

    A compiler wants the recurrence as plain operations and fuses them itself; without one the hand-written
    backward is faster.
    """
    if recipe.compile == "no":
        return model.loss
    model.rssm.run = run_recurrence_plain
    compiled: LossFunction = torch.compile(model.loss, backend=recipe.compile)
    return compiled


def take_step(
    loss: LossFunction,
    model: UrbanWorldModel,
    optimizer: AdamW,
    batch: Batch,
    noise: Tensor,
    recipe: TrainingConfig,
    step: int,
    workers: Workers = ALONE,
) -> StepOutcome:
    """Move the weights once; `step` is 0-based, `noise` `(B, T, Z)`.

    Raises:
        TrainingDiverged: The loss or a gradient is not finite; the weights have not moved.
    """
    optimizer.zero_grad()
    device = noise.device.type
    with torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        losses = loss(batch, noise, recipe, step)
    total = workers.mean(float(losses.total.detach()))
    if not math.isfinite(total):
        raise TrainingDiverged("the loss is not finite", field="loss", value=total, allowed=f"step {step}")
    losses.total.backward()  # type: ignore[no-untyped-call]
    workers.average_gradients(model)
    norm = optimizer.gradient_norm()
    if not math.isfinite(norm):
        raise TrainingDiverged(
            "a gradient is not finite", field="gradient", value=norm, allowed=f"step {step}"
        )
    rate = learning_rate(recipe, step)
    optimizer.step(step, rate, divisor=max(1.0, norm / recipe.gradient_clip))
    return StepOutcome(total, losses.parts, norm, rate)
