"""Sums of products over a record's windows: all that ridge regressions per local hour and lead need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from urbanwm.features import CitySeries
from urbanwm.features.calendar import HOURS_PER_DAY
from urbanwm.features.direct import FOLDS, LEVELS, DirectColumns, fold_of
from urbanwm.training.direct_windows import MAXIMUM_WINDOWS, chunks, counted
from urbanwm.training.regressions import Double

HUBER_LIMIT = 2.5
"""Errors beyond this many usual ones count less: Huber's 1.345 standard deviations (1964, Annals of
Mathematical Statistics 35, 73-101), as the usual error is a geometric mean, 0.53 of one. A closed road or a
storm must not bend the forecast of ordinary days, whose median is asked for."""

Floats = NDArray[np.floating[Any]]


class Sums(NamedTuple):
    """Sums over windows per fold, hour and lead, `(FOLDS, 24, L, …)`: x xᵀ, x r, r², and the number."""

    gram: Floats
    moment: Floats
    square: Floats
    rows: Floats

    @classmethod
    def zeros(cls, leads: int, width: int) -> Sums:
        """Return sums over nothing; single precision is enough for the products, which are all the memory."""
        shape = (FOLDS, HOURS_PER_DAY, leads)
        gram = np.zeros((*shape, width, width), np.float32)
        return cls(gram, np.zeros((*shape, width)), np.zeros(shape), np.zeros(shape))

    def include(
        self,
        place: tuple[int, NDArray[np.int64], NDArray[np.int64]],
        x: NDArray[np.float32],
        r: NDArray[np.float32],
        weight: NDArray[np.float32],
    ) -> None:
        """Add windows of one fold and hour: regressors `(L, n, P)`, residuals and weights 0 to 1 `(L, n)`.

        Regressors and residuals come multiplied with the root of the weights.
        """
        self.gram[place] += x.swapaxes(1, 2) @ x
        self.moment[place] += (x.swapaxes(1, 2) @ r[..., None])[..., 0]
        self.square[place] += (r * r).sum(axis=1)
        self.rows[place] += weight.sum(axis=1)

    def add(self, more: Sums) -> None:
        """Add another city's sums."""
        for total, part in zip(self, more, strict=True):
            np.add(total, part, out=total)

    def whole(self) -> Sums:
        """Return the sums over all folds, `(24, L, …)`."""
        return Sums(*(part.sum(axis=0) for part in self))

    def by_row(self) -> Iterator[Sums]:
        """Give the sums for each row of a fit, `(24, L, …)`: over all folds, then without each fold."""
        whole = self.whole()
        yield whole
        for fold in range(FOLDS):
            yield Sums(*(total - part[fold] for total, part in zip(whole, self, strict=True)))

    def smoothed(self, hours: float) -> Sums:
        """Return sums that are smoothed, beside these."""
        copy = Sums(*(part.copy() for part in self))
        copy.smooth(hours)
        return copy

    def smooth(self, hours: float) -> None:
        """Let every hour of the day borrow from its neighbours, in place."""
        if hours > 0.0:
            for part in self:
                gaussian_filter1d(part, hours, axis=1, mode="wrap", output=part)


class Expected(NamedTuple):
    """What left-out weights expect of a record, to know what lies far from it."""

    weights: tuple[NDArray[np.float32], ...]
    """Per target `(FOLDS, 24, L, P)` on top of the mean of the seasonal levels; row k without fold k."""
    size: NDArray[np.float32]
    """`(3, 24, L)` usual size of the error by hour and lead."""

    def trust(
        self,
        target: int,
        place: tuple[int, NDArray[np.int64], NDArray[np.int64]],
        x: NDArray[np.float32],
        r: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return Huber's weights `(L, n)`: beyond the limit an error counts by its size, not its square.

        Args:
            target: Its place in the spec.
            place: Fold, hours and leads, as `Sums.include` takes them.
            x: Regressors `(L, n, P)`.
            r: Residuals `(L, n)`.
        """
        error = np.abs(r - (x @ self.weights[target][place][..., None])[..., 0])
        limit = HUBER_LIMIT * self.size[target][place[1:]][:, None]
        return np.asarray(limit / np.maximum(error, limit))


def sums_of(
    series: CitySeries,
    columns: DirectColumns,
    most: int = MAXIMUM_WINDOWS,
    expected: Expected | None = None,
) -> list[Sums]:
    """Add up each target's products over a record; hours around a clock change are left out.

    Args:
        series: The record.
        columns: Where the regressions find their inputs.
        most: Windows that it is thinned to.
        expected: If given, what lies far from it counts less.
    """
    spec, leads = columns.spec, np.arange(columns.spec.horizon_hours)
    sums = [Sums.zeros(len(leads), sum(columns.groups(name))) for name in spec.targets]
    for origins, windows in chunks(series, most):
        inputs = columns.inputs(windows).regressors
        seen = counted(series, origins, windows)
        levels = np.stack([x[..., :LEVELS].mean(axis=-1) for x in inputs], axis=-1)
        residual = (windows.target - levels) * seen
        hour = windows.local_hour[:, 0]
        regular = (windows.local_hour == (hour[:, None] + leads) % HOURS_PER_DAY).all(axis=1)
        cell = fold_of(origins) * HOURS_PER_DAY + hour
        for number in np.unique(cell[regular]):
            fold, first = divmod(int(number), HOURS_PER_DAY)
            pick = np.flatnonzero((cell == number) & regular)
            place = fold, (first + leads) % HOURS_PER_DAY, leads
            for target, total in enumerate(sums):
                x, r = inputs[target][pick].swapaxes(0, 1), residual[pick, :, target].T
                weight = seen[pick, :, target].T
                if expected is not None:
                    weight = weight * expected.trust(target, place, x, r)
                root = np.sqrt(weight)
                total.include(place, x * root[..., None], r * root, weight)
    return sums


def total_of(parts: Iterable[list[Sums]]) -> list[Sums]:
    """Add up the targets' sums of several cities into the first's, one city in memory besides it."""
    remaining = iter(parts)
    total = next(remaining)
    for part in remaining:
        for own, more in zip(total, part, strict=True):
            own.add(more)
        del part, more  # before the next is made
    return total


def solve(sums: Sums, penalty: Double, pull: Double | None = None) -> Double:
    """Return ridge weights `(24, L, P)`, pulled to `pull` (default 0) by the penalty `(L, P)` per row."""
    solved = np.zeros(sums.moment.shape) if pull is None else pull.copy()
    for hour, weights in enumerate(solved):  # one at a time: all hours' products in double are gigabytes
        gram = sums.gram[hour].astype(np.float64)
        moment = sums.moment[hour] - (gram @ weights[..., None])[..., 0]
        np.einsum("lpp->lp", gram)[...] += np.maximum(sums.rows[hour], 1.0)[:, None] * penalty
        weights += np.linalg.solve(gram, moment[..., None])[..., 0]
    return solved


def variance(sums: Sums, penalty: Double) -> Double:
    """Return the covariance `(P, P)` of the weights of one hour and lead, in units of the errors' variance.

    That of a ridge regression, (XᵀX + n λ)⁻¹, with the products of all hours and leads for those of each.
    Without any window it is 0: weights that nothing was learned for are none, and the errors show it.

    Args:
        sums: Over all folds or without one, `(24, L, …)`.
        penalty: λ `(L, P)`, per row; its mean over the leads counts.
    """
    rows = float(sums.rows.sum())
    if rows == 0.0:
        return np.zeros(sums.gram.shape[2:])
    gram = sums.gram.sum(axis=(0, 1)) / rows + np.diag(penalty.mean(axis=0))
    inverse: Double = np.linalg.inv(gram) / max(rows / sums.rows.size, 1.0)
    return inverse
