"""The predictor: from the belief (h, z) to what the city shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional

from urbanwm.contracts.signals import MEDIAN, QUANTILE_LEVELS
from urbanwm.model.encoder import hidden_layer
from urbanwm.model.perceptron import Perceptron

PM25_SCALE_UGM3, PM25_FLOOR_UGM3 = 200.0, 5.0
ENERGY_SCALE_MWH, ENERGY_FLOOR_MWH = 2000.0, 100.0
TRAFFIC_MAX = 2.0
MINIMUM_STEP = 1e-3
"""Smallest step between two quantiles, in normalised units, that a head is started with."""


class Predictor(nn.Module):
    """The reference's point heads on `[h, z]` (DESIGN §4), in raw units: µg/m³, MWh, traffic index.

    Softplus leaves pm25 and energy unbounded above: a weakness that the reference keeps.
    """

    def __init__(self, state_dim: int, hidden_dim: int, targets: int, *, dropout: float) -> None:
        """Make the layers; `state_dim` is the width of `[h, z]`."""
        super().__init__()
        self.net: nn.Sequential = Perceptron(
            *hidden_layer(state_dim, hidden_dim, nn.ReLU, dropout),
            *hidden_layer(hidden_dim, hidden_dim, nn.ReLU, dropout),
            nn.Linear(hidden_dim, targets),
        )

    def forward(self, state: Tensor) -> Tensor:
        """Return the forecast `(..., 3, 1)` of every state `(..., D + Z)`."""
        pm25, energy, traffic = self.net(state).unbind(-1)
        heads = (
            functional.softplus(pm25) * PM25_SCALE_UGM3 + PM25_FLOOR_UGM3,
            functional.softplus(energy) * ENERGY_SCALE_MWH + ENERGY_FLOOR_MWH,
            torch.sigmoid(traffic) * TRAFFIC_MAX,
        )
        return torch.stack(heads, dim=-1).unsqueeze(-1)


class QuantilePredictor(nn.Module):
    """Seven quantiles per target in normalised units: the direct forecast's, moved by the network.

    The network speaks in units of the direct forecast's usual error: its median is `deviation`, and the other
    quantiles are reached from it by positive steps (cumulative softplus), so that they cannot cross. They
    begin as the quantiles of the direct forecast's own errors. Steps may grow, not shrink: narrower bands
    hold on hours between training hours, not in the season that follows. Of the departure from where they
    began a share per target is kept: as much as held-out hours support. The output layer's weights start at
    zero.
    """

    steps_to_quantiles: Tensor

    def __init__(self, state_dim: int, hidden_dim: int, targets: int, *, dropout: float) -> None:
        """Make the layers; `state_dim` is the width of `[h, z]`."""
        super().__init__()
        self.targets = targets
        self.net = Perceptron(
            *hidden_layer(state_dim, hidden_dim, nn.SiLU, dropout),
            *hidden_layer(hidden_dim, hidden_dim, nn.SiLU, dropout),
        )
        self.out = nn.Linear(hidden_dim, targets * len(QUANTILE_LEVELS))
        self.register_buffer("steps_to_quantiles", _steps_to_quantiles(), persistent=False)
        self.share = nn.Parameter(torch.ones(targets), requires_grad=False)
        self.start = nn.Parameter(torch.zeros(targets, len(QUANTILE_LEVELS)), requires_grad=False)
        with torch.no_grad():
            self.out.weight.zero_()
            self.out.bias.zero_()
        gaussian = NormalDist()
        for target in range(targets):
            self.start_at(target, [gaussian.inv_cdf(level) for level in QUANTILE_LEVELS])

    @torch.no_grad()
    def start_at(self, target: int, quantiles: Sequence[float]) -> None:
        """Make `quantiles` (ascending, in usual errors from the direct forecast) the answer to any state."""
        steps = [max(upper - lower, MINIMUM_STEP) for lower, upper in pairwise(quantiles)]
        raw = [quantiles[MEDIAN], *(math.log(math.expm1(step)) for step in steps)]
        bias = self.out.bias.view(self.targets, -1)[target]
        bias.copy_(torch.tensor(raw))
        self.start[target] = self._quantiles(bias[:1], functional.softplus(bias[1:]))

    @torch.no_grad()
    def keep(self, shares: Sequence[float]) -> None:
        """Keep this share (0 to 1) of each target's departure from the start."""
        self.share.copy_(torch.tensor(shares))

    def forward(self, state: Tensor, direct: Tensor, usual_error: Tensor) -> Tensor:
        """Return quantiles `(..., 3, 7)` from states `(..., D + Z)`, direct forecast and error `(..., 3)`."""
        raw = self.out(self.net(state)).unflatten(-1, (self.targets, len(QUANTILE_LEVELS)))
        steps = torch.maximum(functional.softplus(raw[..., 1:]), self.start.diff(dim=-1))
        departure = self._quantiles(raw[..., :1], steps) - self.start
        relative = self.start + self.share.unsqueeze(-1) * departure
        quantiles: Tensor = direct.unsqueeze(-1) + usual_error.unsqueeze(-1) * relative
        return quantiles

    def _quantiles(self, median: Tensor, steps: Tensor) -> Tensor:
        """Return ascending quantiles `(..., 7)` of the median `(..., 1)` and the steps `(..., 6)` between."""
        quantiles: Tensor = median + steps @ self.steps_to_quantiles
        return quantiles


def _steps_to_quantiles() -> Tensor:
    """Return the `(6, 7)` matrix that adds up the steps away from the median, downwards and upwards."""
    matrix = torch.zeros(len(QUANTILE_LEVELS) - 1, len(QUANTILE_LEVELS))
    for step in range(MEDIAN):  # step i leads from quantile i+1 down to quantile i
        matrix[step, : step + 1] = -1.0
    for step in range(MEDIAN, len(QUANTILE_LEVELS) - 1):  # step i leads from quantile i up to quantile i+1
        matrix[step, step + 1 :] = 1.0
    return matrix
