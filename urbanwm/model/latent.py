"""The stochastic state z: a diagonal Gaussian, or groups of categoricals (Hafner et al. 2019, 2023).

A latent distribution is a tensor of parameters `(..., P)`, the *belief*. Each family says how to bound it,
draw z `(..., Z)` from it with standard normal noise `(..., Z)` that the caller passes in, and compare two of
them. What `recurrence` needs for its hour loop and hand-written backward stands beside the readable formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from urbanwm.model.arithmetic import written_by_hand

_aten = torch.ops.aten
LOGVAR_MAX = 2.0
UNIMIX = 0.01
"""Share of the uniform distribution in every categorical, so that no class ever has probability 0."""
SMALLEST_UNIFORM = 1e-6
"""Normal noise becomes uniform numbers in [1e-6, 1 - 1e-6]; float32 has few numbers nearer to 1."""


class Latent(Protocol):
    """A family of distributions of z; Z values, P parameters."""

    @property
    def parameters(self) -> int:
        """Return P, the width of a belief."""

    def bound(self, raw: Tensor) -> Tensor:
        """Return the belief `(..., P)` that a head's output stands for."""

    def sample(self, belief: Tensor, noise: Tensor) -> Tensor:
        """Draw z `(..., Z)`; with noise 0 the most typical z."""

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """Return KL(q‖p) in nats `(...)` of two beliefs `(..., P)`."""

    def drive(self, noise: Tensor) -> Tensor:
        """Prepare the noise of all hours for `draw`."""

    def hours(self, values: Tensor) -> list[tuple[Tensor, ...]]:
        """Cut beliefs, or gradients by them, `(T, B, P)` into views per hour for `draw` and `pull`."""

    def draw(self, raw: tuple[Tensor, ...], drive: Tensor, z: Tensor) -> None:
        """As `sample` for one hour, into `z`; `raw` becomes the belief."""

    def pull(
        self,
        d_z: Tensor,
        z: Tensor,
        belief: tuple[Tensor, ...],
        d_belief: tuple[Tensor, ...],
        d_raw: tuple[Tensor, ...],
    ) -> None:
        """Carry one hour's gradients by z and by the belief back to the head's output, into `d_raw`."""


@dataclass(frozen=True)
class GaussianLatent:
    """z = mean + noise · exp(logvar / 2); the belief is `[mean, logvar]`, P = 2Z."""

    width: int
    """Z."""
    logvar_min: float
    """Lower bound of the log-variance."""

    @property
    def parameters(self) -> int:
        """Return P, the width of a belief."""
        return 2 * self.width

    def bound(self, raw: Tensor) -> Tensor:
        """Clamp the log-variance."""
        if written_by_hand(raw):
            return _GaussianBound.apply(raw, self.logvar_min)  # type: ignore[no-untyped-call]
        mean, logvar = raw.chunk(2, dim=-1)
        return torch.cat([mean, logvar.clamp(self.logvar_min, LOGVAR_MAX)], dim=-1)

    def sample(self, belief: Tensor, noise: Tensor) -> Tensor:
        """Draw z; with noise 0 the mean."""
        mean, logvar = belief.chunk(2, dim=-1)
        return mean + noise * torch.exp(0.5 * logvar)

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """Return KL(q‖p), summed over Z."""
        if written_by_hand(q):
            return _GaussianKL.apply(q, p)  # type: ignore[no-untyped-call]
        (q_mean, q_logvar), (p_mean, p_logvar) = q.chunk(2, dim=-1), p.chunk(2, dim=-1)
        excess = q_logvar - p_logvar
        distance = (q_mean - p_mean).square() * torch.exp(-p_logvar)
        return 0.5 * (torch.exp(excess) + distance - 1.0 - excess).sum(dim=-1)

    def drive(self, noise: Tensor) -> Tensor:
        """Return the noise as it is."""
        return noise

    def hours(self, values: Tensor) -> list[tuple[Tensor, ...]]:
        """Return mean and log-variance of every hour."""
        mean, logvar = values.chunk(2, dim=-1)
        return list(zip(mean.unbind(0), logvar.unbind(0), strict=True))

    def draw(self, raw: tuple[Tensor, ...], drive: Tensor, z: Tensor) -> None:
        """Draw one hour into `z` and clamp the log-variance in place."""
        mean, logvar = raw
        torch.mul(logvar.clamp_(self.logvar_min, LOGVAR_MAX), 0.5, out=z)
        torch.addcmul(mean, z.exp_(), drive, out=z)

    def pull(
        self,
        d_z: Tensor,
        z: Tensor,
        belief: tuple[Tensor, ...],
        d_belief: tuple[Tensor, ...],
        d_raw: tuple[Tensor, ...],
    ) -> None:
        """Add dz to the mean's gradient and dz/dlogvar = (z - mean) / 2 of it to the log-variance's.

        Where the bound holds, the log-variance has none.
        """
        (mean, logvar), (d_mean, d_logvar) = belief, d_raw
        torch.add(d_belief[0], d_z, out=d_mean)
        torch.sub(z, mean, out=d_logvar)
        torch.addcmul(d_belief[1], d_logvar, d_z, value=0.5, out=d_logvar)
        _stop_at_bounds(d_logvar, logvar, self.logvar_min)


def _stop_at_bounds(gradient: Tensor, logvar: Tensor, logvar_min: float) -> None:
    """Make the gradient by a log-variance 0 where a bound holds."""
    _aten.hardtanh_backward.grad_input(gradient, logvar, logvar_min, LOGVAR_MAX, grad_input=gradient)


class _GaussianBound(torch.autograd.Function):
    """Clamp the log-variance: a copy forward and one back."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, logvar_min: float) -> Tensor:  # noqa: ANN401
        belief = raw.clone()
        belief.chunk(2, dim=-1)[1].clamp_(logvar_min, LOGVAR_MAX)
        ctx.logvar_min = logvar_min
        ctx.save_for_backward(belief)
        return belief

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (belief,) = ctx.saved_tensors
        by_raw = gradient.clone()
        _stop_at_bounds(by_raw.chunk(2, dim=-1)[1], belief.chunk(2, dim=-1)[1], ctx.logvar_min)
        return by_raw, None


class _GaussianKL(torch.autograd.Function):
    """KL(q‖p) and its derivatives, in half as many passes over the beliefs as autograd takes."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, p: Tensor) -> Tensor:  # noqa: ANN401
        (q_mean, q_logvar), (p_mean, p_logvar) = q.chunk(2, dim=-1), p.chunk(2, dim=-1)
        excess, difference = q_logvar - p_logvar, q_mean - p_mean
        weighted = p_logvar.neg().exp_().mul_(difference)
        ratio = excess.exp()
        ctx.save_for_backward(difference, weighted, ratio)
        total = torch.sub(ratio, excess, out=excess).addcmul_(difference, weighted).sum(dim=-1)
        return total.sub_(difference.shape[-1]).mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        difference, weighted, ratio = ctx.saved_tensors
        scale, width = gradient.unsqueeze(-1), 2 * difference.shape[-1]
        by_q, by_p = (difference.new_empty(*gradient.shape, width) for _ in range(2))
        (by_q_mean, by_q_logvar), (by_p_mean, by_p_logvar) = by_q.chunk(2, dim=-1), by_p.chunk(2, dim=-1)
        torch.mul(weighted, scale, out=by_q_mean)
        torch.neg(by_q_mean, out=by_p_mean)
        torch.sub(ratio, 1.0, out=by_q_logvar).mul_(0.5 * scale)
        torch.neg(by_q_logvar, out=by_p_logvar).addcmul_(difference, by_q_mean, value=-0.5)
        return by_q, by_p


@dataclass(frozen=True)
class CategoricalLatent:
    """G one-hot vectors of K classes, straight-through, with 1 % of the uniform (Hafner et al. 2023).

    The belief is the logits, P = Z = G · K. The class is the Gumbel maximum, written without logarithms:
    argmax(p / e) with e = -log Φ(noise) exponential. Noise 0 makes all e equal: the mode. The gradient of z
    is that of the probabilities.
    """

    groups: int
    classes: int

    @property
    def parameters(self) -> int:
        """Return P, the width of a belief."""
        return self.groups * self.classes

    def bound(self, raw: Tensor) -> Tensor:
        """Return the logits as they are: the uniform share bounds the probabilities."""
        return raw

    def probabilities(self, belief: Tensor) -> Tensor:
        """Return the class probabilities `(..., G, K)`."""
        softmax = torch.softmax(self._grouped(belief), dim=-1)
        return (1.0 - UNIMIX) * softmax + UNIMIX / self.classes

    def sample(self, belief: Tensor, noise: Tensor) -> Tensor:
        """Draw G one-hot vectors as one z; with noise 0 the most probable classes."""
        probabilities = self.probabilities(belief)
        chosen = (probabilities * self._grouped(self.drive(noise))).argmax(dim=-1)
        one_hot = functional.one_hot(chosen, self.classes).to(belief.dtype)
        return (one_hot + (probabilities - probabilities.detach())).flatten(-2)

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """Return KL(q‖p), summed over the groups."""
        q_share, p_share = self.probabilities(q), self.probabilities(p)
        return (q_share * (q_share.log() - p_share.log())).sum(dim=(-2, -1))

    def drive(self, noise: Tensor) -> Tensor:
        """Return 1 / e, the factor of each class' probability, from standard normal noise."""
        uniform = 0.5 + 0.5 * torch.erf(noise / math.sqrt(2.0))
        return -1.0 / uniform.clamp(SMALLEST_UNIFORM, 1.0 - SMALLEST_UNIFORM).log()

    def hours(self, values: Tensor) -> list[tuple[Tensor, ...]]:
        """Return the logits of every hour."""
        return [(hour,) for hour in values.unbind(0)]

    def draw(self, raw: tuple[Tensor, ...], drive: Tensor, z: Tensor) -> None:
        """Draw one hour into `z`; logits need no bound."""
        chosen = (self.probabilities(raw[0]) * self._grouped(drive)).argmax(dim=-1, keepdim=True)
        self._grouped(z).zero_().scatter_(-1, chosen, 1.0)

    def pull(
        self,
        d_z: Tensor,
        z: Tensor,
        belief: tuple[Tensor, ...],
        d_belief: tuple[Tensor, ...],
        d_raw: tuple[Tensor, ...],
    ) -> None:
        """Add the derivative of the probabilities, p · (dz - Σ p dz), without the uniform's share."""
        share, gradient = torch.softmax(self._grouped(belief[0]), dim=-1), self._grouped(d_z)
        by_softmax = share * (gradient - (share * gradient).sum(dim=-1, keepdim=True))
        torch.add(d_belief[0], by_softmax.flatten(-2), alpha=1.0 - UNIMIX, out=d_raw[0])

    def _grouped(self, values: Tensor) -> Tensor:
        return values.view(*values.shape[:-1], self.groups, self.classes)
