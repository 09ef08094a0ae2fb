"""The networks without a memory, encoder, prior and read-out, with a hand-written backward.

They run over all hours of a batch at once: thousands of rows, more than the cache of a core holds. What
counts beside the products is how much is read and written between them, so as much as possible happens in
place. `nn.Sequential` of the same layers is the same by ordinary autograd.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from urbanwm.errors import InternalContractBroken
from urbanwm.model.arithmetic import Arithmetic, written_by_hand
from urbanwm.model.dropout import FastDropout

_aten = torch.ops.aten


class Stage(NamedTuple):
    """What follows a linear layer, up to the next one."""

    epsilon: float | None = None
    """Of LayerNorm, if there is one."""
    silu: bool | None = None
    """Whether the activation is SiLU, otherwise ReLU; None = nothing follows: the last layer."""
    dropout: FastDropout | None = None
    """If it drops anything."""

    @property
    def folded(self) -> float:
        """Return dropout's factor if LayerNorm's weights can take it: ReLU(c · x) = c · ReLU(x)."""
        fits = self.dropout is not None and self.epsilon is not None and not self.silu
        return self.dropout.factor if self.dropout is not None and fits else 1.0


class Parameters(NamedTuple):
    """Of a stage."""

    weight: Tensor
    """`(width, in)`."""
    bias: Tensor
    """`(width,)`."""
    scale: Tensor | None = None
    """LayerNorm's weight `(width,)`."""
    shift: Tensor | None = None
    """LayerNorm's bias `(width,)`."""


class Tape(NamedTuple):
    """What the way forward through a stage leaves for the way back; of the last layer only `x`."""

    x: Tensor
    """What came in `(rows, in)`."""
    raw: Tensor | None = None
    """What the linear layer gave `(rows, width)`, for LayerNorm."""
    mean: Tensor | None = None
    """Of each row of `raw` `(rows, 1)`."""
    inverse_spread: Tensor | None = None
    """Likewise."""
    hidden: Tensor | None = None
    """What SiLU was given `(rows, width)`."""
    out: Tensor | None = None
    """What ReLU gave `(rows, width)`."""
    factors: Tensor | None = None
    """Dropout's `(rows, width)`; where they are folded away, ReLU's result tells what was dropped."""


class Perceptron(nn.Sequential):
    """Linear layers, all or all but the last with activation, maybe LayerNorm before and dropout behind it.

    From `(..., in)` to `(..., out)`. On a GPU, and while torch compiles, it is plain `nn.Sequential`.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name torch gave it
        """Run the layers on every row."""
        if not written_by_hand(input):
            plain: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
            return plain
        rows = input.reshape(-1, input.shape[-1])
        out: Tensor = _Perceptron.apply(rows, self._stages(), *self.parameters())  # type: ignore[no-untyped-call]
        return out.view(*input.shape[:-1], -1)

    def _stages(self) -> list[Stage]:
        """Return what follows each linear layer."""
        stages: list[Stage] = []
        for layer in self:
            if isinstance(layer, nn.Linear):
                stages.append(Stage())
            elif isinstance(layer, nn.LayerNorm):
                stages[-1] = stages[-1]._replace(epsilon=layer.eps)
            elif isinstance(layer, nn.ReLU | nn.SiLU):
                stages[-1] = stages[-1]._replace(silu=isinstance(layer, nn.SiLU))
            elif not isinstance(layer, FastDropout):
                raise InternalContractBroken(f"a perceptron has no layer {type(layer).__name__}")
            elif layer.active:
                stages[-1] = stages[-1]._replace(dropout=layer)
        return stages


class _Perceptron(torch.autograd.Function):
    """Stage by stage."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context takes any attribute
        x: Tensor,
        stages: list[Stage],
        *parameters: Tensor,
    ) -> Tensor:
        ctx.stages, ctx.arithmetic, saved = stages, Arithmetic(x), list[Tensor | None]()
        with torch.autocast(x.device.type, enabled=False):
            for stage, own in _by_stage(stages, parameters):
                # Less memory traffic than `addmm`, which begins with copies of the bias.
                raw = ctx.arithmetic.product(x, own.weight.t(), x).add_(own.bias)
                x, tape = _activate(stage, own, x, raw)
                saved += tape
        ctx.save_for_backward(*saved, *parameters)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        saved, size, product = ctx.saved_tensors, len(Tape._fields), ctx.arithmetic.product
        owns = list(_by_stage(ctx.stages, saved[size * len(ctx.stages) :]))
        found: list[Tensor | None] = []
        if ctx.stages[-1].silu is not None:  # then it is changed in place
            gradient = gradient.clone()
        for i in range(len(owns) - 1, -1, -1):
            (stage, own), tape = owns[i], Tape(*saved[size * i : size * (i + 1)])
            gradient, by_norm = _pull(stage, own, tape, gradient)
            found = [product(gradient.t(), tape.x, gradient), gradient.sum(dim=0), *by_norm, *found]
            if i > 0 or ctx.needs_input_grad[0]:
                gradient = product(gradient, own.weight, gradient)
        return gradient if ctx.needs_input_grad[0] else None, None, *found


def _by_stage(stages: list[Stage], parameters: Sequence[Tensor]) -> Iterator[tuple[Stage, Parameters]]:
    """Deal the parameters out."""
    left = iter(parameters)
    for stage in stages:
        yield stage, Parameters(*itertools.islice(left, 2 if stage.epsilon is None else 4))


def _activate(stage: Stage, own: Parameters, x: Tensor, raw: Tensor) -> tuple[Tensor, Tape]:
    """Return what a stage makes of the linear layer's result, and its tape."""
    if stage.silu is None:
        return raw, Tape(x)
    tape, hidden = Tape(x), raw
    if stage.epsilon is not None:
        hidden, mean, inverse_spread = torch.native_layer_norm(
            raw, own.bias.shape, *_affine(stage, own), stage.epsilon
        )
        tape = tape._replace(raw=raw, mean=mean, inverse_spread=inverse_spread)
    out = functional.silu(hidden) if stage.silu else hidden.clamp_min_(0.0)
    tape = tape._replace(hidden=hidden) if stage.silu else tape._replace(out=out)
    if stage.dropout is not None:
        factors = stage.dropout.draw(*out.shape).to(out.dtype)
        if stage.folded == 1.0:
            tape = tape._replace(factors=factors.mul_(stage.dropout.factor))
        out.mul_(factors)
    return out, tape


def _affine(stage: Stage, own: Parameters) -> tuple[Tensor, Tensor]:
    """Return LayerNorm's weight and bias, with what is folded into them."""
    if own.scale is None or own.shift is None:
        raise InternalContractBroken("this stage has no LayerNorm")
    if stage.folded == 1.0:
        return own.scale, own.shift
    return own.scale * stage.folded, own.shift * stage.folded


def _pull(stage: Stage, own: Parameters, tape: Tape, gradient: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Turn the gradient by what went out, in place, into that by what the linear layer gave.

    Returns it and those by LayerNorm's weight and bias.
    """
    if tape.factors is not None:
        gradient.mul_(tape.factors)
    if stage.silu:
        _aten.silu_backward.grad_input(gradient, tape.hidden, grad_input=gradient)
    elif stage.silu is not None:
        _aten.threshold_backward.grad_input(gradient, tape.out, 0.0, grad_input=gradient)
    if stage.epsilon is None:
        return gradient, ()
    moments, every = (tape.mean, tape.inverse_spread), [True, True, True]
    gradient, by_scale, by_shift = _aten.native_layer_norm_backward(
        gradient, tape.raw, own.bias.shape, *moments, *_affine(stage, own), every
    )
    return gradient, (by_scale.mul_(stage.folded), by_shift.mul_(stage.folded))
