"""The sequential half of the RSSM, a GRU cell and a latent head, with a hand-written backward.

Filtering and imagining are the same recurrence. At each hour t:

    h_t      = GRU([z_{t-1}, x_t], h_{t-1})
    belief_t = bound(W_o f(W_a [h_t, embedding_t] + b_a) + b_o)
    z_t      ~ latent(belief_t)

with the embedding when filtering (posterior) and without it when imagining (prior). `recurrence_plain` is
the same in ten lines of ordinary autograd.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from urbanwm.model.arithmetic import Arithmetic
from urbanwm.model.latent import Latent
from urbanwm.model.recurrence_backward import Tape, gradients
from urbanwm.model.recurrence_rows import (
    FED_BY_H,
    FED_BY_Z,
    GATES,
    SLOTS,
    BackwardWeights,
    Packed,
    between,
    fed_rows,
    head_beforehand,
    pack,
)

_aten = torch.ops.aten


class Trajectory(NamedTuple):
    """Consecutive hours: h `(T, B, D)`, z `(T, B, Z)`, belief `(T, B, P)`; batch first outside of here."""

    h: Tensor
    z: Tensor
    belief: Tensor


class RecurrentWeights(NamedTuple):
    """The weights as `torch.nn.GRUCell` (gates r, u, n) and the two linear layers of a head hold them."""

    weight_ih: Tensor
    """`(3D, Z + I)` for `[z, x]`."""
    weight_hh: Tensor
    """`(3D, D)`."""
    bias_ih: Tensor
    """`(3D,)`."""
    bias_hh: Tensor
    """`(3D,)`."""
    head_in: Tensor
    """W_a `(D, D + E)` for `[h, embedding]`; `(D, D)` without embedding."""
    head_in_bias: Tensor
    """b_a `(D,)`."""
    head_out: Tensor
    """W_o `(P, D)`."""
    head_out_bias: Tensor
    """b_o `(P,)`."""


def run_recurrence(
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
    """Run the recurrence with a hand-written backward.

    Args:
        inputs: x, what is known ahead of each hour `(T, B, I)`.
        embedding: `(T, B, E)`, or None.
        noise: `(T, B, Z)`, standard normal, or zeros; no gradient flows into it.
        h: State before the first hour `(B, D)`.
        z: State before the first hour `(B, Z)`.
        weights: See `RecurrentWeights`.
        latent: The family of z.
        silu: Whether f is SiLU; otherwise ReLU.
    """
    path = _Recurrence.apply(inputs, embedding, noise, h, z, *weights, latent, silu)  # type: ignore[no-untyped-call]
    return Trajectory(*path)


class _Recurrence(torch.autograd.Function):
    """Three matrix products per hour forward and three backward, in rows that are allocated once.

    What an hour's products share is laid side by side (`recurrence_rows`). All gate derivatives are computed
    for all hours before the backward loop, all weight gradients after it, each as one product over all hours
    (`recurrence_backward`).
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context takes any attribute
        inputs: Tensor,
        embedding: Tensor | None,
        noise: Tensor,
        h: Tensor,
        z: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        head_in: Tensor,
        head_in_bias: Tensor,
        head_out: Tensor,
        head_out_bias: Tensor,
        latent: Latent,
        silu: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        arithmetic = Arithmetic(h)
        with torch.autocast(h.device.type, enabled=False):
            packed = pack(
                weight_ih, weight_hh, bias_ih, bias_hh, head_in, head_out, head_out_bias, arithmetic
            )
            (T, B, _), D, Z = inputs.shape, h.shape[1], z.shape[1]
            known = head_beforehand(embedding, head_in_bias, T, packed, arithmetic)
            # A leading slot for the state before the first hour.
            hs, fed = h.new_empty(T + 1, B, D), fed_rows(z, inputs)
            hs[0] = h
            rows, head = h.new_empty(T + 1, B, SLOTS * D), h.new_empty(T, B, D)
            belief = h.new_empty(T, B, latent.parameters)
            tape = Tape(embedding, rows, hs, fed, head, belief)
            with torch.inference_mode():  # a tenth off the small operations; all results are normal tensors
                _run_hours(tape, known, latent.drive(noise), packed, latent, arithmetic, silu=silu)
        ctx.latent, ctx.silu, ctx.arithmetic = latent, silu, arithmetic
        ctx.save_for_backward(*tape, *packed.backward)
        return hs[1:], fed[1:, :, :Z], belief

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad_h: Tensor,
        grad_z: Tensor,
        grad_belief: Tensor,
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        found = gradients(
            Tape(*saved[: len(Tape._fields)]),
            BackwardWeights(*saved[len(Tape._fields) :]),
            (grad_h, grad_z, grad_belief),
            ctx.latent,
            ctx.arithmetic,
            silu=ctx.silu,
            inputs_wanted=ctx.needs_input_grad[0],
        )
        return (*found, None, None)


def _run_hours(
    tape: Tape,
    known: Tensor,
    drive: Tensor,
    packed: Packed,
    latent: Latent,
    arithmetic: Arithmetic,
    *,
    silu: bool,
) -> None:
    """Fill rows, states, heads and beliefs, hour after hour.

    Products go to one row, which stays in the cache; the tape keeps what became of it.
    """
    row = torch.empty_like(tape.rows[0])
    by_latent, by_hidden, gates_in = (between(row, *ends) for ends in (FED_BY_Z, FED_BY_H, GATES))
    input_n, _, _, hidden_n_in, head_row = (between(row, slot, slot) for slot in range(SLOTS))
    gates = between(tape.rows, *GATES).unbind(0)
    candidate, reset, update, hidden_n, head_in = (
        between(tape.rows, slot, slot).unbind(0) for slot in range(SLOTS)
    )
    hs, fed, zs = tape.hs.unbind(0), tape.fed.unbind(0), tape.fed[..., : drive.shape[2]].unbind(0)
    head, belief, drives, knowns = (part.unbind(0) for part in (tape.head, tape.belief, drive, known))
    parts = latent.hours(tape.belief)
    arithmetic.multiply(hs[0], packed.from_hidden, by_hidden)
    for t in range(len(head)):
        input_n.zero_()
        arithmetic.add_product(by_latent, fed[t], packed.from_fed, by_latent)
        torch.sigmoid(gates_in, out=gates[t])
        torch.add(hidden_n_in, packed.hidden_n_bias, out=hidden_n[t])
        torch.addcmul(input_n, reset[t], hidden_n[t], out=candidate[t]).tanh_()
        torch.lerp(candidate[t], hs[t], update[t], out=hs[t + 1])
        arithmetic.multiply(hs[t + 1], packed.from_hidden, by_hidden)
        if silu:
            torch.add(head_row, knowns[t], out=head_in[t + 1])
            _aten.silu.out(head_in[t + 1], out=head[t])
        else:
            torch.add(head_row, knowns[t], out=head[t]).clamp_min_(0.0)
        arithmetic.add_product(packed.out_bias, head[t], packed.from_head, belief[t])
        latent.draw(parts[t], drives[t], zs[t + 1])
