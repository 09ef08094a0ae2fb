"""Calibration: widen each quantile band, per signal and lead, until held-out hours say it is wide enough.

The model's quantiles keep their median; each central band is scaled around it. Fitted on held-out windows
only, carried in the bundle as JSON, applied wherever the bundle forecasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbanwm.contracts.signals import HORIZON_HOURS_MAX, MEDIAN, QUANTILE_LEVELS, TARGETS
from urbanwm.errors import BundleInvalid
from urbanwm.features.recent_errors import UsualErrors
from urbanwm.members import scaled_around_median
from urbanwm.past_errors import daily_correlation, whole_days

METHOD = "band_scale"
USUAL_ERRORS = "usual_errors"
"""Key under which a training notes, by city, what later errors are compared with."""
LEAD_BUCKETS: tuple[tuple[int, int], ...] = ((1, 6), (7, 24), (25, 48), (49, HORIZON_HOURS_MAX))
"""First and last lead hour of each bucket; a bucket without held-out hours takes the one before it."""
SCALE_MIN, SCALE_MAX = 1.04, 3.0
"""A band is always widened: held-out hours lie between training hours, the future does not."""
PRIOR_WINDOWS = 200.0
"""Held-out windows that weigh as much as the prior belief that the model's own width is right (scale 1): it
begins as that of left-out errors of the whole record, and the windows are a few weeks that overlap."""
MINIMUM_HOURS = 24
MINIMUM_DAYS = 24
AR1_MAX = 0.99
ERROR_CLIP = 5.0
"""Errors beyond this many half-widths count as this many in the correlation: one episode must not decide."""
BANDS: tuple[float, ...] = tuple(round(1.0 - 2.0 * level, 6) for level in QUANTILE_LEVELS[:MEDIAN])
"""Nominal coverage of the central bands, widest first: 0.9, 0.8, 0.5."""

Array = NDArray[np.floating[Any]]
Float = NDArray[np.float64]


def fit_calibration(quantiles: Array, observed: Array) -> dict[str, Any]:
    """Fit band widths on held-out forecasts: split conformal prediction per signal, lead bucket and band.

    The score of an hour is its distance from the median in units of the band's half-width on that side; the
    scale is the nominal quantile of the scores with the finite-sample correction (Romano, Patterson, Candès
    2019, NeurIPS 32), shrunk towards 1 because the hours of one window are far from independent.

    Args:
        quantiles: Uncorrected forecasts `(windows, H, 3, 7)`, lead 1 first, in one unit per signal.
        observed: `(windows, H, 3)` in the same units, NaN = missing.

    Returns:
        A JSON document for `apply_calibration`; `ar1` is the hour-to-hour correlation of the errors per
        signal.
    """
    hours = quantiles.shape[1]
    scale: dict[str, list[list[float]]] = {}
    for index, name in enumerate(TARGETS):
        rows: list[list[float]] = []
        for first, last in LEAD_BUCKETS:
            part = slice(first - 1, min(last, hours))
            enough = np.isfinite(observed[:, part, index]).sum() >= MINIMUM_HOURS
            if enough:
                rows.append(_band_scales(quantiles[:, part, index], observed[:, part, index]))
            else:
                rows.append(rows[-1] if rows else [1.0] * len(BANDS))
        scale[name] = rows
    return {
        "method": METHOD,
        "bands": list(BANDS),
        "lead_buckets": [list(bucket) for bucket in LEAD_BUCKETS],
        "scale": scale,
        "ar1": {name: _error_correlation(quantiles, observed, i) for i, name in enumerate(TARGETS)},
        "windows": int(quantiles.shape[0]),
    }


def apply_calibration(quantiles: Array, calibration: Mapping[str, Any], first_lead: int = 1) -> Float:
    """Return calibrated quantiles `(..., H, 3, 7)`: same median, same order; an empty one changes nothing.

    Args:
        quantiles: `(..., H, 3, 7)` in the units that the calibration was fitted in.
        calibration: As `fit_calibration` returned it.
        first_lead: Lead hour of the first row.

    Raises:
        BundleInvalid: The calibration is of another method, or fitted for other signals or bands.
    """
    values = np.asarray(quantiles, dtype=np.float64)
    if not calibration:
        return values
    known = calibration.get("scale", {})
    if calibration.get("method") != METHOD or not set(TARGETS) <= set(known):
        raise BundleInvalid("the calibration cannot be read", field="calibration", allowed=METHOD)
    scales = np.array([known[name] for name in TARGETS], dtype=np.float64)  # (3, buckets, bands)
    if values.shape[-1] != len(QUANTILE_LEVELS) or scales.shape[2] != len(BANDS):
        raise BundleInvalid("the calibration does not fit the model's quantiles", field="calibration")
    leads = first_lead + np.arange(values.shape[-3])
    bucket = np.searchsorted([last for _, last in calibration["lead_buckets"]], leads)
    band = np.moveaxis(scales[:, np.minimum(bucket, scales.shape[1] - 1)], 0, 1)  # (H, 3, bands)
    factors = np.concatenate([band, np.ones_like(band[..., :1]), band[..., ::-1]], axis=-1)
    widened = scaled_around_median(values, factors)
    # Bands are fitted one by one: where an inner one outgrows an outer one, the outer one follows.
    upper = np.maximum.accumulate(widened[..., MEDIAN:], axis=-1)
    lower = np.minimum.accumulate(widened[..., MEDIAN::-1], axis=-1)[..., ::-1]
    return np.concatenate([lower[..., :-1], upper], axis=-1)


def usual_errors(calibration: Mapping[str, Any], city: str) -> UsualErrors | None:
    """Return what a city's later errors are compared with; None where the training did not note it.

    Raises:
        BundleInvalid: What it noted cannot be read.
    """
    document = calibration.get(USUAL_ERRORS, {}).get(city)
    return None if document is None else UsualErrors.read(document)


def _band_scales(quantiles: Array, observed: Array) -> list[float]:
    """Return one factor per band from `(windows, hours, 7)` forecasts of one signal and lead bucket."""
    seen = np.isfinite(observed)
    error = np.where(seen, observed, 0.0) - quantiles[..., MEDIAN]
    windows = float(seen.any(axis=1).sum())
    belief = windows / (windows + PRIOR_WINDOWS)
    scales = []
    for lower, nominal in enumerate(BANDS):
        upper = len(QUANTILE_LEVELS) - 1 - lower
        above = quantiles[..., upper] - quantiles[..., MEDIAN]
        below = quantiles[..., MEDIAN] - quantiles[..., lower]
        half_width = np.where(error > 0, above, below)[seen]
        score = np.abs(error[seen]) / np.maximum(half_width, np.finfo(np.float32).tiny)
        level = min(1.0, nominal * (1.0 + 1.0 / score.size))
        fitted = float(np.clip(np.quantile(score, level), SCALE_MIN, SCALE_MAX))
        scales.append(round(fitted**belief, 6))
    return scales


def _error_correlation(quantiles: Array, observed: Array, index: int) -> float:
    """Return one signal's hour-to-hour correlation under which daily means of its errors vary as they did.

    Errors are taken in units of the half-width of the 50 % band; 0 where there are too few whole days.
    """
    half_width = 0.5 * (quantiles[..., index, MEDIAN + 1] - quantiles[..., index, MEDIAN - 1])
    error = (observed[..., index] - quantiles[..., index, MEDIAN]) / np.maximum(half_width, 1e-6)
    error = np.clip(error, -ERROR_CLIP, ERROR_CLIP)
    if whole_days(error) < MINIMUM_DAYS:
        return 0.0
    return round(min(daily_correlation(error), AR1_MAX), 6)
