"""The encoder: one observation to one embedding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

DROPOUT_LEVELS = 2**16
"""Dropout probabilities are rounded to 1/65,536: four draws per 64 random bits."""
SEED_LIMIT = 2**62


class FastDropout(nn.Dropout):
    """Dropout whose mask costs a tenth of torch's on a CPU, where drawing it took a sixth of a training step.

    The random bits come from NumPy's SFC64 generator, seeded from torch's: torch's random state alone decides
    the mask, as with `nn.Dropout`. Elsewhere than on a CPU it is `nn.Dropout`.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name torch gave it
        """Drop elements in training; return the input otherwise."""
        if not self.training or self.p == 0.0:
            return input
        if input.device.type != "cpu":
            return super().forward(input)
        return input * self.keep(input)

    def keep(self, like: Tensor) -> Tensor:
        """Draw the factors of every element: 0, or 1 / (share kept), so that the mean stays."""
        seed = int(torch.randint(SEED_LIMIT, ()))
        words = np.random.SFC64(seed).random_raw(-(-like.numel() // 4))
        levels = torch.from_numpy(words.view(np.int16)[: like.numel()]).view(like.shape)
        dropped = round(self.p * DROPOUT_LEVELS)
        factors = torch.ge(levels, dropped - DROPOUT_LEVELS // 2, out=torch.empty_like(like))
        return factors.mul_(DROPOUT_LEVELS / (DROPOUT_LEVELS - dropped))


def hidden_layer(width_in: int, width: int, activation: type[nn.Module], dropout: float) -> list[nn.Module]:
    """Return one hidden layer of encoder and predictor: Linear, LayerNorm, activation, dropout."""
    return [nn.Linear(width_in, width), nn.LayerNorm(width), activation(), FastDropout(dropout)]


class Encoder(nn.Module):
    """Observation `(..., input_dim)` to embedding `(..., latent_dim)`.

    Two hidden layers of Linear + LayerNorm + activation + dropout, then a linear map (DESIGN §4: 12 → 256 →
    256 → 128). It has no memory, so it runs over all hours of a window at once.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        latent_dim: int,
        *,
        activation: type[nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        """Make the layers; widths are numbers of features."""
        super().__init__()
        self.net = nn.Sequential(
            *hidden_layer(input_dim, hidden_dim, activation, dropout),
            *hidden_layer(hidden_dim, hidden_dim, activation, dropout),
            nn.Linear(hidden_dim, latent_dim),
        )

    def forward(self, observation: Tensor) -> Tensor:
        """Encode every row; of `(B, T, F)` time comes first in memory, as the recurrence reads it."""
        if observation.ndim < 3:
            embedding: Tensor = self.net(observation)
            return embedding
        return self.net(observation.transpose(0, 1).contiguous()).transpose(0, 1)
