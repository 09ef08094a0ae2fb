"""Ridge and LightGBM: direct forecasts of every lead, with quantiles from errors out of fold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.skill.inputs import FIRST_START, direct_inputs
from benchmarks.skill.task import HORIZON_HOURS, Float, PeerMissing, Task
from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS

FOLDS = 5
PENALTIES = 10.0 ** np.arange(0.0, 5.0)
NEAR_MIDNIGHT = (22, 23, 0, 1, 2)
"""Local hours of training origins: those near the origins that are asked for, five times as many."""
EVERY_SIX_HOURS = (0, 6, 12, 18)
NEIGHBOUR_LEADS = 2
"""Leads on either side whose errors count for a lead's quantiles."""
BOOSTERS = {
    "num_leaves": 31, "learning_rate": 0.05, "min_child_samples": 60, "subsample": 0.7, "subsample_freq": 1,
    "colsample_bytree": 0.6, "reg_lambda": 5.0, "n_estimators": 250, "verbosity": -1,
}  # fmt: skip

Fit = Callable[[Float, Float, Float], Float]


def ridge(task: Task) -> pd.DataFrame:
    """Forecast by one linear ridge model per lead; quantiles are those of its errors out of fold."""
    quantiles = np.full((len(QUANTILE_LEVELS), len(task.origins), HORIZON_HOURS, len(TARGETS)), np.nan)
    training = task.training_starts(NEAR_MIDNIGHT, FIRST_START)
    for signal in range(len(TARGETS)):
        target = task.values[training[:, None] + np.arange(HORIZON_HOURS), signal]
        if not np.isfinite(target).any():
            continue
        known, _ = direct_inputs(task, training, signal)
        asked, _ = direct_inputs(task, task.starts, signal)
        errors, points = [], []
        for lead in range(HORIZON_HOURS):
            error, point = _ridge_of_lead(known[:, lead], target[:, lead], asked[:, lead])
            errors.append(error)
            points.append(point)
        for lead in range(HORIZON_HOURS):
            near = errors[max(0, lead - NEIGHBOUR_LEADS) : lead + NEIGHBOUR_LEADS + 1]
            spread = np.quantile(np.concatenate(near), QUANTILE_LEVELS)
            quantiles[:, :, lead, signal] = points[lead] + spread[:, None]
    return task.table(quantiles)


def _ridge_of_lead(known: Float, target: Float, asked: Float) -> tuple[Float, Float]:
    """Return errors out of fold and the forecasts of one lead, the penalty chosen by those errors."""
    rows = np.isfinite(target)
    known, target = known[rows], target[rows]
    known, asked = _standardised(known, asked)
    # Contiguous folds: neighbouring origins share weather.
    fold = np.arange(len(target)) * FOLDS // len(target)
    errors = np.empty((len(PENALTIES), len(target)))
    for number in range(FOLDS):
        out = fold == number
        errors[:, out] = target[out] - _solve(known[~out], target[~out], known[out])
    best = int(np.argmin(np.abs(errors).mean(axis=1)))
    return errors[best], _solve(known, target, asked)[best]


def _solve(known: Float, target: Float, asked: Float) -> Float:
    """Return forecasts `(penalties, rows)`; one eigenvalue problem serves all penalties."""
    centre = target.mean()
    power, vectors = np.linalg.eigh(known.T @ known)
    projected = vectors.T @ (known.T @ (target - centre))
    weights = vectors @ (projected[:, None] / (power[:, None] + PENALTIES))
    return np.asarray(centre + (asked @ weights).T)


def _standardised(known: Float, asked: Float) -> tuple[Float, Float]:
    """Return both with mean 0 and variance 1 in training; a missing input is its mean."""
    mean, scale = np.zeros(known.shape[1]), np.ones(known.shape[1])
    varies = np.isfinite(known).any(axis=0)
    mean[varies], scale[varies] = np.nanmean(known[:, varies], axis=0), np.nanstd(known[:, varies], axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    first, second = ((part - mean) / scale for part in (known, asked))
    return np.nan_to_num(first), np.clip(np.nan_to_num(second), -5.0, 5.0)


def lightgbm(task: Task) -> pd.DataFrame:
    """Forecast by one booster per quantile over all leads, shifted to the right share out of fold.

    Raises:
        PeerMissing: LightGBM is not installed.
    """
    try:
        from lightgbm import LGBMRegressor
    except ImportError as error:
        raise PeerMissing("lightgbm is not installed: pip install -e '.[skill]'") from error

    quantiles = np.full((len(QUANTILE_LEVELS), len(task.origins), HORIZON_HOURS, len(TARGETS)), np.nan)
    training = task.training_starts(EVERY_SIX_HOURS, FIRST_START)
    for signal in range(len(TARGETS)):
        target = task.values[training[:, None] + np.arange(HORIZON_HOURS), signal]
        if not np.isfinite(target).any():
            continue
        known, asked = (_with_lead(*direct_inputs(task, s, signal)) for s in (training, task.starts))
        for position, level in enumerate(QUANTILE_LEVELS):

            def fit(inputs: Float, wanted: Float, ahead: Float, level: float = level) -> Float:
                model = LGBMRegressor(objective="quantile", alpha=level, n_jobs=1, random_state=0, **BOOSTERS)
                return np.asarray(model.fit(inputs, wanted).predict(ahead))

            found = _boosted(known, target, asked, fit, level)
            quantiles[position, :, :, signal] = found.reshape(len(task.origins), HORIZON_HOURS)
    return task.table(quantiles)


def _with_lead(inputs: Float, similar: Float) -> tuple[Float, Float]:
    """Return rows `(origins · 48, features)` with the lead as an input, and their similar-day mean."""
    lead = np.broadcast_to(np.arange(HORIZON_HOURS, dtype=np.float64)[:, None], (*similar.shape, 1))
    rows = np.concatenate([inputs, lead], axis=-1)
    return rows.reshape(-1, rows.shape[-1]), similar.reshape(-1)


def _boosted(
    known: tuple[Float, Float], target: Float, asked: tuple[Float, Float], fit: Fit, level: float
) -> Float:
    """Fit deviations from the similar-day mean on two of three folds, correct by the third, and forecast."""
    inputs, usual = known
    deviation = target.reshape(-1) - usual
    rows = np.isfinite(deviation)
    inputs, deviation = inputs[rows], deviation[rows]
    fold = np.arange(len(deviation)) * 3 // len(deviation)
    left = np.empty(len(deviation))
    forecasts = []
    for number in range(3):
        out = fold == number
        both = np.concatenate([inputs[out], asked[0]])
        found = fit(inputs[~out], deviation[~out], both)
        left[out] = deviation[out] - found[: int(out.sum())]
        forecasts.append(found[int(out.sum()) :])
    return np.asarray(asked[1] + np.mean(forecasts, axis=0) + np.quantile(left, level))
