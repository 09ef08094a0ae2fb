"""The recurrent state-space model: initial, observe, imagine (Hafner et al. 2019, 2023; DESIGN §4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from urbanwm.model.encoder import hours_first
from urbanwm.model.latent import GaussianLatent, Latent
from urbanwm.model.perceptron import Perceptron
from urbanwm.model.recurrence import RecurrentWeights, Trajectory, run_recurrence

REFERENCE_LOGVAR_MIN = -10.0
STEADY_LOGVAR_MIN = -4.0
"""Lower bound of the urban model: with a surer posterior, one hour's KL can outweigh a whole batch."""
SLOW_UPDATE_BIAS = 1.0
"""Added to the GRU's keep gate so that the state changes slowly at first (DreamerV3's update bias of −1)."""


class State(NamedTuple):
    """The model's belief at one hour: deterministic h `(B, D)` and stochastic z `(B, Z)`."""

    h: Tensor
    z: Tensor


class RSSM(nn.Module):
    """A GRU that carries h, a prior p(z_t | h_t) and a posterior q(z_t | h_t, o_t).

    The GRU's input at hour t is `[z_{t-1}, input_t]`, where `input_t` is the action of that hour and, in the
    urban model, everything else known ahead of it. Prior and posterior are beliefs: parameters of the
    `latent` family. Tensors are batch-first: `(batch, time, feature)`; inside, time comes first.
    """

    def __init__(
        self,
        input_dim: int,
        embedding_dim: int,
        hidden_dim: int,
        latent_dim: int,
        *,
        latent: Latent | None = None,
        silu: bool = False,
        slow_update: bool = False,
        noise_scale: float = 1.0,
    ) -> None:
        """Make the three networks.

        Args:
            input_dim: Features per hour that are known ahead: actions, calendar.
            embedding_dim: Width of the encoder's output.
            hidden_dim: D, width of h.
            latent_dim: Z, width of z.
            latent: The family of z; None = the reference's Gaussian.
            silu: Use SiLU instead of ReLU in prior and posterior.
            slow_update: Start with a GRU that mostly keeps its state.
            noise_scale: Share of the latent spread that the noise reaches.
        """
        super().__init__()
        self.hidden_dim, self.latent_dim = hidden_dim, latent_dim
        self.latent: Latent = latent or GaussianLatent(latent_dim, REFERENCE_LOGVAR_MIN)
        self.silu, self.noise_scale = silu, noise_scale
        self.run = run_recurrence
        activation, parameters = nn.SiLU if silu else nn.ReLU, self.latent.parameters
        self.recurrent = nn.GRUCell(latent_dim + input_dim, hidden_dim)
        self.prior_net = Perceptron(
            nn.Linear(hidden_dim, hidden_dim), activation(), nn.Linear(hidden_dim, parameters)
        )
        self.posterior_net = Perceptron(
            nn.Linear(hidden_dim + embedding_dim, hidden_dim),
            activation(),
            nn.Linear(hidden_dim, parameters),
        )
        if slow_update:
            with torch.no_grad():
                self.recurrent.bias_ih[hidden_dim : 2 * hidden_dim] += SLOW_UPDATE_BIAS

    def initial(self, batch: int) -> State:
        """Return the belief before anything was seen: zeros."""
        like = self.recurrent.weight_hh
        return State(like.new_zeros(batch, self.hidden_dim), like.new_zeros(batch, self.latent_dim))

    def prior(self, h: Tensor) -> Tensor:
        """Return p(z | h) `(B, T, P)` for states `(B, T, D)`."""
        return hours_first(self.latent.bound(self.prior_net(hours_first(h))))

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """Return KL(q‖p) in nats `(B, T)` of two beliefs `(B, T, P)`."""
        return self.latent.kl(q.transpose(0, 1), p.transpose(0, 1)).transpose(0, 1)

    def observe(self, embedding: Tensor, inputs: Tensor, state: State, noise: Tensor) -> Trajectory:
        """Filter: bring the belief up to date with observations, through the posterior.

        Args:
            embedding: The encoder's output `(B, T, E)`.
            inputs: Known-ahead inputs of the same hours `(B, T, I)`.
            state: Belief before the first hour.
            noise: Standard normal `(B, T, Z)`, or zeros.

        Returns:
            State and posterior belief after each hour, batch first.
        """
        return self._run(inputs, embedding.transpose(0, 1), noise, state, self.posterior_net)

    def imagine(self, inputs: Tensor, state: State, noise: Tensor) -> Trajectory:
        """Roll the prior forward without observations; arguments and result as in `observe`."""
        return self._run(inputs, None, noise, state, self.prior_net)

    def rollout(self, state: State, actions: Tensor, noise: Tensor) -> Trajectory:
        """Imagine under the given actions `(B, T, I)`: `imagine` in the argument order of the reference."""
        return self.imagine(actions, state, noise)

    def _run(
        self, inputs: Tensor, embedding: Tensor | None, noise: Tensor, state: State, head: nn.Sequential
    ) -> Trajectory:
        """Recur, time first."""
        cell, first, last = self.recurrent, _linear(head[0]), _linear(head[2])
        weights = RecurrentWeights(
            cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh,
            first.weight, first.bias, last.weight, last.bias,
        )  # fmt: skip
        path = self.run(
            inputs.transpose(0, 1),
            embedding,
            self.noise_scale * noise.transpose(0, 1),
            state.h,
            state.z,
            weights,
            self.latent,
            silu=self.silu,
        )
        return Trajectory(*(part.transpose(0, 1) for part in path))


def _linear(module: nn.Module) -> nn.Linear:
    """Narrow a member of `nn.Sequential` to the layer it is."""
    if not isinstance(module, nn.Linear):
        raise TypeError(f"expected a linear layer, got {type(module).__name__}")
    return module
