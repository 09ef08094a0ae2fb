"""Open-loop validation: filter, imagine, compare; what a model is selected and calibrated by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from urbanwm.calibration import fit_calibration
from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.features import CitySeries, Windows
from urbanwm.model.config import TrainingConfig
from urbanwm.model.losses import quantile_loss
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training.sampling import Split, cut_windows

WINDOWS_PER_PASS = 64
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the deviation from the seasonal path that validation chooses from."""
MINIMUM_SPREAD = 1e-6


@dataclass(frozen=True)
class HeldOut:
    """Held-out windows, cut once: the same origins at every validation."""

    passes: list[Windows]

    @classmethod
    def cut(
        cls, series: Mapping[str, CitySeries], splits: Mapping[str, Split], recipe: TrainingConfig
    ) -> HeldOut:
        """Cut every validation window of every city, in passes of bounded size."""
        passes = []
        for name, city in series.items():
            origins = splits[name].validation
            passes += [
                cut_windows([(city, origins[first : first + WINDOWS_PER_PASS])], recipe)
                for first in range(0, len(origins), WINDOWS_PER_PASS)
            ]
        return cls(passes)

    def __len__(self) -> int:
        """Return the number of windows."""
        return sum(len(part) for part in self.passes)


@dataclass(frozen=True)
class Forecasts:
    """Open-loop forecasts of held-out windows.

    Attributes:
        quantiles: `(N, H, 3, Q)`.
        seasonal: The seasonal path in them `(N, H, 3)`; zeros for the reference, which has none.
        observed: `(N, H, 3)`.
        mask: `(N, H, 3)`, 1.0 where observed.
    """

    quantiles: NDArray[np.float32]
    seasonal: NDArray[np.float32]
    observed: NDArray[np.float32]
    mask: NDArray[np.float32]

    def shrunk(self, shares: Sequence[float]) -> Forecasts:
        """Return the forecasts with only a share of each target's deviation from the seasonal path."""
        if self.quantiles.shape[-1] == 1:
            return self
        deviation = self.quantiles[..., QUANTILE_LEVELS.index(0.5)] - self.seasonal
        removed = (1.0 - np.array(shares, dtype=np.float32)) * deviation
        return replace(self, quantiles=self.quantiles - removed[..., None])


def forecast_held_out(model: UrbanWorldModel, held_out: HeldOut) -> Forecasts:
    """Forecast every held-out window from the latent means, dropout off."""
    parts = list(_forecast(model, held_out))
    return Forecasts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _forecast(model: UrbanWorldModel, held_out: HeldOut) -> Iterator[tuple[NDArray[np.float32], ...]]:
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for windows in held_out.passes:
            noise = torch.zeros(
                len(windows), windows.observed.shape[1], model.config.latent_dim, device=device
            )
            batch, ahead = Batch.of(windows, device), slice(windows.context_hours, None)
            output = model.forecast(batch, noise).output.cpu().numpy()
            seasonal = np.zeros(output.shape[:3], dtype=np.float32)
            if model.seasonal is not None:
                seasonal = model.seasonal(batch.skip[:, ahead], batch.known[:, ahead]).cpu().numpy()
            yield output, seasonal, windows.target[:, ahead], windows.target_mask[:, ahead]
    model.train(was_training)


def best_shares(forecasts: Forecasts) -> list[float]:
    """Return, per target, how much of the network's deviation from the seasonal path held-out hours support.

    A year of data teaches a network more about some signals than about others; where it learned the
    training days by heart, the seasonal path alone forecasts better.
    """
    shares = [1.0] * len(TARGETS)
    if forecasts.quantiles.shape[-1] == 1:
        return shares
    by_share = {share: scores(forecasts.shrunk([share] * len(TARGETS))) for share in SHARES}
    for index, name in enumerate(TARGETS):
        key = f"val_crps_{name}"
        if key in by_share[1.0]:
            shares[index] = min(SHARES, key=lambda share: by_share[share][key])
    return shares


def scores(forecasts: Forecasts) -> dict[str, float]:
    """Return `val_score` (to minimise), and CRPS and absolute error per signal in the model's units.

    The score is the mean over signals of CRPS over the standard deviation of the held-out values, so that no
    signal owns it, whatever its unit. A signal without held-out values does not count.
    """
    quantiles = torch.from_numpy(forecasts.quantiles)
    observed = torch.from_numpy(forecasts.observed)
    crps = quantile_loss(quantiles, observed).numpy()
    error = np.abs(forecasts.quantiles[..., forecasts.quantiles.shape[-1] // 2] - forecasts.observed)
    result: dict[str, float] = {}
    relative = []
    for index, name in enumerate(TARGETS):
        seen = forecasts.mask[..., index] > 0
        if not seen.any():
            continue
        spread = max(float(forecasts.observed[..., index][seen].std()), MINIMUM_SPREAD)
        result[f"val_crps_{name}"] = float(crps[..., index][seen].mean())
        result[f"val_mae_{name}"] = float(error[..., index][seen].mean())
        relative.append(result[f"val_crps_{name}"] / spread)
    return {"val_score": float(np.mean(relative)), **result} if relative else result


def calibrate(model: UrbanWorldModel, held_out: HeldOut) -> dict[str, Any]:
    """Fit the calibration of the kept weights on the held-out windows; empty for a point forecast."""
    if model.config.kind == "reference" or len(held_out) == 0:
        return {}
    forecasts = forecast_held_out(model, held_out)
    return fit_calibration(forecasts.quantiles, np.where(forecasts.mask > 0, forecasts.observed, np.nan))
