"""Fitting the direct forecast: ridge regressions per local hour and lead, from sums of products.

Windows are read once, in chunks, into one sum of products per part of the record, hour and lead. Everything
after that (leaving parts out, choosing penalties, pooling cities) works on those sums, so memory does not
grow with the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

from urbanwm.features import CitySeries, FeatureSpec
from urbanwm.features.calendar import HOURS_PER_DAY
from urbanwm.features.direct import (
    FOLDS,
    LEVELS,
    DirectColumns,
    fold_of,
)
from urbanwm.training.direct_error import DirectFit, Double, with_errors
from urbanwm.training.direct_windows import chunks, counted

MAXIMUM_WINDOWS = 36_000
"""Windows per city: four years of hours; a longer record is thinned."""
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidates, per row, for levels, recent values, calendar and weather; the last switches a group off."""
SMOOTHING_HOURS = (0.0, 1.0)
"""Candidates for how far an hour of the day borrows from its neighbours at the same lead."""
CHOICE_LEADS = 5
"""Leads, spread over the horizon, that the choice is made on."""
CHOICE_WINDOWS = 90 * HOURS_PER_DAY
"""A record with fewer windows is too short to choose on: it takes the start."""
CONSTANT_PENALTY = 1e-4
UNSEEN_PENALTY = 1e-2


class _Sums(NamedTuple):
    """Sums over windows per fold, hour and lead, `(FOLDS, 24, L, …)`: x xᵀ, x r, r², and the number."""

    gram: Double
    moment: Double
    square: Double
    rows: Double

    def without(self, fold: int) -> _Sums:
        """Return the sums over all folds but one, `(24, L, …)`."""
        return _Sums(*(part.sum(axis=0) - part[fold] for part in self))

    def whole(self) -> _Sums:
        """Return the sums over all folds."""
        return _Sums(*(part.sum(axis=0) for part in self))

    def smoothed(self, hours: float) -> _Sums:
        """Return sums in which every hour of the day borrows from its neighbours."""
        if hours == 0.0:
            return self
        return _Sums(*(gaussian_filter1d(part, hours, axis=1, mode="wrap") for part in self))


class _Choice(NamedTuple):
    """Penalties by group of regressors, and the smoothing."""

    penalties: tuple[float, ...]
    smoothing_hours: float


START = _Choice((1e-2, 1e-2, 1e-2, 1e-1), 0.0)


def fit_direct(series: Mapping[str, CitySeries], spec: FeatureSpec) -> DirectFit:
    """Fit the regressions on every city's record.

    Penalties are chosen per target on left-out folds, pooled over cities. A city's own weights are pulled to
    the pooled ones, those to the plain mean of the seasonal levels. One city alone needs no second pull. A
    city never seen gets weights that know nothing of the shape of another's day.

    Args:
        series: Training rows; `spec.direct` must not be set yet.
        spec: What their columns mean.
    """
    columns, names = DirectColumns(spec), list(series)
    groups, targets, leads = columns.groups, len(spec.targets), spec.horizon_hours
    rows = np.zeros((1 + len(names), targets, HOURS_PER_DAY, leads, sum(groups)), np.float32)
    folds = {name: np.zeros((FOLDS, *rows.shape[1:]), np.float32) for name in names}
    for target in range(targets):
        pooled = _pooled(series, columns, target)
        prior = np.zeros(sum(groups))
        prior[:LEVELS] = 1.0 / LEVELS
        choice = _choose(pooled, groups)
        penalty = _penalty(choice, groups)
        smooth = pooled.smoothed(choice.smoothing_hours)
        whole = _solve(smooth.whole(), penalty)
        left_out = [_solve(smooth.without(fold), penalty) for fold in range(FOLDS)]
        rows[0, target] = prior + _shape_free(pooled.whole(), columns)
        alone = len(names) == 1
        for position, (name, city) in enumerate(series.items()):
            # Summed again where there are several: the sums of a hundred cities at once are gigabytes.
            near = smooth if alone else _sums(city, columns, target).smoothed(choice.smoothing_hours)
            rows[1 + position, target] = prior + (
                whole if alone else _solve(near.whole(), penalty, pull=whole)
            )
            for fold, pull in enumerate(left_out):
                folds[name][fold, target] = prior + (
                    pull if alone else _solve(near.without(fold), penalty, pull=pull)
                )
    return with_errors(series, columns, rows, folds)


def _pooled(series: Mapping[str, CitySeries], columns: DirectColumns, target: int) -> _Sums:
    """Return one target's sums over all cities, one city in memory at a time."""
    first, *others = series.values()
    pooled = _sums(first, columns, target)
    for city in others:
        pooled = _Sums(*(a + b for a, b in zip(pooled, _sums(city, columns, target), strict=True)))
    return pooled


def _sums(series: CitySeries, columns: DirectColumns, target: int) -> _Sums:
    """Add up one target's products over a record; hours around a clock change are left out."""
    width, leads = sum(columns.groups), np.arange(columns.spec.horizon_hours)
    shape = (FOLDS, HOURS_PER_DAY, len(leads))
    sums = _Sums(*(np.zeros((*shape, *more)) for more in ((width, width), (width,), (), ())))
    for origins, windows in chunks(series, MAXIMUM_WINDOWS):
        regressors = columns.inputs(windows).regressors[:, :, target]
        seen = counted(series, origins, windows)[..., target]
        residual = (windows.target[:, :, target] - regressors[..., :LEVELS].mean(axis=-1)) * seen
        regressors = regressors * seen[..., None]
        regular = windows.local_hour == (windows.local_hour[:, :1] + leads) % HOURS_PER_DAY
        for fold, hour in {*zip(fold_of(origins).tolist(), windows.local_hour[:, 0].tolist(), strict=True)}:
            pick = (fold_of(origins) == fold) & (windows.local_hour[:, 0] == hour) & regular.all(axis=1)
            x, r = np.swapaxes(regressors[pick], 0, 1), np.swapaxes(residual[pick], 0, 1)
            cell = (fold, (hour + leads) % HOURS_PER_DAY, leads)
            sums.gram[cell] += np.swapaxes(x, 1, 2) @ x
            sums.moment[cell] += (np.swapaxes(x, 1, 2) @ r[..., None])[..., 0]
            sums.square[cell] += (r * r).sum(axis=1)
            sums.rows[cell] += seen[pick].sum(axis=0)
    return sums


def _choose(sums: _Sums, groups: tuple[int, int, int, int]) -> _Choice:
    """Return the penalties and smoothing with the smallest squared error on left-out folds.

    One setting is varied at a time, from a start that suits most records: enough, as the optimum is flat.
    """
    if sums.rows[:, :, 0].sum() < CHOICE_WINDOWS:
        return START
    leads = np.linspace(0, sums.rows.shape[2] - 1, CHOICE_LEADS).round().astype(np.int64)
    judged = _Sums(*(part[:, :, leads] for part in sums))
    smoothed = {hours: judged.smoothed(hours) for hours in SMOOTHING_HOURS}

    def error(choice: _Choice) -> float:
        return _left_out_error(judged, smoothed[choice.smoothing_hours], _penalty(choice, groups))

    best, least = START, error(START)
    for setting in range(len(START.penalties) + 1):
        for candidate in _alternatives(best, setting):
            found = error(candidate)
            if found < least:
                best, least = candidate, found
    return best


def _alternatives(choice: _Choice, setting: int) -> list[_Choice]:
    """Return the choices that differ in one setting: a group's penalty, or, last, the smoothing."""
    if setting == len(choice.penalties):
        return [choice._replace(smoothing_hours=hours) for hours in SMOOTHING_HOURS]
    changed = []
    for penalty in PENALTIES:
        penalties = list(choice.penalties)
        penalties[setting] = penalty
        changed.append(choice._replace(penalties=tuple(penalties)))
    return [other for other in changed if other != choice]


def _penalty(choice: _Choice, groups: tuple[int, int, int, int]) -> Double:
    """Return the penalty of each regressor."""
    predictions, calendar, state, constant = groups
    sizes = (LEVELS, predictions - LEVELS, calendar, state, constant)
    return np.repeat([*choice.penalties, CONSTANT_PENALTY], sizes)


def _solve(sums: _Sums, penalty: Double, pull: Double | None = None) -> Double:
    """Return ridge weights `(24, L, P)`, pulled to `pull` (default 0) by `penalty` per row."""
    target = np.zeros_like(sums.moment) if pull is None else pull
    gram = sums.gram + np.maximum(sums.rows, 1.0)[..., None, None] * np.diag(penalty)
    moment = sums.moment - (sums.gram @ target[..., None])[..., 0]
    solved: Double = target + np.linalg.solve(gram, moment[..., None])[..., 0]
    return solved


def _shape_free(sums: _Sums, columns: DirectColumns) -> Double:
    """Return weights `(24, L, P)` for a city never seen, smoothed over all hours of the day."""
    combined = columns.shape_free
    shared = _Sums(*(np.broadcast_to(part.mean(axis=0), part.shape) for part in sums))
    reduced = shared._replace(gram=combined.T @ shared.gram @ combined, moment=shared.moment @ combined)
    solved: Double = _solve(reduced, np.full(combined.shape[1], UNSEEN_PENALTY)) @ combined.T
    return solved


def _left_out_error(sums: _Sums, smooth: _Sums, penalty: Double) -> float:
    """Return the sum of squared errors over all folds, each forecast by the others."""
    total, whole = 0.0, smooth.whole()
    for fold in range(FOLDS):
        rest = _Sums(*(everything - part[fold] for everything, part in zip(whole, smooth, strict=True)))
        weights = _solve(rest, penalty)
        quadratic = (sums.gram[fold] @ weights[..., None])[..., 0] - 2.0 * sums.moment[fold]
        total += float((sums.square[fold] + (weights * quadratic).sum(axis=-1)).sum())
    return total
