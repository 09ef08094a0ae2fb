"""Means over the hours just before each hour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def trailing_mean(values: NDArray[np.float32], spans: Sequence[int]) -> NDArray[np.float32]:
    """Return `(N, signal, span)`: the mean over the `span` hours that end before each hour.

    Missing hours do not count; where a whole span is missing, or nothing came before, the mean is 0, which is
    "as expected" for a deviation and "as usual" for a normalised level.

    Args:
        values: `(N, signal)`, NaN = missing.
        spans: Hours averaged.
    """
    present = ~np.isnan(values)
    zero = np.zeros((1, values.shape[1]))
    total = np.concatenate([zero, np.cumsum(np.where(present, values, 0.0), axis=0, dtype=np.float64)])
    number = np.concatenate([zero, np.cumsum(present, axis=0, dtype=np.float64)])
    means = np.empty((*values.shape, len(spans)), dtype=np.float32)
    for column, span in enumerate(spans):
        sums, counts = total[:-1].copy(), number[:-1].copy()
        sums[span:] -= total[: -1 - span]
        counts[span:] -= number[: -1 - span]
        means[..., column] = sums / np.maximum(counts, 1.0)
    return means
