"""What validation says of the kept weights, by lead and in the signals' own units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.features import CitySeries, FeatureSpec
from urbanwm.model.config import TrainingConfig
from urbanwm.model.world_model import UrbanWorldModel
from urbanwm.training.sampling import split_origins
from urbanwm.training.validation import Forecasts, HeldOut, forecast_held_out

LEADS = {"h6": (0, 6), "h24": (6, 24), "h48": (24, 48)}
"""Lead buckets by name, as positions in the horizon: hours 1-6, 7-24 and 25-48."""

Float = NDArray[np.float64]


def validation_by_lead(
    model: UrbanWorldModel, series: Mapping[str, CitySeries], spec: FeatureSpec, recipe: TrainingConfig
) -> dict[str, float]:
    """Return `val/<signal>/mae_h6`, `…_h24` and `…_h48`: absolute error of the median, mean over cities.

    In µg/m³, MWh and 1, on the held-out blocks of the training rows that the weights were chosen by; a signal
    or bucket without a value is left out.

    Args:
        model: The kept weights.
        series: The training rows per city.
        spec: How they are scaled.
        recipe: Says which blocks are held out.
    """
    errors: dict[str, list[float]] = {}
    for name, city in series.items():
        held_out = HeldOut.cut({name: city}, {name: split_origins(city, recipe)}, recipe)
        if len(held_out) == 0:
            continue
        for key, error in _errors(forecast_held_out(model, held_out), name, spec).items():
            errors.setdefault(key, []).append(error)
    return {key: float(np.mean(values)) for key, values in errors.items()}


def _errors(forecasts: Forecasts, city: str, spec: FeatureSpec) -> dict[str, float]:
    """Return one city's errors by metric name."""
    point = QUANTILE_LEVELS.index(0.5) if forecasts.quantiles.shape[-1] > 1 else 0
    median: NDArray[Any] = spec.denormalise(city, forecasts.quantiles[..., point], forecasts.usual)
    observed: NDArray[Any] = spec.denormalise(city, forecasts.observed, forecasts.usual)
    error = np.where(forecasts.mask > 0, np.abs(median - observed), np.nan)
    found = {}
    for index, signal in enumerate(TARGETS):
        for bucket, (first, last) in LEADS.items():
            part: Float = error[:, first:last, index]
            if np.isfinite(part).any():
                found[f"val/{signal}/mae_{bucket}"] = float(np.nanmean(part))
    return found
