"""What a forecaster's own past errors say of its next: their spread by lead and hour, and how they last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from urbanwm.contracts.signals import TARGETS
from urbanwm.features.calendar import HOURS_PER_DAY
from urbanwm.members import RANK_CORRELATION

Float = NDArray[np.float64]

ERROR_DAYS = 180
"""Past forecasts whose errors give the spread: one per day, at most this many."""
MINIMUM_ERRORS = 24
"""Errors below which a lead borrows the spread of its neighbours."""
ERROR_LEADS = (1, 3, 6, 12, 24, 48, 96, 168)
"""Leads (h) at which error quantiles are taken, over the leads since the one before; linear between."""
CORRELATIONS = np.arange(0.0, 0.996, 0.005)
"""Hour-to-hour correlations that are told apart."""
_LAGS = np.arange(1, HOURS_PER_DAY)
DAY_MEAN_VARIANCE = (
    1 + 2 * ((1 - _LAGS / HOURS_PER_DAY) * CORRELATIONS[:, None] ** _LAGS).sum(axis=1)
) / HOURS_PER_DAY
"""Variance of a 24 h mean of an AR(1) series of unit variance, for each of them."""


@dataclass(frozen=True)
class PastErrors:
    """Errors of past forecasts: `(O, L, 3)` from one origin per day, and the local hour of each target."""

    origins: NDArray[np.int64]
    values: Float
    hours: NDArray[np.int64]

    def quantiles(self, origin: int, leads: Float, target_hours: NDArray[np.int64], levels: Float) -> Float:
        """Return error quantiles `(S, H, 3)` for leads `(H, 3)`, from errors known before `origin`."""
        length = self.values.shape[1]
        known = (self.origins + length <= origin) & (
            self.origins > origin - ERROR_DAYS * HOURS_PER_DAY - length
        )
        errors, hours = self.values[known], self.hours[known]
        spread = np.zeros((len(levels), *leads.shape))
        for signal in range(len(TARGETS)):
            error = errors[..., signal]
            scale = _hourly_scale(error, hours)
            bands = _band_quantiles(error / scale[hours], levels)
            if bands is None:
                continue
            # Beyond the leads that were tried, error is taken as level: climatology has no lead.
            at = np.interp(leads[:, signal], ERROR_LEADS, np.arange(len(ERROR_LEADS)))
            below = np.minimum(at.astype(np.int64), len(ERROR_LEADS) - 2)
            part = at - below
            spread[..., signal] = bands[:, below] * (1 - part) + bands[:, below + 1] * part
            spread[..., signal] *= scale[target_hours]
        return spread

    def correlation(self, origin: int) -> list[float]:
        """Return per signal the hour-to-hour rank correlation that gives daily means their spread."""
        known = self.origins + self.values.shape[1] <= origin
        errors, hours = self.values[known], self.hours[known]
        found = []
        for signal in range(len(TARGETS)):
            error = errors[..., signal]
            found.append(daily_correlation(error / _hourly_scale(error, hours)[hours]))
        return found


def daily_correlation(errors: Float) -> float:
    """Return the AR(1) correlation under which a day's mean error varies as it did, `(origins, leads)` in.

    The correlation of neighbouring hours alone is too low: an error has a part that lasts for days, and an
    interval for a daily mean, or for the effect of a policy on it, would be too narrow.
    """
    days = _days(errors)
    if len(days) < MINIMUM_ERRORS or not (variance := days.var()):
        return RANK_CORRELATION
    share = float(days.mean(axis=1).var() / variance)
    return float(np.interp(share, DAY_MEAN_VARIANCE, CORRELATIONS))


def whole_days(errors: Float) -> int:
    """Return how many days without a gap `errors` `(origins, leads)` hold."""
    return len(_days(errors))


def _days(errors: Float) -> Float:
    """Cut `(origins, leads)` into days `(n, 24)`, those with a gap left out."""
    days = errors[:, : errors.shape[1] // HOURS_PER_DAY * HOURS_PER_DAY].reshape(-1, HOURS_PER_DAY)
    return np.asarray(days[np.isfinite(days).all(axis=1)])


def _hourly_scale(errors: Float, hours: NDArray[np.int64]) -> Float:
    """Return the mean absolute error per local hour, `(24,)`; 1 where it is not known or zero."""
    present = np.isfinite(errors)
    number = np.bincount(hours[present], minlength=HOURS_PER_DAY)
    total = np.bincount(hours[present], weights=np.abs(errors[present]), minlength=HOURS_PER_DAY)
    mean = np.divide(total, number, out=np.zeros(HOURS_PER_DAY), where=number > 0)
    overall = total.sum() / max(number.sum(), 1)
    return np.where((number >= MINIMUM_ERRORS) & (mean > 0), mean, overall if overall > 0 else 1.0)


def _band_quantiles(errors: Float, levels: Float) -> Float | None:
    """Return quantiles `(S, bands)` per lead band, None without any; thin bands borrow the one before."""
    bands: list[Float] = []
    previous = 0
    for lead in ERROR_LEADS:
        block = errors[:, previous:lead]
        block = block[np.isfinite(block)]
        previous = lead
        if block.size >= MINIMUM_ERRORS:
            bands.append(np.quantile(block, levels))
        elif bands:
            bands.append(bands[-1])
    if not bands:
        return None
    bands = [bands[0]] * (len(ERROR_LEADS) - len(bands)) + bands
    return np.stack(bands, axis=1)
