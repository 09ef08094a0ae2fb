"""The seasonal path: what the calendar and the last similar days alone say, linear and readable."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from urbanwm.model.config import ModelDims


class SeasonalPath(nn.Module):
    """A linear forecast of the targets whose weights vary with the lead, the local hour and the kind of day.

    `path = Σ_m Σ_j w_mj · modulator_m · skip_j + Σ_p v_p · profile_p`, per target. The modulators (1, decays
    of the lead, the local hour, workday) let the last hours count for the next ones and last week for the
    day after; the profiles are the local hour on each kind of day. An index relative to the hour of the week
    needs the latter: a holiday on a Thursday is compared with Thursdays.
    """

    skip_weights: Tensor
    profile_weights: Tensor

    def __init__(self, dims: ModelDims) -> None:
        """Start as the mean of the seasonal levels, whatever the hour."""
        super().__init__()
        self.modulators, self.days, self.clock = list(dims.modulators), list(dims.days), list(dims.clock)
        weights = torch.zeros(1 + len(self.modulators), dims.targets, dims.skip)
        weights[0, :, : dims.skip_levels] = 1.0 / dims.skip_levels
        self.skip_weights = nn.Parameter(weights)
        profiles = len(self.clock) + len(self.days) * (1 + len(self.clock))
        self.profile_weights = nn.Parameter(torch.zeros(dims.targets, profiles))

    def modulation(self, known: Tensor) -> Tensor:
        """Return 1 and the modulators, `(..., 1 + M)`, from the known-ahead inputs `(..., K)`."""
        return _with_one(known[..., self.modulators])

    def profiles(self, known: Tensor) -> Tensor:
        """Return clock and kind of day × (1, clock), `(..., P)`, from known-ahead inputs `(..., K)`."""
        clock = known[..., self.clock]
        by_day = known[..., self.days].unsqueeze(-1) * _with_one(clock).unsqueeze(-2)
        return torch.cat([clock, by_day.flatten(-2)], dim=-1)

    def forward(self, skip: Tensor, known: Tensor) -> Tensor:
        """Return the path `(..., 3)` from skip features `(..., 3, J)` and known-ahead inputs `(..., K)`."""
        weights = torch.tensordot(self.modulation(known), self.skip_weights, dims=1)
        path: Tensor = (skip * weights).sum(dim=-1) + self.profiles(known) @ self.profile_weights.t()
        return path


def _with_one(values: Tensor) -> Tensor:
    """Put a constant 1 before the last axis' values."""
    return torch.cat([torch.ones_like(values[..., :1]), values], dim=-1)
