"""The recurrence by plain autograd: the readable reference that `recurrence` is held equal to in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from urbanwm.model.latent import Latent
from urbanwm.model.recurrence import RecurrentWeights, Trajectory


def run_recurrence_plain(
    inputs: Tensor,
    embedding: Tensor | None,
    noise: Tensor,
    h: Tensor,
    z: Tensor,
    weights: RecurrentWeights,
    latent: Latent,
    *,
    silu: bool,
) -> Trajectory:
    """Run the recurrence hour by hour; arguments and result as `recurrence.run_recurrence`."""
    activation = functional.silu if silu else functional.relu
    hours: list[Trajectory] = []
    for hour in range(len(inputs)):
        h = torch.gru_cell(torch.cat([z, inputs[hour]], dim=-1), h, *weights[:4])
        seen = h if embedding is None else torch.cat([h, embedding[hour]], dim=-1)
        head = activation(functional.linear(seen, weights.head_in, weights.head_in_bias))
        belief = latent.bound(functional.linear(head, weights.head_out, weights.head_out_bias))
        z = latent.sample(belief, noise[hour])
        hours.append(Trajectory(h, z, belief))
    return Trajectory(*(torch.stack(parts) for parts in zip(*hours, strict=True)))
