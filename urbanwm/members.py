"""From quantiles to members: the sample paths that a simulation works with.

Ensemble copula coupling with quantile samples (ECC-Q; Schefzik, Thorarinsdottir, Gneiting 2013, Statistical
Science 28, 616-640): every hour's members are the stratified quantiles of that hour, and a template of
temporally correlated ranks says which member gets which of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from urbanwm.contracts.signals import MEDIAN

Float = NDArray[np.float64]

HOURS_PER_DAY = 24
WIDENING_MAX = 3.0
"""A silent signal's interval grows at most this much: a quiet night is not compared with a rare wild one."""

RANK_CORRELATION = 0.9
"""Hour-to-hour correlation of the ranks where none was fitted: an anomaly is forgotten in about ten hours."""
RANK_STREAM = 0x5EED_0002
"""Random stream of the ranks, apart from those of the latents and the coefficients."""


def member_levels(samples: int) -> Float:
    """Return the stratified probabilities `(s + 0.5) / samples`, `(samples,)`."""
    return (np.arange(samples) + 0.5) / samples


def quantile_function(quantiles: Float, levels: Sequence[float], wanted: Float) -> Float:
    """Evaluate quantile functions at `wanted` probabilities: linear between the levels and beyond the last.

    Args:
        quantiles: `(..., Q)` values at `levels`, non-decreasing in the last axis.
        levels: Q probabilities, increasing, Q ≥ 2.
        wanted: `(S,)` probabilities in (0, 1).

    Returns:
        `(S, ...)`, non-decreasing in the first axis.
    """
    known = np.asarray(levels, dtype=np.float64)
    left = np.clip(np.searchsorted(known, wanted, side="right") - 1, 0, len(known) - 2)
    weight = (wanted - known[left]) / (known[left + 1] - known[left])
    by_level = np.moveaxis(np.asarray(quantiles, dtype=np.float64), -1, 0)
    shape = (-1, *(1,) * (by_level.ndim - 1))
    low, high = by_level[left], by_level[left + 1]
    return np.asarray(low + weight.reshape(shape) * (high - low), dtype=np.float64)


def rank_template(samples: int, hours: int, correlation: Float, seed: int) -> NDArray[np.int64]:
    """Return ranks `(samples, hours, signals)` of AR(1) Gaussian paths: a permutation in every hour.

    Args:
        samples: Number of members.
        hours: Number of hours.
        correlation: `(signals,)` hour-to-hour correlation, in [0, 1).
        seed: Seed of the paths.
    """
    generator = np.random.default_rng([seed, RANK_STREAM])
    noise = generator.standard_normal((hours, len(correlation), samples))
    keep = correlation[:, None]
    innovation = np.sqrt(1.0 - keep**2)
    paths = np.empty_like(noise)
    paths[0] = noise[0]
    for hour in range(1, hours):
        paths[hour] = keep * paths[hour - 1] + innovation * noise[hour]
    ranks = np.argsort(np.argsort(paths, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.moveaxis(ranks, -1, 0)


def couple(grid: Float, seed: int, correlation: Sequence[float] | None = None) -> Float:
    """Order sorted members in time: `(..., samples, hours, signals)` in, the same values per hour out.

    The template depends on seed, shape and `correlation` (per signal, default `RANK_CORRELATION`) only, so
    two forecasts of one model and seed share their ranks.
    """
    samples, hours, signals = grid.shape[-3:]
    keep = (
        np.full(signals, RANK_CORRELATION)
        if correlation is None
        else np.asarray(correlation, dtype=np.float64)
    )
    ranks = rank_template(samples, hours, keep, seed)
    return np.take_along_axis(grid, np.broadcast_to(ranks, grid.shape), axis=-3)


def scaled_around_median(quantiles: Float, factor: Float) -> Float:
    """Return quantiles `(..., 7)` with each distance from the median times `factor`, broadcast to them."""
    median = quantiles[..., MEDIAN : MEDIAN + 1]
    return median + (quantiles - median) * factor


def widen_silent(quantiles: Float, silence_hours: Sequence[float]) -> Float:
    """Widen silent signals around their median, `(B, T, 3, 7)`: no surer than so much later.

    A signal silent for k days (rounded up) gets at least the width that the model gives the same hour of day
    k days later. A model that has widened by itself, because its input is masked, is left as it is.
    """
    widened = quantiles.copy()
    last = quantiles.shape[1] - 1
    for position, hours in enumerate(silence_hours):
        shift = int(np.ceil(hours / HOURS_PER_DAY)) * HOURS_PER_DAY
        if shift == 0:
            continue
        values = quantiles[:, :, position]
        width = values[..., -1] - values[..., 0]
        here = np.arange(last + 1)
        # Near the end of the rollout: the latest lead of the same hour of day.
        later = here + np.minimum(shift, (last - here) // HOURS_PER_DAY * HOURS_PER_DAY)
        factor = np.clip(width[:, later] / np.maximum(width, np.finfo(np.float32).tiny), 1.0, WIDENING_MAX)
        widened[:, :, position] = scaled_around_median(values, factor[..., None])
    return widened
