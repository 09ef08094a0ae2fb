"""The memory layout of the recurrence: rows in which neighbours share matrix products.

Row k of `(T+1, B, 5D)` holds what the state after k hours leads to: the gates of hour k (counting from 0) and
the head of the hour before. Its five slots of width D are

    n (input part) | reset | update | n (hidden part) | head

so that `z_k` feeds the first three with one product and `h_k` the last four with another. The same holds for
the derivatives on the way back.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

INPUT_N, RESET, UPDATE, HIDDEN_N, HEAD = range(5)
SLOTS = 5
LATENT_SLOTS = slice(INPUT_N, UPDATE + 1)
"""What z feeds."""
HIDDEN_SLOTS = slice(RESET, HEAD + 1)
"""What h feeds."""


class Arithmetic:
    """Matrix products in one precision, everything else in the tensors' own: autocast written out.

    Autograd functions see no autocast in their backward, and in-place products never do.
    """

    def __init__(self, like: Tensor) -> None:
        """Take the precision of an active autocast, else that of `like`."""
        device = like.device.type
        active = torch.is_autocast_enabled(device) and like.dtype == torch.float32
        self.dtype = torch.get_autocast_dtype(device) if active else like.dtype
        self.mixed = self.dtype != like.dtype

    def cast(self, values: Tensor) -> Tensor:
        """Return the values in the precision of products."""
        return values.to(self.dtype)

    def multiply(self, left: Tensor, right: Tensor, target: Tensor) -> Tensor:
        """Write `left @ right` to `target`; `right` has been cast."""
        if self.mixed:
            return target.copy_(torch.mm(left.to(self.dtype), right))
        return torch.mm(left, right, out=target)

    def accumulate(self, target: Tensor, left: Tensor, right: Tensor) -> None:
        """Add `left @ right` to `target`; `right` has been cast."""
        if self.mixed:
            target.add_(torch.mm(left.to(self.dtype), right))
        else:
            target.addmm_(left, right)

    def product(self, left: Tensor, right: Tensor, like: Tensor) -> Tensor:
        """Return `left @ right` in the precision of `like`."""
        return torch.mm(self.cast(left), self.cast(right)).to(like.dtype)


class BackwardWeights(NamedTuple):
    """The weights in the order of the slots, as products on the way back need them."""

    latent: Tensor
    """`(3D, Z + I)`: n, reset, update from `[z, x]`."""
    hidden: Tensor
    """`(4D, D)`: reset, update, n, head from h."""
    embedding: Tensor
    """`(D, E)`; E = 0 without embedding."""
    out: Tensor
    """`(P, D)`."""


class Packed(NamedTuple):
    """The weights of a run: sorted, cast, and transposed for the way forward.

    Products of 32 rows are up to twice as fast when neither factor has to be read across its rows.
    """

    backward: BackwardWeights
    from_latent: Tensor
    """`(Z, 3D)`."""
    from_hidden: Tensor
    """`(D, 4D)`."""
    from_head: Tensor
    """`(D, P)`."""


def pack(
    weight_ih: Tensor,
    weight_hh: Tensor,
    head_in: Tensor,
    head_out: Tensor,
    z_dim: int,
    arithmetic: Arithmetic,
) -> Packed:
    """Sort and cast the weights."""
    D = weight_hh.shape[1]
    latent = arithmetic.cast(torch.cat([weight_ih[2 * D :], weight_ih[: 2 * D]]))
    hidden = arithmetic.cast(torch.cat([weight_hh, head_in[:, :D]]))
    out = arithmetic.cast(head_out)
    return Packed(
        BackwardWeights(latent, hidden, arithmetic.cast(head_in[:, D:]), out),
        latent[:, :z_dim].t().contiguous(),
        hidden.t().contiguous(),
        out.t().contiguous(),
    )


def started_rows(
    inputs: Tensor,
    embedding: Tensor | None,
    biases: tuple[Tensor, Tensor, Tensor],
    packed: Packed,
    arithmetic: Arithmetic,
) -> Tensor:
    """Return the rows with what is known beforehand: biases, inputs `(T, B, I)`, embedding `(T, B, E)`."""
    (T, B, inputs_dim), D = inputs.shape, packed.from_hidden.shape[0]
    bias_ih, bias_hh, head_bias = biases
    gate_bias = torch.cat([bias_ih[2 * D :], bias_ih[: 2 * D] + bias_hh[: 2 * D]])
    rows = inputs.new_empty((T + 1) * B, SLOTS * D)
    rows[:, HIDDEN_N * D :] = torch.cat([bias_hh[2 * D :], head_bias])
    from_inputs = torch.cat(
        [packed.backward.latent[:, -inputs_dim:].t().to(gate_bias.dtype), gate_bias[None]]
    )
    with_one = torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=2).view(T * B, -1)
    torch.mm(with_one, from_inputs, out=rows[: T * B, : HIDDEN_N * D])
    if embedding is not None:
        arithmetic.accumulate(
            rows[B:, HEAD * D :], embedding.reshape(T * B, -1), packed.backward.embedding.t()
        )
    return rows.view(T + 1, B, SLOTS * D)


def slots(rows: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Return slots `first` to `last`, both included, of every row: one view `(B, ·)` per hour."""
    D = rows.shape[-1] // SLOTS
    return rows[..., first * D : (last + 1) * D].unbind(0)
