"""A city that the direct forecast was not fitted on: how its own last weeks correct the forecast."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from urbanwm.features.calendar import HOURS_PER_DAY, thinning_step
from urbanwm.features.direct import DirectColumns, DirectForecast
from urbanwm.features.series import CitySeries, build_series

if TYPE_CHECKING:
    import pandas as pd

    from urbanwm.features.spec import FeatureSpec

LAST_LEVEL: Final = "level_1h"
WARM_UP_HOURS: Final = 7 * HOURS_PER_DAY
"""The first week of a record has no history to forecast from."""
LEAST_HOURS: Final = 7 * HOURS_PER_DAY
"""Hours after it below which the weights for a city never seen stay as they are."""
MOST_WINDOWS: Final = 1_000
PENALTY, PENALTY_POWER = 0.003, 1.5
"""Of a share, per row, times a power of the lead in hours: later levels depend less on the last one."""
BLOCKS: Final = 4
"""Parts of the record that are left out in turn to see how large the errors are."""
FADES_HOURS: Final = 96.0
"""Lead over which the size of own errors gives way to that of other cities'."""
LOG_OF_NORMAL: Final = -0.635
"""Mean of log |error| of normal errors, in standard deviations: -(γ + log 2) / 2."""
LEADS_ALIKE: Final = 2.0
"""How far a lead's errors are smoothed over its neighbours', h."""
SMALLEST_ERROR: Final = 1e-3

Double = NDArray[np.float64]


def with_newcomer(spec: FeatureSpec, city: str, frame: pd.DataFrame) -> FeatureSpec:
    """Return the spec with a row of the direct forecast for a city that it was not fitted on.

    The weights for a city never seen hold what other cities have in common; how long a level lasts is the
    newcomer's own. So per target and lead one share is fitted: how far the forecast moves to the last hour's
    level. The size of the errors is its own too, from left-out parts of the record; at later leads, of which
    some weeks say less, it leans on other cities, unless no city that was trained on has the target.

    Args:
        spec: As `FeatureSpec.with_city` returned it.
        city: The newcomer.
        frame: What is known of it, index UTC; with less than two weeks the spec is returned as it is.
    """
    direct, leads = spec.direct, spec.horizon_hours
    hours = int((frame.index[-1] - frame.index[0]) / timedelta(hours=1)) + 1 - WARM_UP_HOURS
    if direct is None or hours < LEAST_HOURS:
        return spec
    series = build_series(frame, city, spec, end=frame.index[-1] + timedelta(hours=1 + leads))
    origins = np.arange(WARM_UP_HOURS, WARM_UP_HOURS + hours, thinning_step(hours, MOST_WINDOWS))
    return replace(spec, direct=_with_row(direct, series, city, origins))


def _with_row(
    direct: DirectForecast, series: CitySeries, city: str, origins: NDArray[np.int64]
) -> DirectForecast:
    """Return the direct forecast with a row for the city, fitted on windows from these origins."""
    spec, leads = series.spec, series.spec.horizon_hours
    columns, windows = DirectColumns(spec), series.windows(origins, 0, leads)
    inputs, new = columns.inputs(windows), _untrained(spec, direct)
    forecast, log_usual = direct.predict(inputs, np.zeros(len(origins), np.int64))
    last_level = columns.predictions.index(spec.skip_names.index(LAST_LEVEL))
    fades = np.exp(-np.arange(leads) / FADES_HOURS)
    weights, log_error = [], direct.log_error[:1].copy()
    for target in range(len(spec.targets)):
        seen = windows.target_mask[..., target] > 0
        error = np.where(seen, windows.target[..., target] - forecast[..., target], np.nan)
        share, left_out = _shares(
            inputs.regressors[target][..., last_level] - forecast[..., target], error.astype(np.float64)
        )
        own = direct.weights[target][:1] * (1.0 - share)[:, None]
        own[..., last_level] += share
        weights.append(own.astype(np.float32))
        size = np.log(np.abs(left_out) + SMALLEST_ERROR) - log_usual[..., target].astype(np.float64)
        larger = _mean_by_lead(size)
        # A head that nothing was learned for speaks in standard deviations.
        log_error[0, target] += larger - LOG_OF_NORMAL if new[target] else fades * larger
    return replace(
        direct,
        names=(*direct.names, city),
        weights=tuple(np.concatenate(pair) for pair in zip(direct.weights, weights, strict=True)),
        variance=tuple(np.concatenate([part, part[:1]]) for part in direct.variance),
        log_error=np.concatenate([direct.log_error, log_error]),
    )


def _untrained(spec: FeatureSpec, direct: DirectForecast) -> list[bool]:
    """Tell of each target whether no city that was trained on has it."""
    trained = [spec.scaler(name) for name in direct.names if name in spec.scalers]
    return [all(name in scaler.borrowed for scaler in trained) for name in spec.targets]


def _shares(away: NDArray[np.float32], error: Double) -> tuple[Double, Double]:
    """Return shares `(L,)`, and errors `(n, L)` of each block of windows by shares fitted without it.

    Args:
        away: `(n, L)` last level minus forecast.
        error: `(n, L)` target minus forecast, NaN = missing.
    """
    seen = np.isfinite(error)
    product, square = (np.where(seen, away * other, 0.0) for other in (error, away))
    block = np.arange(len(error)) * BLOCKS // len(error)
    penalty = PENALTY * np.arange(1, error.shape[1] + 1) ** PENALTY_POWER

    def share(rows: NDArray[np.bool_]) -> Double:
        count = np.maximum(seen[rows].sum(axis=0), 1)
        fitted: Double = product[rows].sum(axis=0) / (square[rows].sum(axis=0) + penalty * count)
        return fitted

    left_out = error - away * np.stack([share(block != number) for number in range(BLOCKS)])[block]
    return share(np.ones(len(error), dtype=bool)), left_out


def _mean_by_lead(values: Double) -> Double:
    """Return the means `(L,)` of `(n, L)`, NaN = missing, smoothed; 0 where nothing is known."""
    from scipy.ndimage import gaussian_filter1d  # 16 MiB that a service without newcomers does not need

    seen = np.isfinite(values)
    total, count = (
        gaussian_filter1d(part.sum(axis=0).astype(np.float64), LEADS_ALIKE)
        for part in (np.where(seen, values, 0.0), seen)
    )
    return np.where(count > 0, total / np.where(count > 0, count, 1.0), 0.0)
