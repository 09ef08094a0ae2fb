"""The sequential half of the RSSM: a GRU cell and a Gaussian head, hour after hour.

Filtering and imagining are the same recurrence. With D = width of h, Z = width of z, at each hour t:

    h_t      = GRU(input_drive_t + W_z z_{t-1}, h_{t-1})
    a_t      = f(W_a h_t + head_drive_t)
    mean, lv = W_o a_t + b_o
    z_t      = mean + noise_t · exp(clamp(lv) / 2)

`input_drive` is what is known of the GRU's input beforehand, `head_drive` what is known of the head's: the embedding
when filtering (posterior), only a bias when imagining (prior). Both are one matrix product over all hours, outside.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LOGVAR_MIN, LOGVAR_MAX = -10.0, 2.0


class Trajectory(NamedTuple):
    """States of consecutive hours, time first: h `(T, B, D)`; z, mean and logvar `(T, B, Z)`."""

    h: Tensor
    z: Tensor
    mean: Tensor
    logvar: Tensor


class RecurrentWeights(NamedTuple):
    """The weights inside the recurrence; gate order r, u, n as in `torch.nn.GRUCell`."""

    latent_to_gates: Tensor
    """W_z `(3D, Z)`."""
    hidden_to_gates: Tensor
    """`(3D, D)`."""
    gates_bias: Tensor
    """Bias of the hidden product `(3D,)`."""
    hidden_to_head: Tensor
    """W_a `(D, D)`."""
    head_out: Tensor
    """W_o `(2Z, D)`."""
    head_out_bias: Tensor
    """b_o `(2Z,)`."""


def run_recurrence(
    input_drive: Tensor, head_drive: Tensor, noise: Tensor, h: Tensor, z: Tensor, weights: RecurrentWeights, *, silu: bool
) -> Trajectory:
    """Run the recurrence by plain autograd: the readable reference.

    Args:
        input_drive: `(T, B, 3D)`.
        head_drive: `(T, B, D)`; broadcastable over T and B.
        noise: `(T, B, Z)`, standard normal, or zeros for the latent means.
        h: State before the first hour `(B, D)`.
        z: State before the first hour `(B, Z)`.
        weights: See `RecurrentWeights`.
        silu: Whether f is SiLU; otherwise ReLU.
    """
    activation = functional.silu if silu else functional.relu
    head_drives = head_drive.expand(input_drive.shape[0], -1, -1).unbind(0)
    hours: list[Trajectory] = []
    for drive_t, head_drive_t, noise_t in zip(input_drive.unbind(0), head_drives, noise.unbind(0), strict=True):
        from_input = drive_t + functional.linear(z, weights.latent_to_gates)
        from_hidden = functional.linear(h, weights.hidden_to_gates, weights.gates_bias)
        input_r, input_u, input_n = from_input.chunk(3, dim=-1)
        hidden_r, hidden_u, hidden_n = from_hidden.chunk(3, dim=-1)
        candidate = torch.tanh(input_n + torch.sigmoid(input_r + hidden_r) * hidden_n)
        keep = torch.sigmoid(input_u + hidden_u)
        h = candidate + keep * (h - candidate)
        head = activation(functional.linear(h, weights.hidden_to_head) + head_drive_t)
        mean, logvar = functional.linear(head, weights.head_out, weights.head_out_bias).chunk(2, dim=-1)
        logvar = logvar.clamp(LOGVAR_MIN, LOGVAR_MAX)
        z = mean + noise_t * torch.exp(0.5 * logvar)
        hours.append(Trajectory(h, z, mean, logvar))
    return Trajectory(*(torch.stack(parts) for parts in zip(*hours, strict=True)))
