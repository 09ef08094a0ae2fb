"""The memory layout of the recurrence: rows in which neighbours share matrix products.

Row k of `(T+1, B, 5D)` holds what the state after k hours leads to: the gates of hour k (counting from 0) and
the head of the hour before. Its five slots of width D are

    n (input part) | reset | update | n (hidden part) | head

so that `z_k` feeds the first three with one product and `h_k` the last four with another. The same holds for
the derivatives on the way back, which take the places of the values. `z_k` comes with what else feeds the
first three: `[z, x, 1]`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from urbanwm.model.arithmetic import Arithmetic

INPUT_N, RESET, UPDATE, HIDDEN_N, HEAD = range(5)
SLOTS = 5
FED_BY_Z, FED_BY_H, GATES = (INPUT_N, UPDATE), (RESET, HEAD), (RESET, UPDATE)
"""First and last slot of what z feeds, of what h feeds, and of the gates."""


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
    from_fed: Tensor
    """`(Z + I + 1, 3D)`: n, reset, update from `[z, x, 1]`."""
    from_hidden: Tensor
    """`(D, 4D)`."""
    from_head: Tensor
    """`(D, P)`."""
    hidden_n_bias: Tensor
    """`(D,)`."""
    out_bias: Tensor
    """`(P,)`."""


def pack(
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    head_in: Tensor,
    head_out: Tensor,
    out_bias: Tensor,
    arithmetic: Arithmetic,
) -> Packed:
    """Sort and cast the weights."""
    D = weight_hh.shape[1]
    latent = torch.cat([weight_ih[2 * D :], weight_ih[: 2 * D]])
    hidden = torch.cat([weight_hh, head_in[:, :D]])
    gate_bias = torch.cat([bias_ih[2 * D :], bias_ih[: 2 * D] + bias_hh[: 2 * D]])
    from_fed = torch.cat([latent.t(), gate_bias[None]])
    latent, hidden, embedding, out, from_fed = (
        arithmetic.cast(weights) for weights in (latent, hidden, head_in[:, D:], head_out, from_fed)
    )
    backward = BackwardWeights(latent, hidden, embedding, out)
    return Packed(
        backward, from_fed, hidden.t().contiguous(), out.t().contiguous(), bias_hh[2 * D :], out_bias
    )


def fed_rows(z: Tensor, inputs: Tensor) -> Tensor:
    """Return `[z, x, 1]` before every hour and after the last, `(T + 1, B, Z + I + 1)`; z to be filled in."""
    (T, B, inputs_dim), Z = inputs.shape, z.shape[1]
    fed = z.new_empty(T + 1, B, Z + inputs_dim + 1)
    fed[0, :, :Z] = z
    fed[:T, :, Z:-1] = inputs
    fed[..., -1] = 1.0
    return fed


def head_beforehand(
    embedding: Tensor | None, bias: Tensor, hours: int, packed: Packed, arithmetic: Arithmetic
) -> Tensor:
    """Return what the head is given beside h, embedding `(T, B, E)` and bias: `(T, B, D)` or `(T, 1, D)`."""
    if embedding is None:
        return bias.expand(hours, 1, -1)
    rows = arithmetic.product(embedding.reshape(-1, embedding.shape[2]), packed.backward.embedding.t(), bias)
    return rows.add_(bias).view(*embedding.shape[:2], -1)


def between(rows: Tensor, first: int, last: int) -> Tensor:
    """Return slots `first` to `last`, both included, of one row or many."""
    D = rows.shape[-1] // SLOTS
    return rows[..., first * D : (last + 1) * D]
