"""The seasonal path: what the calendar and the last similar days alone say, linear and readable."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from urbanwm.model.config import ModelDims


class SeasonalPath(nn.Module):
    """A linear forecast of the targets from their seasonal features and from special days.

    `path = Σ_j w_j · skip_j + Σ_s Σ_k v_sk · special_s · clock_k`, per target: a mixture of last week,
    similar-day means and the last hours, plus a profile over the local hour (`clock` = 1 and its harmonics)
    on each kind of special
    day. An index relative to the hour of the week needs the latter: a holiday on a Thursday is compared with
    Thursdays.
    """

    skip_weights: Tensor
    special_weights: Tensor

    def __init__(self, dims: ModelDims) -> None:
        """Start as the mean of the seasonal levels."""
        super().__init__()
        self.special, self.clock = list(dims.special), list(dims.clock)
        mean_of_levels = (torch.arange(dims.skip) < dims.skip_levels) / dims.skip_levels
        self.skip_weights = nn.Parameter(mean_of_levels.repeat(dims.targets, 1))
        profiles = len(self.special) * (1 + len(self.clock))
        self.special_weights = nn.Parameter(torch.zeros(dims.targets, profiles))

    def profiles(self, known: Tensor) -> Tensor:
        """Return special day × clock `(..., S·(1 + harmonics))` from the known-ahead inputs `(..., K)`."""
        harmonics = known[..., self.clock]
        clock = torch.cat([torch.ones_like(harmonics[..., :1]), harmonics], dim=-1)
        return (known[..., self.special].unsqueeze(-1) * clock.unsqueeze(-2)).flatten(-2)

    def forward(self, skip: Tensor, known: Tensor) -> Tensor:
        """Return the path `(..., 3)` from skip features `(..., 3, J)` and known-ahead inputs `(..., K)`."""
        path = (skip * self.skip_weights).sum(dim=-1)
        return path + self.profiles(known) @ self.special_weights.t()
