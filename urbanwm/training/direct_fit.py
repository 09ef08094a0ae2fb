"""Fitting the direct forecast: ridge regressions per local hour and lead, from sums of products.

Windows are read in chunks into one sum of products per part of the record, hour and lead. Everything after
that (leaving parts out, choosing penalties, pooling cities) works on those sums, so memory does not grow with
the record. The first sums, in which all hours count alike, say what is usual; in later ones outliers count
less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from urbanwm.features import CitySeries, FeatureSpec
from urbanwm.features.direct import FOLDS, DirectColumns
from urbanwm.training.direct_choice import choose, noise_by_lead, start_of
from urbanwm.training.direct_error import CityErrors, DirectFit, errors_of, usual_size, with_errors
from urbanwm.training.direct_sums import Expected, Sums, solve, sums_of, total_of, variance
from urbanwm.training.direct_windows import MAXIMUM_WINDOWS
from urbanwm.training.regressions import Double, Regression, Regressions

Fit = TypeVar("Fit", bound=Callable[..., Any])

POOLED_WINDOWS = 90_000
"""Windows of all cities together that the pooled weights and the penalties are chosen on."""
UNSEEN_PENALTY = 1e-2

_one_thread: Callable[[Fit], Fit] = threadpool_limits.wrap(limits=1, user_api="blas")
"""Thousands of small systems: a second thread saves nothing, and waits for its turn at each of them where
another process takes a core, which made minutes of ten seconds. And the same bits everywhere."""


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

    What lies far from a first forecast counts less: weights aim at the median, and a few wild hours do not
    say which penalties are best. Those are chosen per target on left-out folds, pooled over cities. A city's
    own weights are pulled to the pooled ones, those to the plain mean of the seasonal levels. One city alone
    needs no second pull. A city never seen gets weights that know nothing of the shape of another's day. The
    steps are functions of their own, so that several processes can share the cities (`pipeline.direct_jobs`).

    Args:
        series: Training rows; `spec.direct` must not be set yet.
        spec: What their columns mean.
    """
    columns = DirectColumns(spec)
    shared = _together(series, columns, _together(series, columns))
    fits = {name: fit_city(city, columns, shared, alone=len(series) == 1) for name, city in series.items()}
    return join(series, columns, shared, fits)


def _together(
    series: Mapping[str, CitySeries], columns: DirectColumns, first: Shared | None = None
) -> Shared:
    """Return what all cities say together: at first sight, then with penalties chosen."""
    pooled = add_sums(series.values(), columns, pooled_windows(len(series)), first)
    targets, chosen = range(len(columns.spec.targets)), first is not None
    # Each target's sums are given up once they are shared: together they are a quarter of a GB.
    return Shared.of([share(pooled.pop(0), columns, target, chosen=chosen) for target in targets])


def pooled_windows(cities: int) -> int:
    """Return how many windows of each city go into the pooled sums."""
    return min(MAXIMUM_WINDOWS, -(-POOLED_WINDOWS // cities))


@_one_thread
def add_sums(
    cities: Iterable[CitySeries], columns: DirectColumns, most: int, first: Shared | None = None
) -> list[Sums]:
    """Return each target's sums over some cities; what lies far from what is shared so far counts less."""

    def one(city: CitySeries) -> list[Sums]:
        return sums_of(city, columns, most, None if first is None else _expected(city, columns, first))

    return total_of(map(one, cities))


@_one_thread
def share(pooled: Sums, columns: DirectColumns, target: int, *, chosen: bool) -> SharedTarget:
    """Solve a target's regressions from all cities' sums, for everyone and for a city never seen.

    Args:
        pooled: The sums; they are used up.
        columns: Where the regressions find their inputs.
        target: Its place in the spec.
        chosen: Whether penalties are chosen; otherwise they are those that suit most records.
    """
    name = columns.spec.targets[target]
    sizes = columns.groups(name)
    noise = noise_by_lead(pooled, sizes)
    start = start_of(name, pooled)
    choice = choose(start, pooled, sizes, noise) if chosen else start
    penalty = choice.penalty(sizes, noise)
    weights = _shape_free(pooled.whole(), columns.shape_free(name))
    everyone = _solved(pooled, choice.smoothing_hours, penalty)
    return SharedTarget(penalty, choice.smoothing_hours, everyone, Regression(weights, everyone.variance[:1]))


@_one_thread
def fit_city(city: CitySeries, columns: DirectColumns, shared: Shared, *, alone: bool) -> CityFit:
    """Fit one city, pulled to what all have in common if it is not alone.

    It is summed again, all of its windows now: the sums of a hundred cities at once are gigabytes.
    """
    sums = sums_of(city, columns, expected=_expected(city, columns, shared))
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


def _expected(city: CitySeries, columns: DirectColumns, shared: Shared) -> Expected:
    """Return what all cities' weights expect of one city, and how far off they usually are."""
    weights = tuple(part.weights[1:].astype(np.float32) for part in shared.pooled)
    size = usual_size(city, columns, Regressions.of(shared.pooled).rows(slice(1, None)))
    return Expected(weights, size.astype(np.float32))


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


def _shape_free(sums: Sums, combined: Double) -> Double:
    """Return weights `(1, 24, L, P)` for a city never seen, smoothed over all hours of the day."""
    everywhere = Sums(*(np.broadcast_to(part.mean(axis=0), part.shape) for part in sums))
    reduced = everywhere._replace(
        gram=combined.T @ everywhere.gram @ combined, moment=everywhere.moment @ combined
    )
    penalty = np.full((sums.rows.shape[-1], combined.shape[1]), UNSEEN_PENALTY)
    solved: Double = solve(reduced, penalty) @ combined.T
    return solved[None]
