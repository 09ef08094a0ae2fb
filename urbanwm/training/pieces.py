"""The pieces that a batch is cut into, and their slopes: the same bits, whoever computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from urbanwm.model.config import TrainingConfig
from urbanwm.model.losses import Losses
from urbanwm.model.recurrence_plain import run_recurrence_plain
from urbanwm.model.world_model import Batch, UrbanWorldModel

LossFunction = Callable[[Batch, Tensor, TrainingConfig, int], Losses]
SEED_LIMIT = 2**62


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


@dataclass(frozen=True)
class Piece:
    """Some windows of a batch with all that chance decides about them.

    Attributes:
        batch: The windows.
        noise: `(B, T, Z)`.
        seed: Decides dropout.
        step: The optimiser step, 0-based.
    """

    batch: Batch
    noise: Tensor
    seed: int
    step: int


class Slope(NamedTuple):
    """The loss of a piece, its parts for the log, and the gradient by parameter."""

    loss: float
    parts: dict[str, float]
    gradient: dict[str, Tensor]


def cut(batch: Batch, noise: Tensor, step: int, pieces: int) -> list[Piece]:
    """Cut a batch into pieces of every n-th window; at most as many as it has windows."""

    def piece(rows: slice) -> Piece:
        own = batch.each(lambda tensor: tensor[rows].contiguous())
        return Piece(own, noise[rows].contiguous(), int(torch.randint(SEED_LIMIT, ())), step)

    count = min(pieces, len(noise))
    return [piece(slice(first, None, count)) for first in range(count)]


def slope(loss: LossFunction, model: UrbanWorldModel, piece: Piece, recipe: TrainingConfig) -> Slope:
    """Return a piece's loss and gradient; the model's weights and torch's random state stay as they are."""
    model.zero_grad()
    device = piece.noise.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(piece.seed)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            losses = loss(piece.batch, piece.noise, recipe, piece.step)
        losses.total.backward()  # type: ignore[no-untyped-call]
    gradient = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    parts = {name: float(value.detach()) for name, value in losses.parts.items()}
    return Slope(float(losses.total.detach()), parts, gradient)


@torch.no_grad()
def mean(slopes: Sequence[Slope]) -> Slope:
    """Return the mean of the pieces' losses, parts and gradients, in the order of the pieces."""
    first, *others = slopes
    if not others:
        return first
    gradient = {name: value.clone() for name, value in first.gradient.items()}
    for other in others:
        torch._foreach_add_(list(gradient.values()), [other.gradient[name] for name in gradient])
    torch._foreach_div_(list(gradient.values()), float(len(slopes)))
    parts = {name: sum(one.parts[name] for one in slopes) / len(slopes) for name in first.parts}
    return Slope(sum(one.loss for one in slopes) / len(slopes), parts, gradient)
