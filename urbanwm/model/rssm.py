"""The recurrent state-space model: initial, observe, imagine (Hafner et al. 2019, 2023; DESIGN §4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from urbanwm.model.recurrence import LOGVAR_MAX, RecurrentWeights, Trajectory, run_recurrence

REFERENCE_LOGVAR_MIN = -10.0
STEADY_LOGVAR_MIN = -4.0
"""Lower bound of the urban model: with a surer posterior, one hour's KL can outweigh a whole batch."""
SLOW_UPDATE_BIAS = 1.0
"""Added to the GRU's keep gate so that the state changes slowly at first (DreamerV3's update bias of −1)."""


class State(NamedTuple):
    """The model's belief at one hour: deterministic h `(B, D)` and stochastic z `(B, Z)`."""

    h: Tensor
    z: Tensor


class Gaussian(NamedTuple):
    """A diagonal Gaussian over z by mean and log-variance."""

    mean: Tensor
    logvar: Tensor


class RSSM(nn.Module):
    """A GRU that carries h, a prior p(z_t | h_t) and a posterior q(z_t | h_t, o_t).

    The GRU's input at hour t is `[z_{t-1}, input_t]`, where `input_t` is the action of that hour and, in the
    urban model, everything else known ahead of it. Tensors are batch-first: `(batch, time, feature)`.
    """

    def __init__(
        self,
        input_dim: int,
        embedding_dim: int,
        hidden_dim: int,
        latent_dim: int,
        *,
        silu: bool = False,
        slow_update: bool = False,
        logvar_min: float = REFERENCE_LOGVAR_MIN,
        noise_scale: float = 1.0,
    ) -> None:
        """Make the three networks.

        Args:
            input_dim: Features per hour that are known ahead: actions, calendar.
            embedding_dim: Width of the encoder's output.
            hidden_dim: D, width of h.
            latent_dim: Z, width of z.
            silu: Use SiLU instead of ReLU in prior and posterior.
            slow_update: Start with a GRU that mostly keeps its state.
            logvar_min: Lower bound of the log-variance of z.
            noise_scale: Share of the latent spread that the noise reaches.
        """
        super().__init__()
        self.hidden_dim, self.latent_dim = hidden_dim, latent_dim
        self.silu, self.logvar_min, self.noise_scale = silu, logvar_min, noise_scale
        activation = nn.SiLU if silu else nn.ReLU
        self.recurrent = nn.GRUCell(latent_dim + input_dim, hidden_dim)
        self.prior_net = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim), activation(), nn.Linear(hidden_dim, 2 * latent_dim)
        )
        self.posterior_net = nn.Sequential(
            nn.Linear(hidden_dim + embedding_dim, hidden_dim),
            activation(),
            nn.Linear(hidden_dim, 2 * latent_dim),
        )
        if slow_update:
            with torch.no_grad():
                self.recurrent.bias_ih[hidden_dim : 2 * hidden_dim] += SLOW_UPDATE_BIAS

    def initial(self, batch: int) -> State:
        """Return the belief before anything was seen: zeros."""
        like = self.recurrent.weight_hh
        return State(like.new_zeros(batch, self.hidden_dim), like.new_zeros(batch, self.latent_dim))

    def prior(self, h: Tensor) -> Gaussian:
        """Return p(z | h) for every row of h."""
        mean, logvar = self.prior_net(h).chunk(2, dim=-1)
        return Gaussian(mean, logvar.clamp(self.logvar_min, LOGVAR_MAX))

    def observe(self, embedding: Tensor, inputs: Tensor, state: State, noise: Tensor) -> Trajectory:
        """Filter: bring the belief up to date with observations, through the posterior.

        Args:
            embedding: The encoder's output `(B, T, E)`.
            inputs: Known-ahead inputs of the same hours `(B, T, I)`.
            state: Belief before the first hour.
            noise: Standard normal `(B, T, Z)`, or zeros.

        Returns:
            Belief after each hour, batch first, with the posterior's mean and logvar.
        """
        first = _linear(self.posterior_net[0])
        head_drive = functional.linear(embedding, first.weight[:, self.hidden_dim :], first.bias)
        weights = self._weights(first.weight[:, : self.hidden_dim], _linear(self.posterior_net[2]))
        return self._run(inputs, head_drive.transpose(0, 1), noise, state, weights)

    def imagine(self, inputs: Tensor, state: State, noise: Tensor) -> Trajectory:
        """Roll the prior forward without observations; arguments and result as in `observe`."""
        first = _linear(self.prior_net[0])
        weights = self._weights(first.weight, _linear(self.prior_net[2]))
        return self._run(inputs, first.bias.view(1, 1, -1), noise, state, weights)

    def rollout(self, state: State, actions: Tensor, noise: Tensor) -> Trajectory:
        """Imagine under the given actions `(B, T, I)`: `imagine` in the argument order of the reference."""
        return self.imagine(actions, state, noise)

    def _weights(self, hidden_to_head: Tensor, out: nn.Linear) -> RecurrentWeights:
        return RecurrentWeights(
            self.recurrent.weight_ih[:, : self.latent_dim],
            self.recurrent.weight_hh,
            self.recurrent.bias_hh,
            hidden_to_head,
            out.weight,
            out.bias,
        )

    def _run(
        self, inputs: Tensor, head_drive: Tensor, noise: Tensor, state: State, weights: RecurrentWeights
    ) -> Trajectory:
        """Project the known inputs of all hours at once, then recur (time first inside)."""
        drive = functional.linear(
            inputs.transpose(0, 1), self.recurrent.weight_ih[:, self.latent_dim :], self.recurrent.bias_ih
        )
        path = run_recurrence(
            drive,
            head_drive,
            self.noise_scale * noise.transpose(0, 1),
            state.h,
            state.z,
            weights,
            silu=self.silu,
            logvar_min=self.logvar_min,
        )
        return Trajectory(*(part.transpose(0, 1) for part in path))


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """Return KL(q‖p) in nats, summed over the latent dimension: `(..., Z)` to `(...)`."""
    ratio = torch.exp(q.logvar - p.logvar)
    distance = (q.mean - p.mean).square() * torch.exp(-p.logvar)
    return 0.5 * (ratio + distance - 1.0 + p.logvar - q.logvar).sum(dim=-1)


def _linear(module: nn.Module) -> nn.Linear:
    """Narrow a member of `nn.Sequential` to the layer it is."""
    if not isinstance(module, nn.Linear):
        raise TypeError(f"expected a linear layer, got {type(module).__name__}")
    return module
