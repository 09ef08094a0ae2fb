"""The seasonal path's first weights: a ridge regression with penalties chosen by blocked cross-validation."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from urbanwm.features import Windows
from urbanwm.model.seasonal import SeasonalPath

FOLDS = 6
LEVEL_PENALTIES = (1e-3, 1e-2, 1e-1)
"""Penalties per row that pull the skip weights to the plain mean of the levels."""
SPECIAL_PENALTIES = (1e-3, 1e-2, 1.0)
"""Penalties per row that pull the special-day profiles to zero; the last one all but switches them off."""

Array = NDArray[np.floating[Any]]


class _Rows(NamedTuple):
    """Observed hours of one target: features `(n, P)`, values `(n,)`, fold `(n,)`."""

    features: NDArray[np.float64]
    values: NDArray[np.float64]
    fold: NDArray[np.int64]


@torch.no_grad()
def start_from_seasons(path: SeasonalPath, windows: Windows, block: NDArray[np.int64]) -> None:
    """Set the seasonal path to the ridge regression of the horizon on its features, per target.

    Before its first step the model then forecasts like a good linear seasonal model, and learns the rest.

    Args:
        path: Changed in place.
        windows: Training windows.
        block: `(B,)` block of each window, 0 to `FOLDS` - 1; neighbouring windows share one, so that the
        penalties
            are not chosen on hours seen a moment before.
    """
    ahead = slice(windows.context_hours, None)
    special = path.profiles(torch.from_numpy(windows.known[:, ahead])).numpy()
    prior = np.concatenate([path.skip_weights[0].numpy(), np.zeros(special.shape[-1])]).astype(np.float64)
    levels = path.skip_weights.shape[1]
    for target in range(windows.target.shape[-1]):
        seen = windows.target_mask[:, ahead, target] > 0
        if not seen.any():
            continue
        features = np.concatenate([windows.skip[:, ahead, target], special], axis=-1)[seen].astype(np.float64)
        values = windows.target[:, ahead, target][seen].astype(np.float64)
        fold = np.broadcast_to(block[:, None], seen.shape)[seen]
        weights = torch.from_numpy(_cross_validated_ridge(_Rows(features, values, fold), prior, levels))
        path.skip_weights[target] = weights[:levels].to(path.skip_weights.dtype)
        path.special_weights[target] = weights[levels:].to(path.special_weights.dtype)


def blocks_of(origins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut increasing origins into `FOLDS` contiguous blocks."""
    return np.arange(len(origins)) * FOLDS // max(1, len(origins))


def _cross_validated_ridge(rows: _Rows, prior: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """Return the weights under the penalties with the smallest absolute error on left-out blocks."""
    residual = rows.values - rows.features @ prior
    folds = [rows.fold == fold for fold in range(FOLDS)]
    grams = [rows.features[part].T @ rows.features[part] for part in folds]
    moments = [rows.features[part].T @ residual[part] for part in folds]
    whole_gram, whole_moment = np.sum(grams, axis=0), np.sum(moments, axis=0)
    sizes = [int(part.sum()) for part in folds]

    def solve(gram: Array, moment: Array, size: int, penalty: Array) -> NDArray[np.float64]:
        return prior + np.linalg.solve(gram + max(size, 1) * np.diag(penalty), moment)

    def left_out_error(penalty: Array) -> float:
        total = 0.0
        for part, gram, moment, size in zip(folds, grams, moments, sizes, strict=True):
            weights = solve(whole_gram - gram, whole_moment - moment, sum(sizes) - size, penalty)
            total += float(np.abs(rows.features[part] @ weights - rows.values[part]).sum())
        return total

    def penalties(level: float, special: float) -> NDArray[np.float64]:
        return np.where(np.arange(len(prior)) < levels, level, special)

    candidates = [penalties(*pair) for pair in product(LEVEL_PENALTIES, SPECIAL_PENALTIES)]
    best = min(candidates, key=left_out_error)
    return solve(whole_gram, whole_moment, sum(sizes), best)
