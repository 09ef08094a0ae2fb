"""Fitting the direct forecast: ridge regressions per local hour and lead, from sums of products.

Windows are read once, in chunks, into one sum of products per part of the record, hour and lead. Everything
after that (leaving parts out, choosing penalties, pooling cities) works on those sums, so memory does not
grow with the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from urbanwm.features import CitySeries, FeatureSpec, Windows
from urbanwm.features.calendar import HOURS_PER_DAY
from urbanwm.features.direct import (
    FOLDS,
    LEVELS,
    LOG_ERROR_RANGE,
    UNSEEN,
    DirectColumns,
    DirectForecast,
    fold_of,
)
from urbanwm.features.history import SMALLEST_ERROR

MAXIMUM_WINDOWS = 36_000
"""Windows per city: four years of hours; a longer record is thinned."""
ERROR_WINDOWS = 3_000
"""Windows per city that the usual error is measured on."""
START_WINDOWS = 60_000
"""Windows of all cities together that say where a head begins."""
WARM_UP_HOURS, WARM_UP_SHARE = 7 * HOURS_PER_DAY, 0.2
"""The first week of a signal, at most this share of the record, has no history and is not learned from."""
CHUNK = 2048
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
ERROR_PENALTY = 1e-3
ERROR_SMOOTHING = 2.0
"""Hours and leads over which the usual error is smoothed."""

Double = NDArray[np.float64]


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


@dataclass(frozen=True)
class DirectFit:
    """What a fit gives.

    Attributes:
        direct: For forecasts: one row per city, and one for cities never seen.
        by_fold: Per city, for training: row k was fitted without fold k.
        errors: Left-out errors over their usual size, `(3, n)`, NaN = missing: where a head begins.
    """

    direct: DirectForecast
    by_fold: dict[str, DirectForecast]
    errors: Double


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
    return _with_errors(series, columns, rows, folds)


def _pooled(series: Mapping[str, CitySeries], columns: DirectColumns, target: int) -> _Sums:
    """Return one target's sums over all cities, one city in memory at a time."""
    first, *others = series.values()
    pooled = _sums(first, columns, target)
    for city in others:
        pooled = _Sums(*(a + b for a, b in zip(pooled, _sums(city, columns, target), strict=True)))
    return pooled


def _chunks(series: CitySeries, most: int) -> Iterator[tuple[NDArray[np.int64], Windows]]:
    """Cut windows without context over the whole record, thinned evenly to at most `most`."""
    leads = series.spec.horizon_hours
    last = len(series) - leads
    step = max(1, -(-last // most))
    # A step prime to 24 visits every hour of the day.
    while np.gcd(step, HOURS_PER_DAY) > 1:
        step += 1
    origins = np.arange(0, last + 1, step)
    for first in range(0, len(origins), CHUNK):
        part = origins[first : first + CHUNK]
        yield part, series.windows(part, 0, leads)


def _sums(series: CitySeries, columns: DirectColumns, target: int) -> _Sums:
    """Add up one target's products over a record; hours around a clock change are left out."""
    width, leads = sum(columns.groups), np.arange(columns.spec.horizon_hours)
    shape = (FOLDS, HOURS_PER_DAY, len(leads))
    sums = _Sums(*(np.zeros((*shape, *more)) for more in ((width, width), (width,), (), ())))
    for origins, windows in _chunks(series, MAXIMUM_WINDOWS):
        regressors = columns.inputs(windows).regressors[:, :, target]
        seen = _counted(series, origins, windows)[..., target]
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


def _counted(series: CitySeries, origins: NDArray[np.int64], windows: Windows) -> NDArray[np.float32]:
    """Return `(B, T, 3)` 1.0 for the hours to learn from: observed, of a target with a week of history."""
    observed = series.target_mask > 0
    first = np.where(observed.any(axis=0), observed.argmax(axis=0), len(series))
    warm_up = int(min(WARM_UP_HOURS, WARM_UP_SHARE * len(series)))
    warm = origins[:, None, None] >= first + warm_up
    return np.asarray(windows.target_mask * warm, dtype=np.float32)


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


class _Judged(NamedTuple):
    """Left-out errors of one city, `(N, L, 3)`, NaN = missing, what may explain their size, the hours."""

    error: Double
    inputs: NDArray[np.float32]
    hour: NDArray[np.int64]

    @property
    def log_size(self) -> Double:
        """Return the logarithm of the size of the errors."""
        return np.asarray(np.log(np.abs(self.error) + SMALLEST_ERROR))


def _with_errors(
    series: Mapping[str, CitySeries],
    columns: DirectColumns,
    rows: NDArray[np.float32],
    folds: Mapping[str, NDArray[np.float32]],
) -> DirectFit:
    """Fit the usual size of left-out errors, by hour and lead and by what changes it; join all parts.

    A city's errors are made twice and not kept: with what may explain them, a hundred cities' are gigabytes.
    """
    cells: dict[str, Double] = {}
    centres: dict[str, Double] = {}
    parts_of_excess: list[_Excess] = []
    for name, city in series.items():
        judged = _judge(city, columns, folds[name])
        cells[name] = _by_cell(judged)
        centres[name], excess = _excess(judged, cells[name])
        parts_of_excess.append(excess)
    weights = _explain(parts_of_excess)
    shift = {name: (centre * weights).sum(axis=-1)[:, None, None] for name, centre in centres.items()}
    own = np.stack([cells[name] - shift[name] for name in series])
    strange = [
        _by_cell(_judge(city, columns, np.repeat(rows[:1], FOLDS, axis=0))) for city in series.values()
    ]
    unseen = np.mean([part - shift[name] for part, name in zip(strange, series, strict=True)], axis=0)
    log_error = np.concatenate([unseen[None], own]).astype(np.float32)
    direct = DirectForecast((UNSEEN, *series), rows, log_error, weights.astype(np.float32))
    parts = tuple(str(fold) for fold in range(FOLDS))
    by_fold = {
        name: DirectForecast(
            parts, folds[name], np.repeat(log_error[[direct.row(name)]], FOLDS, axis=0), direct.error_weights
        )
        for name in series
    }
    most = min(ERROR_WINDOWS, START_WINDOWS // len(series))
    relative = [
        _relative(_judge(city, columns, folds[name], most), direct, name) for name, city in series.items()
    ]
    return DirectFit(direct, by_fold, np.concatenate(relative, axis=1))


def _judge(
    city: CitySeries, columns: DirectColumns, weights: NDArray[np.float32], most: int = ERROR_WINDOWS
) -> _Judged:
    """Forecast a sample of windows, each with the weights fitted without its fold."""
    errors, explaining, hours = [], [], []
    for origins, windows in _chunks(city, most):
        inputs = columns.inputs(windows)
        cell = (fold_of(origins)[:, None], slice(None), inputs.hour, inputs.lead)
        forecast = np.einsum("btsp,btsp->bts", inputs.regressors, weights[cell])
        seen = _counted(city, origins, windows) > 0
        errors.append(np.where(seen, windows.target - forecast, np.nan))
        explaining.append(inputs.error_inputs(forecast))
        hours.append(inputs.hour)
    return _Judged(np.concatenate(errors), np.concatenate(explaining), np.concatenate(hours))


def _by_cell(judged: _Judged) -> Double:
    """Return the mean logarithm of the errors' size by hour and lead, smoothed, `(3, 24, L)`."""
    size, leads = judged.log_size, judged.hour.shape[1]
    cell = judged.hour * leads + np.arange(leads)
    cells = np.zeros((size.shape[-1], HOURS_PER_DAY, leads))
    for target in range(size.shape[-1]):
        seen = np.isfinite(size[..., target])
        bins = HOURS_PER_DAY * leads
        total = np.bincount(cell[seen], size[..., target][seen], bins).reshape(HOURS_PER_DAY, leads)
        count = np.bincount(cell[seen], minlength=bins).reshape(HOURS_PER_DAY, leads).astype(np.float64)
        smooth = [
            gaussian_filter1d(
                gaussian_filter1d(part, ERROR_SMOOTHING, axis=0, mode="wrap"), ERROR_SMOOTHING, axis=1
            )
            for part in (total, count)
        ]
        cells[target] = smooth[0] / np.maximum(smooth[1], np.finfo(np.float64).tiny)
    return cells


class _Excess(NamedTuple):
    """Sums per target over what a city's errors are larger than usual: x xᵀ, x r, and the number."""

    gram: Double
    moment: Double
    rows: Double


def _excess(judged: _Judged, cells: Double) -> tuple[Double, _Excess]:
    """Return a city's mean inputs `(3, E)`, and the sums over its errors' size beyond the usual one."""
    targets, width = len(cells), judged.inputs.shape[-1]
    centre = np.zeros((targets, width))
    sums = _Excess(np.zeros((targets, width, width)), np.zeros((targets, width)), np.zeros(targets))
    for target in range(targets):
        usual = cells[target][judged.hour, np.arange(judged.hour.shape[1])]
        excess = judged.log_size[..., target] - usual
        seen = np.isfinite(excess)
        x = judged.inputs[..., target, :][seen].astype(np.float64)
        centre[target] = x.mean(axis=0) if len(x) else 0.0
        x -= centre[target]
        sums.gram[target], sums.moment[target], sums.rows[target] = x.T @ x, x.T @ excess[seen], len(x)
    return centre, sums


def _explain(parts: Sequence[_Excess]) -> Double:
    """Return weights `(3, E)` of what makes errors large, from all cities' sums."""
    gram, moment, rows = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    penalty = ERROR_PENALTY * np.maximum(rows, 1.0)[:, None, None] * np.eye(gram.shape[-1])
    weights: Double = np.linalg.solve(gram + penalty, moment[..., None])[..., 0]
    return weights


def _relative(judged: _Judged, direct: DirectForecast, name: str) -> Double:
    """Return the errors over their usual size, `(3, n)`."""
    cell = direct.log_error[direct.row(name)][:, judged.hour, np.arange(judged.hour.shape[1])]
    explained = np.einsum("btse,se->bts", judged.inputs, direct.error_weights)
    usual = np.clip(np.moveaxis(cell, 0, -1) + explained, *LOG_ERROR_RANGE)
    return np.asarray((judged.error / np.exp(usual)).reshape(-1, judged.error.shape[-1]).T)
