"""Open-loop validation: filter, imagine, compare; what a model is selected and calibrated by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from urbanwm.calibration import fit_calibration
from urbanwm.contracts.signals import TARGETS
from urbanwm.features import CitySeries, Windows
from urbanwm.features.calendar import thinning_step
from urbanwm.model.config import TrainingConfig
from urbanwm.model.losses import quantile_loss
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training.sampling import Origins, Split, cut_windows
from urbanwm.training.team import SOLO, Team

WINDOWS_PER_PASS = 64
MAXIMUM_WINDOWS = 40_000
"""Held-out windows of all cities together, all of some hundred cities'; of more they are thinned."""
SCORED_WINDOWS = 2_500
"""Those that are scored during training, again and again: all of some thirty cities'."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the departure from the direct forecast that validation chooses from."""
TOLERANCE = 0.01
MINIMUM_SPREAD = 1e-6


@dataclass(frozen=True)
class HeldOut:
    """Held-out windows: the same origins at every validation.

    They are cut when they are forecast: kept, a hundred cities' would fill 1.5 GB.

    Attributes:
        series: By city.
        origins: Of each city's windows.
        recipe: How long the windows are.
    """

    series: Mapping[str, CitySeries]
    origins: Mapping[str, Origins]
    recipe: TrainingConfig

    @classmethod
    def cut(
        cls,
        series: Mapping[str, CitySeries],
        splits: Mapping[str, Split],
        recipe: TrainingConfig,
        most: int = MAXIMUM_WINDOWS,
    ) -> HeldOut:
        """Take every validation window, or every n-th of more than `most`."""
        step = thinning_step(sum(len(splits[name].validation) for name in series), most)
        return cls(series, {name: splits[name].validation[::step] for name in series}, recipe)

    @property
    def passes(self) -> Iterator[Windows]:
        """Cut one pass of bounded size after the other, city by city; of one size each, to be shared."""
        for name, origins in self.origins.items():
            for part in np.array_split(origins, -(-len(origins) // WINDOWS_PER_PASS) or 1):
                if len(part):
                    yield cut_windows([(self.series[name], part)], self.recipe)

    @property
    def rows(self) -> dict[str, slice]:
        """Return where each city's windows are in what is forecast of them."""
        ends = np.cumsum([0, *(len(origins) for origins in self.origins.values())]).tolist()
        return {name: slice(*ends[place : place + 2]) for place, name in enumerate(self.origins)}

    def __len__(self) -> int:
        """Return the number of windows."""
        return sum(len(origins) for origins in self.origins.values())


@dataclass(frozen=True)
class Forecasts:
    """Open-loop forecasts of held-out windows.

    Attributes:
        quantiles: `(N, H, 3, Q)`.
        start: What an untrained model forecasts `(N, H, 3, Q)`; the same as `quantiles` for the reference.
        observed: `(N, H, 3)`.
        mask: `(N, H, 3)`, 1.0 where observed.
        usual: `(N, H)` what a traffic level is divided by to give an index.
    """

    quantiles: NDArray[np.float32]
    start: NDArray[np.float32]
    observed: NDArray[np.float32]
    mask: NDArray[np.float32]
    usual: NDArray[np.float32]

    @property
    def median(self) -> NDArray[np.float32]:
        """Return the medians `(N, H, 3)`; of a point forecast the points."""
        return self.quantiles[..., self.quantiles.shape[-1] // 2]

    def of_rows(self, rows: slice) -> Forecasts:
        """Return the forecasts of some windows."""
        return Forecasts(*(getattr(self, field.name)[rows] for field in fields(self)))

    def keeping(self, shares: Sequence[float]) -> Forecasts:
        """Return the forecasts with only a share of each target's departure from the start."""
        kept = np.array(shares, dtype=np.float32)[:, None]
        return replace(self, quantiles=self.start + kept * (self.quantiles - self.start))


def forecast_held_out(model: UrbanWorldModel, held_out: HeldOut, team: Team = SOLO) -> Forecasts:
    """Forecast every held-out window, of which there is at least one; the team computes."""
    device = next(model.parameters()).device
    truths: list[tuple[NDArray[np.float32], ...]] = []

    def batches() -> Iterator[Batch]:
        for windows in held_out.passes:
            ahead = slice(windows.context_hours, None)
            truths.append((windows.target[:, ahead], windows.target_mask[:, ahead], windows.usual[:, ahead]))
            yield Batch.of(windows, device)

    found = team.outlooks(model, batches(), held_out.recipe)
    made = [(quantiles.numpy(), start.numpy()) for quantiles, start in found]
    parts = [forecast + truth for forecast, truth in zip(made, truths, strict=True)]
    return Forecasts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def best_shares(forecasts: Forecasts) -> list[float]:
    """Return, per target, how much of the network's departure from its start held-out hours support.

    The smallest share whose CRPS is within `TOLERANCE` of the best one's: held-out hours lie between training
    hours, so what barely helps there is more likely to be learned by heart than to hold in the future.
    """
    by_share = {share: scores(forecasts.keeping([share] * len(TARGETS))) for share in SHARES}
    shares = [1.0] * len(TARGETS)
    for index, name in enumerate(TARGETS):
        errors = {share: found.get(f"val_crps_{name}", 0.0) for share, found in by_share.items()}
        enough = (1.0 + TOLERANCE) * min(errors.values())
        shares[index] = min(share for share, error in errors.items() if error <= enough)
    return shares


def scores(forecasts: Forecasts) -> dict[str, float]:
    """Return `val_score` (to minimise), and CRPS and absolute error per signal in the model's units.

    The score is the mean over signals of CRPS over the standard deviation of the held-out values, so that no
    signal owns it, whatever its unit. A signal without held-out values does not count.
    """
    quantiles = torch.from_numpy(forecasts.quantiles)
    observed = torch.from_numpy(forecasts.observed)
    crps = quantile_loss(quantiles, observed).numpy()
    error = np.abs(forecasts.median - forecasts.observed)
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


def calibrate(forecasts: Forecasts) -> dict[str, Any]:
    """Fit the calibration of the kept weights on the held-out windows; empty for a point forecast."""
    if forecasts.quantiles.shape[-1] == 1:
        return {}
    return fit_calibration(forecasts.quantiles, np.where(forecasts.mask > 0, forecasts.observed, np.nan))
