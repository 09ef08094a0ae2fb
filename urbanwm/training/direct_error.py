"""The usual size of the direct forecast's errors: by hour and lead, and by what makes them larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from urbanwm.features import CitySeries
from urbanwm.features.calendar import HOURS_PER_DAY
from urbanwm.features.direct import (
    FOLDS,
    LOG_ERROR_RANGE,
    SMALLEST_ERROR,
    UNSEEN,
    DirectColumns,
    DirectForecast,
    fold_of,
)
from urbanwm.training.direct_windows import chunks, counted
from urbanwm.training.regressions import Double, Regressions

ERROR_WINDOWS = 3_000
"""Windows per city that the usual error is measured on."""
START_WINDOWS = 12_000
"""Windows of all cities together that say where a head begins: half a million errors per target."""
ERROR_PENALTY = 1e-3
ERROR_SMOOTHING = 1.0
"""Hours and leads over which the usual error is smoothed."""


@dataclass(frozen=True)
class DirectFit:
    """What a fit gives.

    Attributes:
        direct: For forecasts: one row per city, and one for cities never seen.
        by_fold: Per city, for training: row k was fitted without fold k, which at most had a say in how much
            outliers of the others count.
        errors: Per city, left-out errors over their usual size, `(3, n)`, NaN = missing: where a head begins,
            and what later errors are compared with.
    """

    direct: DirectForecast
    by_fold: dict[str, DirectForecast]
    errors: dict[str, Double]


class _Judged(NamedTuple):
    """Left-out errors of one city, `(N, L, 3)`, NaN = missing, what may explain their size, the hours.

    Of an error, what the weights' own uncertainty is expected to add has been taken away.
    """

    error: Double
    inputs: NDArray[np.float32]
    hour: NDArray[np.int64]

    @property
    def log_size(self) -> Double:
        """Return the logarithm of the size of the errors."""
        return np.asarray(np.log(np.abs(self.error) + SMALLEST_ERROR))


class Excess(NamedTuple):
    """Sums per target over what a city's errors are larger than usual: x xᵀ, x r, and the number."""

    gram: Double
    moment: Double
    rows: Double


class CityErrors(NamedTuple):
    """The size of one city's left-out errors."""

    cells: Double
    """`(3, 24, L)` usual logarithm by hour and lead."""
    centre: Double
    """`(3, E)` mean of what may change it."""
    excess: Excess
    strange: Double
    """`(3, 24, L)` as `cells`, of forecasts by the weights for a city never seen."""


def usual_size(city: CitySeries, columns: DirectColumns, left_out: Regressions) -> Double:
    """Return the usual size of one city's left-out errors by hour and lead, `(3, 24, L)`.

    Arguments as `errors_of`; by geometric mean.
    """
    return np.asarray(np.exp(_by_cell(_judge(city, columns, left_out))))


def errors_of(
    city: CitySeries, columns: DirectColumns, left_out: Regressions, unseen: Regressions
) -> CityErrors:
    """Judge one city's regressions on the parts of its record that they were not fitted on.

    Args:
        city: The record.
        columns: Where the regressions find their inputs.
        left_out: Row k fitted without fold k.
        unseen: One row, for a city never seen.
    """
    judged = _judge(city, columns, left_out)
    cells = _by_cell(judged)
    centre, excess = _excess(judged, cells)
    strange = _by_cell(_judge(city, columns, unseen.repeated(0, FOLDS)))
    return CityErrors(cells, centre, excess, strange)


def with_errors(
    series: Mapping[str, CitySeries],
    columns: DirectColumns,
    fitted: Regressions,
    folds: Mapping[str, Regressions],
    errors: Mapping[str, CityErrors],
) -> DirectFit:
    """Explain the size of left-out errors by what changes it, over all cities; join all parts.

    A city's errors are made again, not kept: with what may explain them, a hundred cities' are gigabytes.

    Args:
        series: The record of each city.
        columns: Where the regressions find their inputs.
        fitted: A row for a city never seen, then one per city.
        folds: Per city, row k fitted without fold k.
        errors: Per city, as `errors_of` returns them.
    """
    weights = _explain([errors[name].excess for name in series])
    shift = {name: (errors[name].centre * weights).sum(axis=-1)[:, None, None] for name in series}
    own = np.stack([errors[name].cells - shift[name] for name in series])
    unseen = np.mean([errors[name].strange - shift[name] for name in series], axis=0)
    log_error = np.concatenate([unseen[None], own]).astype(np.float32)
    direct = DirectForecast((UNSEEN, *series), *fitted, log_error, weights.astype(np.float32))
    parts = tuple(str(fold) for fold in range(FOLDS))
    by_fold = {
        name: DirectForecast(
            parts, *folds[name], np.repeat(log_error[[direct.row(name)]], FOLDS, axis=0), direct.error_weights
        )
        for name in series
    }
    most = min(ERROR_WINDOWS, START_WINDOWS // len(series))
    relative = {
        name: _relative(_judge(city, columns, folds[name], most), direct, name)
        for name, city in series.items()
    }
    return DirectFit(direct, by_fold, relative)


def _judge(
    city: CitySeries, columns: DirectColumns, left_out: Regressions, most: int = ERROR_WINDOWS
) -> _Judged:
    """Forecast a sample of windows, each with the weights fitted without its fold."""
    errors, explaining, hours = [], [], []
    for origins, windows in chunks(city, most):
        inputs, fold = columns.inputs(windows), fold_of(origins)
        forecast = inputs.apply(left_out.weights, fold, inputs.lead)
        seen = counted(city, origins, windows) > 0
        doubt = np.exp(inputs.log_doubt(left_out.variance, fold))
        errors.append(np.where(seen, (windows.target - forecast) / doubt, np.nan))
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


def _excess(judged: _Judged, cells: Double) -> tuple[Double, Excess]:
    """Return a city's mean inputs `(3, E)`, and the sums over its errors' size beyond the usual one."""
    targets, width = len(cells), judged.inputs.shape[-1]
    centre = np.zeros((targets, width))
    sums = Excess(np.zeros((targets, width, width)), np.zeros((targets, width)), np.zeros(targets))
    for target in range(targets):
        usual = cells[target][judged.hour, np.arange(judged.hour.shape[1])]
        excess = judged.log_size[..., target] - usual
        seen = np.isfinite(excess)
        x = judged.inputs[..., target, :][seen].astype(np.float64)
        centre[target] = x.mean(axis=0) if len(x) else 0.0
        x -= centre[target]
        sums.gram[target], sums.moment[target], sums.rows[target] = x.T @ x, x.T @ excess[seen], len(x)
    return centre, sums


def _explain(parts: Sequence[Excess]) -> Double:
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
