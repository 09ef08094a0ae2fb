"""The way back through the recurrence: from gradients by its results to those by inputs and weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from urbanwm.model.latent import Latent
from urbanwm.model.recurrence_rows import (
    HEAD,
    HIDDEN_N,
    INPUT_N,
    RESET,
    SLOTS,
    UPDATE,
    Arithmetic,
    BackwardWeights,
    slots,
)

_aten = torch.ops.aten


class Tape(NamedTuple):
    """What the way forward leaves; T hours, and a state more than hours."""

    inputs: Tensor
    """`(T, B, I)`."""
    embedding: Tensor | None
    """`(T, B, E)`."""
    rows: Tensor
    """`(T + 1, B, 5D)`: gates as the hour used them, n's hidden part and the head before its activation."""
    hs: Tensor
    """`(T + 1, B, D)`."""
    zs: Tensor
    """`(T + 1, B, Z)`."""
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
    contiguous = torch.contiguous_format
    d_h, d_z = (part.clone(memory_format=contiguous) for part in given[:2])
    d_belief = latent.bound_gradient(tape.belief, given[2])
    d_rows = _gate_slopes(tape)
    with torch.inference_mode():
        _run_back(tape, weights, (d_h, d_z, d_belief, d_rows), latent, arithmetic, silu=silu)
    T, B, D = tape.head.shape
    d_h0, d_z0 = d_h[0] * tape.rows[0, :, UPDATE * D : HIDDEN_N * D], torch.zeros_like(d_z[0])
    arithmetic.accumulate(d_h0, d_rows[0, :, RESET * D : HEAD * D], weights.hidden[:-D])
    arithmetic.accumulate(d_z0, d_rows[0, :, : HIDDEN_N * D], weights.latent[:, : d_z.shape[2]])
    gates, flat = d_rows[:T].view(T * B, -1)[:, : HIDDEN_N * D], d_rows.view((T + 1) * B, -1)
    head = flat[B:, HEAD * D :]
    # One product for what h feeds; the slots without a partner are zero.
    by_hidden = arithmetic.product(flat[:, RESET * D :].t(), tape.hs.flatten(0, 1), d_h)
    fed = torch.cat([tape.zs[:T], tape.inputs], dim=2).view(T * B, -1)
    by_gates = arithmetic.product(gates.t(), fed, d_h)
    bias = torch.mv(flat.t(), flat.new_ones(len(flat)))
    d_inputs = (
        arithmetic.product(gates, weights.latent[:, tape.zs.shape[2] :], d_h) if inputs_wanted else None
    )
    head_in, d_embedding = by_hidden[HEAD * D - D :], None
    if tape.embedding is not None:
        embedding = tape.embedding.reshape(T * B, -1)
        head_in = torch.cat([head_in, arithmetic.product(head.t(), embedding, d_h)], dim=1)
        d_embedding = arithmetic.product(head, weights.embedding, d_h).view_as(tape.embedding)
    d_out = d_belief.view(T * B, -1)
    return (
        None if d_inputs is None else d_inputs.view_as(tape.inputs),
        d_embedding,
        None,
        d_h0,
        d_z0,
        torch.cat([by_gates[D:], by_gates[:D]]),
        by_hidden[: 3 * D],
        torch.cat([bias[RESET * D : HIDDEN_N * D], bias[: RESET * D]]),
        bias[RESET * D : HEAD * D],
        head_in,
        bias[HEAD * D :],
        arithmetic.product(d_out.t(), tape.head.view(T * B, D), d_h),
        d_out.sum(dim=0),
    )


def _gate_slopes(tape: Tape) -> Tensor:
    """Return rows with d gate / d h_t for every hour, zero where a slot has no hour."""
    T, _, D = tape.head.shape
    candidate, reset, update, hidden_n, _ = tape.rows[:T].chunk(SLOTS, dim=2)
    slopes = torch.empty_like(tape.rows)
    by_candidate, by_reset, by_update, by_hidden_n, _ = slopes[:T].chunk(SLOTS, dim=2)
    _aten.tanh_backward.grad_input(1.0 - update, candidate, grad_input=by_candidate)
    _aten.sigmoid_backward.grad_input(tape.hs[:T] - candidate, update, grad_input=by_update)
    _aten.sigmoid_backward.grad_input(by_candidate * hidden_n, reset, grad_input=by_reset)
    torch.mul(by_candidate, reset, out=by_hidden_n)
    slopes[0, :, HEAD * D :] = 0.0
    slopes[T, :, : HEAD * D] = 0.0
    return slopes


def _head_slopes(tape: Tape, *, silu: bool) -> Tensor:
    """Return the slope of the head's activation `(T, B, D)`."""
    if not silu:
        return (tape.head > 0.0).to(tape.head.dtype)
    head_in = tape.rows[1:, :, HEAD * tape.head.shape[2] :]
    return _aten.silu_backward(torch.ones_like(tape.head), head_in)


def _run_back(
    tape: Tape,
    weights: BackwardWeights,
    derivatives: tuple[Tensor, Tensor, Tensor, Tensor],
    latent: Latent,
    arithmetic: Arithmetic,
    *,
    silu: bool,
) -> None:
    """Turn slopes into derivatives, hour after hour backwards."""
    (hours, _, D), z_dim = tape.head.shape, tape.zs.shape[2]
    d_h, d_z, d_belief = (part.unbind(0) for part in derivatives[:3])
    d_parts, d_rows = latent.hours(derivatives[2]), derivatives[3]
    d_gates = d_rows.view(hours + 1, -1, SLOTS, D)[:, :, :HEAD].unbind(0)
    by_latent, by_hidden = slots(d_rows, INPUT_N, UPDATE), slots(d_rows, RESET, HEAD)
    d_head, update = slots(d_rows, HEAD, HEAD), slots(tape.rows, UPDATE, UPDATE)
    head_slopes, d_h_once = _head_slopes(tape, silu=silu).unbind(0), derivatives[0].unsqueeze(2).unbind(0)
    by_z = latent.slopes(tape.belief, tape.zs[1:]).unbind(0)
    to_latent = weights.latent[:, :z_dim]
    for t in range(hours - 1, -1, -1):
        latent.pull(d_z[t], by_z[t], d_parts[t])
        arithmetic.multiply(d_belief[t], weights.out, d_head[t + 1]).mul_(head_slopes[t])
        if t + 1 < hours:
            arithmetic.accumulate(d_h[t], by_hidden[t + 1], weights.hidden)
            d_h[t].addcmul_(d_h[t + 1], update[t + 1])
        else:
            arithmetic.accumulate(d_h[t], d_head[t + 1], weights.hidden[-D:])
        d_gates[t].mul_(d_h_once[t])
        if t > 0:
            arithmetic.accumulate(d_z[t - 1], by_latent[t], to_latent)
