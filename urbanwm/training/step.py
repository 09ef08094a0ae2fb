"""One optimiser step: slopes of the batch's pieces, their mean, over processes too, clipping, AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from urbanwm.errors import TrainingDiverged
from urbanwm.model.config import TrainingConfig
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training.optimisation import AdamW, learning_rate
from urbanwm.training.parallel import ALONE, Workers
from urbanwm.training.pieces import LossFunction, cut, mean
from urbanwm.training.team import SOLO, Team, nothing


class StepOutcome(NamedTuple):
    """What a step leaves to report."""

    loss: float
    """Mean over the processes."""
    parts: dict[str, float]
    """Parts of this process' loss."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float


def take_step(
    loss: LossFunction,
    model: UrbanWorldModel,
    optimizer: AdamW,
    batch: Batch,
    noise: Tensor,
    recipe: TrainingConfig,
    step: int,
    workers: Workers = ALONE,
    team: Team = SOLO,
    meanwhile: Callable[[], None] = nothing,
) -> StepOutcome:
    """Move the weights once; `step` is 0-based, `noise` `(B, T, Z)`.

    Args:
        loss: Of a piece.
        model: Its weights are moved.
        optimizer: How far.
        batch: Windows.
        noise: Of the windows' latents.
        recipe: Says into how many pieces the batch is cut.
        step: Decides the learning rate.
        workers: Those over which loss and gradients are averaged.
        team: Computes the pieces.
        meanwhile: Done before others are waited for.

    Raises:
        TrainingDiverged: The loss or a gradient is not finite; the weights have not moved.
    """
    found = mean(team.slopes(loss, model, cut(batch, noise, step, recipe.pieces), recipe, meanwhile))
    total = workers.mean(found.loss)
    if not math.isfinite(total):
        raise TrainingDiverged("the loss is not finite", field="loss", value=total, allowed=f"step {step}")
    for name, parameter in model.named_parameters():
        parameter.grad = found.gradient.get(name)
    workers.average_gradients(model)
    norm = optimizer.gradient_norm()
    if not math.isfinite(norm):
        raise TrainingDiverged(
            "a gradient is not finite", field="gradient", value=norm, allowed=f"step {step}"
        )
    rate = learning_rate(recipe, step)
    optimizer.step(step, rate, divisor=max(1.0, norm / recipe.gradient_clip))
    return StepOutcome(total, found.parts, norm, rate)
