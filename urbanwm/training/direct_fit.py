"""Fitting the direct forecast: ridge regressions per local hour and lead, from sums of products.

Windows are read in chunks into one sum of products per part of the record, hour and lead: once for what all
cities have in common, and once more for a city's own weights, in which outliers count less. Everything after
that (leaving parts out, choosing penalties, pooling cities) works on those sums, so memory does not grow with
the record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from urbanwm.features import CitySeries, FeatureSpec
from urbanwm.features.calendar import HOURS_PER_DAY
from urbanwm.features.direct import FOLDS, DirectColumns
from urbanwm.training.direct_error import CityErrors, DirectFit, errors_of, usual_size, with_errors
from urbanwm.training.direct_sums import Expected, Sums, solve, sums_of, total_of, variance
from urbanwm.training.direct_windows import MAXIMUM_WINDOWS
from urbanwm.training.regressions import Double, Regression, Regressions

Fit = TypeVar("Fit", bound=Callable[..., Any])

POOLED_WINDOWS = 90_000
"""Windows of all cities together that the pooled weights and the penalties are chosen on."""
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidates, per row, for each group of regressors; the last switches a group off."""
SMOOTHING_HOURS = (0.0, 1.0)
"""Candidates for how far an hour of the day borrows from its neighbours at the same lead."""
CHOICE_LEADS = 5
"""Leads, spread over the horizon, that the choice is made on."""
CHOICE_DAYS = 90
"""A record with fewer days is too short to choose on: it takes the start."""
START = (1e-2, 1e-2, 1e-3, 1e-2, 1e-1, 1e-1, 1e-1, 1e-1)
"""Penalties of `DirectColumns.groups`, without that of the constant, that suit most records."""
HOURLY_GROUP, HOURLY_MINIMUM_DAYS = 2, 300
"""The last hours one by one are many regressors: with fewer days they are switched off."""
CONSTANT_PENALTY = 1e-4
UNSEEN_PENALTY = 1e-2
NOISE_MIN = 1e-3
"""Smallest noise of a lead, in mean ones: a signal that is always right must not end all penalties."""

_one_thread: Callable[[Fit], Fit] = threadpool_limits.wrap(limits=1, user_api="blas")
"""Thousands of small systems: a second thread saves nothing, and waits for its turn at each of them where
another process takes a core, which made minutes of ten seconds. And the same bits everywhere."""


class _Choice(NamedTuple):
    """Penalties by group of regressors but the constant, and the smoothing."""

    penalties: tuple[float, ...]
    smoothing_hours: float


class SharedTarget(NamedTuple):
    """What all cities' windows say together of one target; the fields are those of `Shared`."""

    penalty: Double
    smoothing_hours: float
    pooled: Regression
    unseen: Regression


class Shared(NamedTuple):
    """What all cities' windows say together, target by target."""

    penalty: tuple[Double, ...]
    """`(L, P)` of each regressor at each lead, per row."""
    smoothing_hours: tuple[float, ...]
    pooled: tuple[Regression, ...]
    """Row 0 from everything, row 1 + k without fold k."""
    unseen: Regressions
    """One row, for a city never seen."""

    @classmethod
    def of(cls, targets: Sequence[SharedTarget]) -> Shared:
        """Put the targets side by side."""
        penalty, smoothing_hours, pooled, unseen = zip(*targets, strict=True)
        return cls(penalty, smoothing_hours, pooled, Regressions.of(unseen))


class CityFit(NamedTuple):
    """One city's regressions and the size of their errors."""

    regressions: Regressions
    """Row 0 from everything, row 1 + k without fold k."""
    errors: CityErrors


def fit_direct(series: Mapping[str, CitySeries], spec: FeatureSpec) -> DirectFit:
    """Fit the regressions on every city's record.

    Penalties are chosen per target on left-out folds, pooled over cities. A city's own weights are pulled to
    the pooled ones, those to the plain mean of the seasonal levels. One city alone needs no second pull. What
    lies far from the pooled forecast counts less in a city's own weights: they aim at the median. A city
    never seen gets weights that know nothing of the shape of another's day. The steps are functions of their
    own, so that several processes can share the cities (`pipeline.direct_jobs`).

    Args:
        series: Training rows; `spec.direct` must not be set yet.
        spec: What their columns mean.
    """
    columns = DirectColumns(spec)
    pooled = add_sums(series.values(), columns, pooled_windows(len(series)))
    # Each target's sums are given up once they are shared: together they are a quarter of a GB.
    shared = Shared.of([share(pooled.pop(0), columns, target) for target in range(len(spec.targets))])
    fits = {name: fit_city(city, columns, shared, alone=len(series) == 1) for name, city in series.items()}
    return join(series, columns, shared, fits)


def pooled_windows(cities: int) -> int:
    """Return how many windows of each city go into the pooled sums."""
    return min(MAXIMUM_WINDOWS, -(-POOLED_WINDOWS // cities))


@_one_thread
def add_sums(cities: Iterable[CitySeries], columns: DirectColumns, most: int) -> list[Sums]:
    """Return each target's sums over some cities."""
    return total_of(sums_of(city, columns, most) for city in cities)


@_one_thread
def share(pooled: Sums, columns: DirectColumns, target: int) -> SharedTarget:
    """Choose a target's penalties from all cities' sums; solve for everyone, and for a city never seen.

    The sums are used up.
    """
    name = columns.spec.targets[target]
    sizes = columns.groups(name)
    noise = _noise(pooled, sizes)
    choice = _choose(pooled, sizes, noise)
    penalty = _penalty(choice, sizes, noise)
    weights = _shape_free(pooled.whole(), columns.shape_free(name))
    everyone = _solved(pooled, choice.smoothing_hours, penalty)
    return SharedTarget(penalty, choice.smoothing_hours, everyone, Regression(weights, everyone.variance[:1]))


@_one_thread
def fit_city(city: CitySeries, columns: DirectColumns, shared: Shared, *, alone: bool) -> CityFit:
    """Fit one city, pulled to what all have in common if it is not alone.

    It is summed again: hours far from what all cities' weights expect count less now, and the sums of a
    hundred cities at once are gigabytes.
    """
    common = Regressions.of(shared.pooled).rows(slice(1, None))
    weights = tuple(part.weights[1:].astype(np.float32) for part in shared.pooled)
    size = usual_size(city, columns, common).astype(np.float32)
    sums = sums_of(city, columns, expected=Expected(weights, size))
    pulls = [None] * len(sums) if alone else shared.pooled
    parts = zip(shared.penalty, shared.smoothing_hours, pulls, strict=True)
    own = [_solved(sums.pop(0), smoothing, penalty, pull) for penalty, smoothing, pull in parts]
    regressions = Regressions.of(own)
    return CityFit(regressions, errors_of(city, columns, regressions.rows(slice(1, None)), shared.unseen))


@_one_thread
def join(
    series: Mapping[str, CitySeries], columns: DirectColumns, shared: Shared, fits: Mapping[str, CityFit]
) -> DirectFit:
    """Put the cities' regressions and errors together."""
    own = {name: fits[name].regressions for name in series}
    fitted = [shared.unseen, *(part.rows(slice(0, 1)) for part in own.values())]
    left_out = {name: part.rows(slice(1, None)) for name, part in own.items()}
    errors = {name: fits[name].errors for name in series}
    return with_errors(series, columns, Regressions.stacked(fitted), left_out, errors)


def _solved(
    sums: Sums, smoothing_hours: float, penalty: Double, pull: Regression | None = None
) -> Regression:
    """Solve with all windows and without each fold, pulled to `pull` (rows of the same kind).

    The sums are smoothed in place: of a hundred cities' fit they are most of the memory.
    """
    towards = [None] * (1 + FOLDS) if pull is None else pull.weights
    doubt = np.stack([variance(row, penalty) for row in sums.by_row()])
    sums.smooth(smoothing_hours)
    weights = [solve(row, penalty, start) for row, start in zip(sums.by_row(), towards, strict=True)]
    return Regression(np.stack(weights), doubt)


def _noise(sums: Sums, sizes: Sequence[int]) -> Double:
    """Return each lead's left-out squared error under the start, `(L,)`, over their mean.

    A ridge penalty is noise over the variance of the weights (Hoerl and Kennard 1970, Technometrics 12,
    55-67). The next hour's noise may be a hundredth of tomorrow's: one penalty for both blurs the next hour.
    """
    leads = sums.rows.shape[2]
    rests = islice(sums.by_row(), 1, None)
    error = _left_out_error(sums, rests, _penalty(_Choice(START, 0.0), sizes, np.ones(leads)))
    noise = error / np.maximum(sums.rows.sum(axis=(0, 1)), 1.0)
    mean = float(noise.mean())
    return np.maximum(noise / mean, NOISE_MIN) if mean > 0.0 else np.ones(leads)


def _choose(sums: Sums, sizes: Sequence[int], noise: Double) -> _Choice:
    """Return the penalties and smoothing with the smallest squared error on left-out folds.

    One setting is varied at a time, from a start that suits most records: enough, as the optimum is flat.
    """
    days = sums.rows[:, :, 0].sum() / HOURS_PER_DAY
    penalties, varied = list(START), [group for group, size in enumerate(sizes[:-1]) if size]
    if days < HOURLY_MINIMUM_DAYS:
        penalties[HOURLY_GROUP] = PENALTIES[-1]
        varied = [group for group in varied if group != HOURLY_GROUP]
    start = _Choice(tuple(penalties), 0.0)
    if days < CHOICE_DAYS:
        return start
    leads = np.linspace(0, sums.rows.shape[2] - 1, CHOICE_LEADS).round().astype(np.int64)
    judged = Sums(*(part[:, :, leads] for part in sums))
    rests = {hours: list(judged.smoothed(hours).by_row())[1:] for hours in SMOOTHING_HOURS}

    def error(choice: _Choice) -> float:
        penalty = _penalty(choice, sizes, noise[leads])
        return float(_left_out_error(judged, rests[choice.smoothing_hours], penalty).sum())

    best, least = start, error(start)
    for setting in (*varied, len(START)):
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


def _penalty(choice: _Choice, sizes: Sequence[int], noise: Double) -> Double:
    """Return the penalty of each regressor at each lead `(L, P)`."""
    return np.outer(noise, np.repeat([*choice.penalties, CONSTANT_PENALTY], sizes))


def _shape_free(sums: Sums, combined: Double) -> Double:
    """Return weights `(1, 24, L, P)` for a city never seen, smoothed over all hours of the day."""
    everywhere = Sums(*(np.broadcast_to(part.mean(axis=0), part.shape) for part in sums))
    reduced = everywhere._replace(
        gram=combined.T @ everywhere.gram @ combined, moment=everywhere.moment @ combined
    )
    penalty = np.full((sums.rows.shape[-1], combined.shape[1]), UNSEEN_PENALTY)
    solved: Double = solve(reduced, penalty) @ combined.T
    return solved[None]


def _left_out_error(sums: Sums, rests: Iterable[Sums], penalty: Double) -> Double:
    """Return the sum of squared errors by lead `(L,)`, each fold forecast by the sums without it."""
    total = np.zeros(sums.rows.shape[2])
    for fold, rest in enumerate(rests):
        weights = solve(rest, penalty)
        quadratic = (sums.gram[fold] @ weights[..., None])[..., 0] - 2.0 * sums.moment[fold]
        total += (sums.square[fold] + (weights * quadratic).sum(axis=-1)).sum(axis=0)
    return total
