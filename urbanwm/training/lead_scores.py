"""What validation says of the kept weights, by lead and in the signals' own units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbanwm.contracts.signals import TARGETS
from urbanwm.features import FeatureSpec
from urbanwm.training.validation import Forecasts

LEADS = {"h6": (0, 6), "h24": (6, 24), "h48": (24, 48)}
"""Lead buckets by name, as positions in the horizon: hours 1-6, 7-24 and 25-48."""

Float = NDArray[np.float64]


def errors_by_lead(forecasts: Forecasts, rows: Mapping[str, slice], spec: FeatureSpec) -> dict[str, float]:
    """Return `val/<signal>/mae_h6`, `…_h24` and `…_h48`: absolute error of the median, mean over cities.

    In µg/m³, MWh and 1, on the held-out blocks of the training rows that the weights were chosen by; a signal
    or bucket without a value is left out.

    Args:
        forecasts: By the kept weights.
        rows: Which of them are each city's.
        spec: How they are scaled.
    """
    errors: dict[str, list[float]] = {}
    for name, own in rows.items():
        for key, error in _errors(forecasts.of_rows(own), name, spec).items():
            errors.setdefault(key, []).append(error)
    return {key: float(np.mean(values)) for key, values in errors.items()}


def _errors(forecasts: Forecasts, city: str, spec: FeatureSpec) -> dict[str, float]:
    """Return one city's errors by metric name."""
    median: NDArray[Any] = spec.denormalise(city, forecasts.median, forecasts.usual)
    observed: NDArray[Any] = spec.denormalise(city, forecasts.observed, forecasts.usual)
    error = np.where(forecasts.mask > 0, np.abs(median - observed), np.nan)
    found = {}
    for index, signal in enumerate(TARGETS):
        for bucket, (first, last) in LEADS.items():
            part: Float = error[:, first:last, index]
            if np.isfinite(part).any():
                found[f"val/{signal}/mae_{bucket}"] = float(np.nanmean(part))
    return found
