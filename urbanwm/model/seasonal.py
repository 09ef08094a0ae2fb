"""The seasonal path: what the calendar and the last similar days alone say, linear and readable."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from urbanwm.model.config import ModelDims

LOG_SCALE_MAX = 2.0
"""Bound of the logarithm of the scale: an extrapolated calendar must not blow an interval up or close it."""


class SeasonalPath(nn.Module):
    """A linear forecast of the targets whose weights vary with the lead, the local hour and the kind of day.

    `Σ_m Σ_j w_mj · modulator_m · skip_j + Σ_p v_p · profile_p`, per target. The modulators (1, decays
    of the lead, the local hour, workday) let the last hours count for the next ones and last week for the
    day after; the profiles are the local hour on each kind of day. An index relative to the hour of the week
    needs the latter: a holiday on a Thursday is compared with Thursdays. The same inputs say how far
    forecasts usually miss: the scale of the quantiles is `exp(Σ u · (modulators, profiles))`.
    """

    skip_weights: Tensor
    profile_weights: Tensor
    scale_weights: Tensor

    def __init__(self, dims: ModelDims) -> None:
        """Start as the mean of the seasonal levels, whatever the hour."""
        super().__init__()
        self.modulators, self.days, self.clock = list(dims.modulators), list(dims.days), list(dims.clock)
        weights = torch.zeros(1 + len(self.modulators), dims.targets, dims.skip)
        weights[0, :, : dims.skip_levels] = 1.0 / dims.skip_levels
        self.skip_weights = nn.Parameter(weights)
        profiles = len(self.clock) + len(self.days) * (1 + len(self.clock))
        self.profile_weights = nn.Parameter(torch.zeros(dims.targets, profiles))
        self.scale_weights = nn.Parameter(torch.zeros(dims.targets, 1 + len(self.modulators) + profiles))

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

    def scale_features(self, known: Tensor) -> Tensor:
        """Return what the scale is read from, `(..., 1 + M + P)`."""
        return torch.cat([self.modulation(known), self.profiles(known)], dim=-1)

    def scale(self, known: Tensor) -> Tensor:
        """Return the usual size of the error `(..., 3)`, > 0, relative to the head's own steps."""
        logarithm = self.scale_features(known) @ self.scale_weights.t()
        return torch.exp(logarithm.clamp(-LOG_SCALE_MAX, LOG_SCALE_MAX))


def _with_one(values: Tensor) -> Tensor:
    """Put a constant 1 before the last axis' values."""
    return torch.cat([torch.ones_like(values[..., :1]), values], dim=-1)
