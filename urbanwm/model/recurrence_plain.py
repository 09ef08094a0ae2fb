"""The recurrence by plain autograd: the readable reference that `recurrence` is held equal to in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from urbanwm.model.recurrence import LOGVAR_MAX, RecurrentWeights, Trajectory


def run_recurrence_plain(
    input_drive: Tensor,
    head_drive: Tensor,
    noise: Tensor,
    h: Tensor,
    z: Tensor,
    weights: RecurrentWeights,
    *,
    silu: bool,
    logvar_min: float,
) -> Trajectory:
    """Run the recurrence hour by hour; arguments and result as `recurrence.run_recurrence`."""
    activation = functional.silu if silu else functional.relu
    head_drives = head_drive.expand(input_drive.shape[0], *h.shape).unbind(0)
    hours: list[Trajectory] = []
    for drive_t, head_drive_t, noise_t in zip(
        input_drive.unbind(0), head_drives, noise.unbind(0), strict=True
    ):
        from_input = drive_t + functional.linear(z, weights.latent_to_gates)
        from_hidden = functional.linear(h, weights.hidden_to_gates, weights.gates_bias)
        input_r, input_u, input_n = from_input.chunk(3, dim=-1)
        hidden_r, hidden_u, hidden_n = from_hidden.chunk(3, dim=-1)
        candidate = torch.tanh(input_n + torch.sigmoid(input_r + hidden_r) * hidden_n)
        keep = torch.sigmoid(input_u + hidden_u)
        h = candidate + keep * (h - candidate)
        head = activation(functional.linear(h, weights.hidden_to_head) + head_drive_t)
        mean, logvar = functional.linear(head, weights.head_out, weights.head_out_bias).chunk(2, dim=-1)
        logvar = logvar.clamp(logvar_min, LOGVAR_MAX)
        z = mean + noise_t * torch.exp(0.5 * logvar)
        hours.append(Trajectory(h, z, mean, logvar))
    return Trajectory(*(torch.stack(parts) for parts in zip(*hours, strict=True)))
