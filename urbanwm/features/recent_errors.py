"""How large the direct forecast's errors were lately: bands are wider in a restless month than in a calm one.

Calibration makes bands right on average over the record; a season unlike it makes them too narrow or too
wide. What the city did in the last weeks, hours that no weight was fitted on, says how far (in the manner of
adaptive conformal inference, Gibbs and Candès 2021, NeurIPS 34, from the size of the errors in place of the
share of misses: it says more per hour).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.clock import require_utc
from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import BadInput, BundleInvalid
from urbanwm.features.calendar import HOURS_PER_DAY
from urbanwm.features.direct import DirectColumns
from urbanwm.features.newcomer import WARM_UP_HOURS
from urbanwm.features.series import HOUR, CitySeries

DAYS: Final = 28
"""Days back that are looked at."""
FADES_DAYS: Final = 15.0
"""Days over which an error fades from memory."""
PRIOR_DAYS: Final = 8.0
"""Days that weigh as much as the belief that the width is right."""
SIZE_MAX: Final = 12.0
"""Of an error over its usual size: one glitch of a sensor is no restless month."""
FACTOR_MIN, FACTOR_MAX = 0.7, 2.0

Float = NDArray[np.float64]


class UsualErrors(NamedTuple):
    """What a training leaves of a city for later errors to be compared with."""

    trained_until: datetime
    """Last hour that the direct forecast was fitted on."""
    mean_size: Float
    """`(3,)` mean of left-out error over usual error, NaN = the city lacks the target."""

    @classmethod
    def measured(cls, trained_until: datetime, relative: Float) -> UsualErrors:
        """Measure them on left-out errors over their usual size, `(3, n)`, NaN = missing.

        The usual size is a geometric mean, so that their mean is at least 1, but for errors near nothing.
        """
        return cls(trained_until, np.maximum(_mean(_bounded(relative), axis=1), 1.0))

    def document(self) -> dict[str, Any]:
        """Return them as JSON."""
        sizes = zip(TARGETS, self.mean_size.tolist(), strict=True)
        return {
            "trained_until": self.trained_until.isoformat(),
            "mean_size": {name: round(size, 6) for name, size in sizes if np.isfinite(size)},
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> UsualErrors:
        """Read them from JSON.

        Raises:
            BundleInvalid: It lacks a part, or the time is none or has no time zone, or a size is no size.
        """
        try:
            until = require_utc(datetime.fromisoformat(document["trained_until"]), "trained_until")
            sizes = np.array([float(document["mean_size"].get(name, np.nan)) for name in TARGETS])
        except (KeyError, AttributeError, TypeError, ValueError, BadInput) as error:
            raise BundleInvalid(
                "the bundle does not say how large its errors are",
                field="usual_errors",
                value=document,
                allowed="trained_until, ISO 8601 with a time zone; mean_size, numbers by target",
            ) from error
        if (sizes <= 0.0).any():
            raise BundleInvalid("errors have a size", field="mean_size", value=document, allowed="above 0")
        return cls(until, sizes)


def recent_factor(series: CitySeries, origins: NDArray[np.int64], usual: UsualErrors) -> Float:
    """Return by what the width of each target's bands is to be multiplied, `(B, 3)`.

    The direct forecasts from the same hour of the last days are compared with what came true before the
    origin: the mean of error over usual error, younger days first, over what it was in training, drawn to 1.

    Args:
        series: The city, with the weeks before the origins.
        origins: `(B,)` grid positions.
        usual: What training found; only hours after it count.
    """
    leads, back = series.spec.horizon_hours, HOURS_PER_DAY * np.arange(1, DAYS + 1)
    first = int((pd.Timestamp(usual.trained_until) - series.index[0]) // HOUR) + 1
    start = origins[:, None] - back
    usable = (start >= WARM_UP_HOURS) & (start + leads > first) & (start + leads <= len(series))
    if series.spec.direct is None or not usable.any():
        return np.ones((len(origins), len(series.spec.targets)))
    distinct, which = np.unique(start[usable], return_inverse=True)
    size = _size(series, distinct)
    hours = distinct[:, None] + np.arange(leads)
    size[hours < first] = np.nan
    by_day = np.full((*start.shape, leads, size.shape[-1]), np.nan)
    by_day[usable] = size[which]
    by_day[start[..., None] + np.arange(leads) >= origins[:, None, None]] = np.nan
    return _factor(by_day / usual.mean_size)


def _size(series: CitySeries, origins: NDArray[np.int64]) -> Float:
    """Return error over usual error `(n, L, 3)`, NaN = missing."""
    windows = series.windows(origins, 0, series.spec.horizon_hours)
    forecast, log_usual = np.moveaxis(windows.skip[..., DirectColumns(series.spec).answer], -1, 0)
    relative = (windows.target - forecast) / np.exp(log_usual)
    return _bounded(np.where(windows.target_mask > 0, relative, np.nan).astype(np.float64))


def _factor(by_day: Float) -> Float:
    """Return factors `(B, 3)` of sizes over mean size, `(B, DAYS, L, 3)`."""
    daily = _mean(by_day, axis=2)
    weight = np.exp(-np.arange(1, DAYS + 1) / FADES_DAYS)[:, None] * np.isfinite(daily)
    total = (weight * np.nan_to_num(daily)).sum(axis=1) + PRIOR_DAYS
    return np.clip(total / (weight.sum(axis=1) + PRIOR_DAYS), FACTOR_MIN, FACTOR_MAX)


def _bounded(relative: Float) -> Float:
    return np.minimum(np.abs(relative), SIZE_MAX)


def _mean(values: Float, axis: int) -> Float:
    """Return the mean of what is not NaN along an axis; NaN of nothing."""
    seen = np.isfinite(values)
    count = seen.sum(axis=axis)
    total = np.where(seen, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
