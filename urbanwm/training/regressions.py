"""Fitted regressions of the direct forecast: rows of weights with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from urbanwm.features.direct import LEVELS

Double = NDArray[np.float64]


class Regression(NamedTuple):
    """One target's, R rows."""

    weights: Double
    """`(R, 24, L, P)` by local hour and lead, on top of the mean of the seasonal levels."""
    variance: Double
    """`(R, P, P)` covariance of the weights in units of the errors' variance."""


class Regressions(NamedTuple):
    """All targets', R rows, in single precision, as `DirectForecast` holds them."""

    weights: tuple[NDArray[np.float32], ...]
    """Per target `(R, 24, L, P)`, the mean of the seasonal levels among them."""
    variance: tuple[NDArray[np.float32], ...]
    """Per target `(R, P, P)`."""

    @classmethod
    def of(cls, targets: Sequence[Regression]) -> Regressions:
        """Put the targets side by side."""
        weights = tuple(part.weights.astype(np.float32) for part in targets)
        for part in weights:
            part[..., :LEVELS] += np.float32(1.0 / LEVELS)
        return cls(weights, tuple(part.variance.astype(np.float32) for part in targets))

    @classmethod
    def stacked(cls, parts: Sequence[Regressions]) -> Regressions:
        """Put the rows of several below each other."""
        return cls(
            *(tuple(map(np.concatenate, zip(*of_kind, strict=True))) for of_kind in zip(*parts, strict=True))
        )

    def rows(self, chosen: slice) -> Regressions:
        """Return some of the rows."""
        return Regressions(*(tuple(part[chosen] for part in of_kind) for of_kind in self))

    def repeated(self, row: int, times: int) -> Regressions:
        """Return one row, `times` times."""
        return Regressions(
            *(tuple(np.repeat(part[[row]], times, axis=0) for part in of_kind) for of_kind in self)
        )
