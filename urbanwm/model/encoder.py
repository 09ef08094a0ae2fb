"""The encoder: one observation to one embedding."""

from __future__ import annotations

from torch import Tensor, nn

from urbanwm.model.dropout import FastDropout
from urbanwm.model.perceptron import Perceptron


def hours_first(values: Tensor) -> Tensor:
    """Swap batch and time of `(B, T, ...)`, back too; leave single hours `(B, ...)` as they are.

    Within the model time comes first in memory, as the recurrence reads and writes it.
    """
    return values.transpose(0, 1) if values.ndim > 2 else values


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
        self.net: nn.Sequential = Perceptron(
            *hidden_layer(input_dim, hidden_dim, activation, dropout),
            *hidden_layer(hidden_dim, hidden_dim, activation, dropout),
            nn.Linear(hidden_dim, latent_dim),
        )

    def forward(self, observation: Tensor) -> Tensor:
        """Encode every row."""
        embedding: Tensor = self.net(hours_first(observation))
        return hours_first(embedding)
