"""The seasonal path's first weights: a ridge regression with penalties chosen by blocked cross-validation."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from urbanwm.contracts.signals import QUANTILE_LEVELS
from urbanwm.features import Windows
from urbanwm.model.predictor import QuantilePredictor
from urbanwm.model.seasonal import LOG_SCALE_MAX, SeasonalPath
from urbanwm.model.world_model import UrbanWorldModel

FOLDS = 6
LEVEL_PENALTIES = (1e-3, 1e-2, 1e-1)
"""Penalties per row that pull the constant skip weights to the plain mean of the levels."""
CHANGE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties per row that keep the weights from varying with lead, hour and day."""
PROFILE_PENALTIES = (1e-3, 1e-2, 1.0)
"""Penalties per row that pull the day profiles to zero; the last one all but switches them off."""
SCALE_PENALTY = 1e-3
"""Penalty per row on the weights of the error's scale."""
SMALLEST_ERROR = 1e-2
"""Added to an error, in normalised units, before its logarithm: a lucky hit is no evidence of precision."""

Array = NDArray[np.floating[Any]]


class _Rows(NamedTuple):
    """Observed hours of one target: features `(n, P)`, values `(n,)`, fold `(n,)`."""

    features: NDArray[np.float64]
    values: NDArray[np.float64]
    fold: NDArray[np.int64]


@torch.no_grad()
def start_from_seasons(model: UrbanWorldModel, windows: Windows, block: NDArray[np.int64]) -> None:
    """Set the seasonal path to a ridge regression on the horizon, and the head to its errors.

    Before its first step the model then forecasts, with honest quantiles, like a good linear seasonal
    model, and learns the rest. The reference has no seasonal path and stays as it is.

    Args:
        model: Changed in place.
        windows: Training windows.
        block: `(B,)` block of each window, 0 to `FOLDS` - 1; neighbouring windows share one, so that the
        penalties
            are not chosen on hours seen a moment before.
    """
    path, head = model.seasonal, model.predictor
    if path is None or not isinstance(head, QuantilePredictor):
        return
    ahead = slice(windows.context_hours, None)
    known = torch.from_numpy(windows.known[:, ahead])
    modulation, profiles = path.modulation(known).numpy(), path.profiles(known).numpy()
    for target in range(windows.target.shape[-1]):
        seen = windows.target_mask[:, ahead, target] > 0
        if not seen.any():
            continue
        modulated = modulation[seen][:, :, None] * windows.skip[:, ahead, target][seen][:, None, :]
        features = np.concatenate([modulated.reshape(len(modulated), -1), profiles[seen]], axis=-1)
        values = windows.target[:, ahead, target][seen].astype(np.float64)
        fold = np.broadcast_to(block[:, None], seen.shape)[seen]
        rows = _Rows(features.astype(np.float64), values, fold)
        start = torch.cat([path.skip_weights[:, target].flatten(), path.profile_weights[target]])
        fitted, errors = _cross_validated_ridge(rows, start.double().numpy(), _penalties(path))
        weights = torch.from_numpy(fitted).to(path.skip_weights.dtype)
        path.skip_weights[:, target] = weights[: modulated[0].size].view(path.skip_weights[:, target].shape)
        path.profile_weights[target] = weights[modulated[0].size :]
        scale_features = np.concatenate([modulation[seen], profiles[seen]], axis=-1).astype(np.float64)
        log_scale, scale_weights = _log_linear_scale(scale_features, errors)
        path.scale_weights[target] = torch.from_numpy(scale_weights).to(path.scale_weights.dtype)
        head.start_at(target, np.quantile(errors / np.exp(log_scale), QUANTILE_LEVELS).tolist())


def _penalties(path: SeasonalPath) -> list[NDArray[np.float64]]:
    """Return the candidate penalties, one value per weight of a target's path."""
    modulators, _, features = path.skip_weights.shape
    sizes = (features, (modulators - 1) * features, path.profile_weights.shape[1])
    grid = product(LEVEL_PENALTIES, CHANGE_PENALTIES, PROFILE_PENALTIES)
    return [np.repeat(penalties, sizes) for penalties in grid]


def blocks_of(origins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut increasing origins into `FOLDS` contiguous blocks."""
    return np.arange(len(origins)) * FOLDS // max(1, len(origins))


def _cross_validated_ridge(
    rows: _Rows, prior: NDArray[np.float64], candidates: list[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weights, and errors `(n,)` on left-out blocks, under the penalties with the smallest errors."""
    residual = rows.values - rows.features @ prior
    folds = [rows.fold == fold for fold in np.unique(rows.fold)]
    grams = [rows.features[part].T @ rows.features[part] for part in folds]
    moments = [rows.features[part].T @ residual[part] for part in folds]
    whole_gram, whole_moment, rows_in_all = np.sum(grams, axis=0), np.sum(moments, axis=0), len(residual)

    def solve(gram: Array, moment: Array, size: int, penalty: Array) -> NDArray[np.float64]:
        return prior + np.linalg.solve(gram + max(size, 1) * np.diag(penalty), moment)

    def left_out_errors(penalty: Array) -> NDArray[np.float64]:
        errors = np.empty(rows_in_all)
        for part, gram, moment in zip(folds, grams, moments, strict=True):
            rest = rows_in_all - int(part.sum())
            weights = solve(whole_gram - gram, whole_moment - moment, rest, penalty)
            errors[part] = rows.values[part] - rows.features[part] @ weights
        return errors

    errors = [left_out_errors(penalty) for penalty in candidates]
    best = int(np.argmin([np.abs(error).sum() for error in errors]))
    return solve(whole_gram, whole_moment, rows_in_all, candidates[best]), errors[best]


def _log_linear_scale(features: Array, errors: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit log |error| by ridge; return the fitted logarithms, bounded and centred on 0, and the weights.

    The first feature is the constant; it absorbs the mean, which the head's steps carry.
    """
    size = np.log(np.abs(errors) + SMALLEST_ERROR)
    centre = size.mean()
    gram = features.T @ features + SCALE_PENALTY * len(features) * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features.T @ (size - centre))
    return np.clip(features @ weights, -LOG_SCALE_MAX, LOG_SCALE_MAX), weights
