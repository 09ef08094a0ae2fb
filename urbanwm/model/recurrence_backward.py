"""The way back through the recurrence: from gradients by its results to those by inputs and weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from urbanwm.model.arithmetic import Arithmetic
from urbanwm.model.latent import Latent
from urbanwm.model.recurrence_rows import (
    FED_BY_H,
    FED_BY_Z,
    GATES,
    HEAD,
    HIDDEN_N,
    INPUT_N,
    RESET,
    SLOTS,
    BackwardWeights,
    between,
)

_aten = torch.ops.aten


class Tape(NamedTuple):
    """What the way forward leaves; T hours, and a state more than hours."""

    embedding: Tensor | None
    """`(T, B, E)`."""
    rows: Tensor
    """`(T + 1, B, 5D)`: gates as the hour used them, n's hidden part and the head before its activation."""
    hs: Tensor
    """`(T + 1, B, D)`."""
    fed: Tensor
    """`[z, x, 1]` `(T + 1, B, Z + I + 1)`; x is missing behind the last hour."""
    head: Tensor
    """The head after its activation `(T, B, D)`."""
    belief: Tensor
    """`(T, B, P)`."""


def gradients(
    tape: Tape,
    weights: BackwardWeights,
    given: tuple[Tensor, Tensor, Tensor],
    latent: Latent,
    arithmetic: Arithmetic,
    *,
    silu: bool,
    inputs_wanted: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of `run_recurrence`'s tensors, in their order, from those by h, z and belief."""
    T, B, D = tape.head.shape
    Z = given[1].shape[2]
    d_raw, d_h0 = torch.empty_like(tape.belief), torch.empty_like(tape.hs[0])
    d_z0 = d_h0.new_empty(B, Z)
    with torch.inference_mode():  # the results are normal tensors all the same: they exist already
        _run_back(tape, weights, given, (d_raw, d_h0, d_z0), latent, arithmetic, silu=silu)
    flat = tape.rows.view((T + 1) * B, -1)
    gates, head, d_out = flat[: T * B, : HIDDEN_N * D], flat[B:, HEAD * D :], d_raw.view(T * B, -1)
    # One product for what h feeds; the slots without a partner are zero.
    by_hidden = arithmetic.product(flat[:, RESET * D :].t(), tape.hs.flatten(0, 1), d_h0)
    by_gates = arithmetic.product(tape.fed[:T].view(T * B, -1).t(), gates, d_h0).t()
    gate_bias, other_bias = by_gates[:, -1], flat[:, HIDDEN_N * D :].sum(dim=0)
    by_gates = torch.cat([by_gates[D:, :-1], by_gates[:D, :-1]])
    d_inputs = None
    if inputs_wanted:
        d_inputs = arithmetic.product(gates, weights.latent[:, Z:], d_h0).view(T, B, -1)
    head_in, d_embedding = by_hidden[HEAD * D - D :], None
    if tape.embedding is not None:
        embedding = tape.embedding.reshape(T * B, -1)
        head_in = torch.cat([head_in, arithmetic.product(head.t(), embedding, d_h0)], dim=1)
        d_embedding = arithmetic.product(head, weights.embedding, d_h0).view_as(tape.embedding)
    return (
        d_inputs,
        d_embedding,
        None,
        d_h0,
        d_z0,
        by_gates,
        by_hidden[: 3 * D],
        torch.cat([gate_bias[D:], gate_bias[:D]]),
        torch.cat([gate_bias[D:], other_bias[:D]]),
        head_in,
        other_bias[D:],
        arithmetic.product(d_out.t(), tape.head.flatten(0, 1), d_h0),
        d_out.sum(dim=0),
    )


def _run_back(
    tape: Tape,
    weights: BackwardWeights,
    given: tuple[Tensor, Tensor, Tensor],
    found: tuple[Tensor, Tensor, Tensor],
    latent: Latent,
    arithmetic: Arithmetic,
    *,
    silu: bool,
) -> None:
    """Turn rows into the gradients by them; fill those by the head's output and by the first state.

    Hour after hour backwards. `d_h` and `d_z` begin as what is given for an hour and end as what is given for
    the hour before, plus what this hour passes on.
    """
    d_raw, d_h, d_z = found
    D, Z = d_h.shape[1], d_z.shape[1]
    hs, zs, head = tape.hs.unbind(0), tape.fed[..., :Z].unbind(0), tape.head.unbind(0)
    candidate, reset, update, hidden_n, head_in = (
        between(tape.rows, slot, slot).unbind(0) for slot in range(SLOTS)
    )
    by_latent, by_hidden, gates = (
        between(tape.rows, *ends).unbind(0) for ends in (FED_BY_Z, FED_BY_H, GATES)
    )
    beliefs, d_beliefs, d_raws = (latent.hours(part) for part in (tape.belief, given[2], d_raw))
    before_h = (torch.zeros_like(d_h), *given[0].unbind(0))
    before_z = (torch.zeros_like(d_z), *given[1].unbind(0))
    to_latent, outs = weights.latent[:, :Z], d_raw.unbind(0)
    work, both = torch.empty_like(d_h), d_h.new_empty(len(d_h), 2 * D)
    by_reset, by_update = both.chunk(2, dim=1)
    between(tape.rows[0], HEAD, HEAD).zero_()
    between(tape.rows[-1], INPUT_N, HIDDEN_N).zero_()
    d_h.copy_(before_h[-1])
    d_z.copy_(before_z[-1])
    for t in range(len(head) - 1, -1, -1):
        latent.pull(d_z, zs[t + 1], beliefs[t], d_beliefs[t], d_raws[t])
        arithmetic.multiply(outs[t], weights.out, work)
        if silu:
            _aten.silu_backward.grad_input(work, head_in[t + 1], grad_input=head_in[t + 1])
        else:
            _aten.threshold_backward.grad_input(work, head[t], 0.0, grad_input=head_in[t + 1])
        arithmetic.add_product(d_h, by_hidden[t + 1], weights.hidden, d_h)
        torch.addcmul(d_h, d_h, update[t], value=-1.0, out=work)
        torch.sub(hs[t], candidate[t], out=by_update).mul_(d_h)
        torch.addcmul(before_h[t], d_h, update[t], out=d_h)
        _aten.tanh_backward.grad_input(work, candidate[t], grad_input=candidate[t])
        torch.mul(candidate[t], hidden_n[t], out=by_reset)
        torch.mul(candidate[t], reset[t], out=hidden_n[t])
        _aten.sigmoid_backward.grad_input(both, gates[t], grad_input=gates[t])
        arithmetic.add_product(before_z[t], by_latent[t], to_latent, d_z)
    arithmetic.add_product(d_h, by_hidden[0], weights.hidden, d_h)
