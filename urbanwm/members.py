"""From quantiles to members: the sample paths that a simulation works with.

Ensemble copula coupling with quantile samples (ECC-Q; Schefzik, Thorarinsdottir, Gneiting 2013, Statistical
Science 28, 616-640): every hour's members are the stratified quantiles of that hour, and a template of
temporally correlated ranks says which member gets which of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

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
