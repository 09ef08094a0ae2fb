"""How large the direct forecast's errors were lately: bands are wider in a restless month than in a calm one.

Calibration makes bands right on average over the record; a season unlike it makes them too narrow or too
wide. What the city did in the last weeks, hours that no weight was fitted on, says how far (in the manner of
adaptive conformal inference, Gibbs and Candès 2021, NeurIPS 34, from the size of the errors in place of the
share of misses: it says more per hour).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.features.calendar import HOURS_PER_DAY
from urbanwm.features.direct import SMALLEST_ERROR, DirectColumns
from urbanwm.features.newcomer import WARM_UP_HOURS
from urbanwm.features.series import HOUR, CitySeries

DAYS: Final = 28
"""Days back that are looked at."""
FADES_DAYS: Final = 10.0
"""Days over which an error fades from memory."""
PRIOR_DAYS: Final = {"pm25": 16.0, "energy_mwh": 5.0, "traffic_index": 5.0}
"""Days that weigh as much as the belief that the width is right. PM2.5 comes in episodes: the errors of the
last one say less of the next."""
FACTOR_MIN, FACTOR_MAX = 0.7, 2.0

Float = NDArray[np.float64]


def recent_factor(series: CitySeries, origins: NDArray[np.int64], trained_until: datetime) -> Float:
    """Return by what the width of each target's bands is to be multiplied, `(B, 3)`.

    The direct forecasts from the same hour of the last days are compared with what came true before the
    origin: exp of the mean logarithm of error over usual error, younger days first, drawn to 1.

    Args:
        series: The city, with the weeks before the origins.
        origins: `(B,)` grid positions.
        trained_until: Last hour that the direct forecast was fitted on; only later ones count.
    """
    leads, back = series.spec.horizon_hours, HOURS_PER_DAY * np.arange(1, DAYS + 1)
    first = int((pd.Timestamp(trained_until) - series.index[0]) // HOUR) + 1
    start = origins[:, None] - back
    usable = (start >= WARM_UP_HOURS) & (start + leads > first) & (start + leads <= len(series))
    if series.spec.direct is None or not usable.any():
        return np.ones((len(origins), len(series.spec.targets)))
    distinct, which = np.unique(start[usable], return_inverse=True)
    size = _log_size(series, distinct)
    hours = distinct[:, None] + np.arange(leads)
    size[hours < first] = np.nan
    by_day = np.full((*start.shape, leads, size.shape[-1]), np.nan)
    by_day[usable] = size[which]
    by_day[start[..., None] + np.arange(leads) >= origins[:, None, None]] = np.nan
    prior = np.array([PRIOR_DAYS[name] for name in series.spec.targets])
    return _factor(by_day, prior)


def _log_size(series: CitySeries, origins: NDArray[np.int64]) -> Float:
    """Return the logarithm of error over usual error `(n, L, 3)`, NaN = missing."""
    windows = series.windows(origins, 0, series.spec.horizon_hours)
    forecast, log_usual = np.moveaxis(windows.skip[..., DirectColumns(series.spec).answer], -1, 0)
    size = np.log(np.abs(windows.target - forecast) + SMALLEST_ERROR) - log_usual
    return np.where(windows.target_mask > 0, size, np.nan).astype(np.float64)


def _factor(by_day: Float, prior_days: Float) -> Float:
    """Return factors `(B, 3)` of `(B, DAYS, L, 3)` and `(3,)`."""
    seen = np.isfinite(by_day)
    count = seen.sum(axis=2)
    mean = np.where(seen, by_day, 0.0).sum(axis=2) / np.maximum(count, 1)
    weight = np.exp(-np.arange(1, DAYS + 1) / FADES_DAYS)[:, None] * (count > 0)
    logarithm = (weight * mean).sum(axis=1) / (weight.sum(axis=1) + prior_days)
    return np.clip(np.exp(logarithm), FACTOR_MIN, FACTOR_MAX)
