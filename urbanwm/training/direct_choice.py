"""Choosing the penalties of the direct forecast's regressions, on left-out parts of the records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from urbanwm.features.calendar import HOURS_PER_DAY
from urbanwm.features.direct import FOLDS
from urbanwm.training.direct_sums import Sums, solve
from urbanwm.training.regressions import Double

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidates, per row, for each group of regressors; the last switches a group off."""
SMOOTHING_HOURS = (0.0, 1.0)
"""Candidates for how far an hour of the day borrows from its neighbours at the same lead."""
CHOICE_LEADS = 5
"""Leads, spread over the horizon, that the choice is made on."""
CHOICE_DAYS = 90
"""A record with fewer days is too short to choose on: it takes the start."""
HOURLY_GROUP, HOURLY_MINIMUM_DAYS = 2, 300
"""The last hours one by one are many regressors: with fewer days they are switched off."""
CONSTANT_PENALTY = 1e-4
NOISE_MIN = 1e-3
"""Smallest noise of a lead, in mean ones: a signal that is always right must not end all penalties."""


class Choice(NamedTuple):
    """Penalties of `DirectColumns.groups`, without that of the constant, and the smoothing."""

    penalties: tuple[float, ...]
    smoothing_hours: float

    def penalty(self, sizes: Sequence[int], noise: Double) -> Double:
        """Return the penalty of each regressor at each lead `(L, P)`."""
        return np.outer(noise, np.repeat([*self.penalties, CONSTANT_PENALTY], sizes))


START = Choice((1e-2, 1e-2, 1e-3, 1e-2, 1e-1, 1e-1, 1e-1, 1e-1), 0.0)
"""Suits most records of a target that follows the city's habits."""
STARTS = {"pm25": Choice((1e-1, 1e-1, 1e-3, 3e-1, 1e-1, 1e-1, 1e-1, 1e-1), 1.0)}
"""Those of other targets: the air follows the weather, so that much of it is noise to habits."""


def start_of(target: str, sums: Sums) -> Choice:
    """Return a target's start for a record of this length."""
    start = STARTS.get(target, START)
    if _days(sums) >= HOURLY_MINIMUM_DAYS:
        return start
    penalties = list(start.penalties)
    penalties[HOURLY_GROUP] = PENALTIES[-1]
    return start._replace(penalties=tuple(penalties))


def noise_by_lead(sums: Sums, sizes: Sequence[int]) -> Double:
    """Return each lead's left-out squared error under the start, `(L,)`, over their mean.

    A ridge penalty is noise over the variance of the weights (Hoerl and Kennard 1970, Technometrics 12,
    55-67). The next hour's noise may be a hundredth of tomorrow's: one penalty for both blurs the next hour.
    """
    alike = START.penalty(sizes, np.ones(sums.rows.shape[2]))
    error = _left_out_error(sums, islice(sums.by_row(), 1, None), alike).sum(axis=0)
    noise = error / np.maximum(sums.rows.sum(axis=(0, 1)), 1.0)
    mean = float(noise.mean())
    return np.maximum(noise / mean, NOISE_MIN) if mean > 0.0 else np.ones_like(noise)


def choose(start: Choice, sums: Sums, sizes: Sequence[int], noise: Double) -> Choice:
    """Return the penalties and smoothing that left-out folds ask for, close to the start.

    One setting is varied at a time: enough, as the optimum is flat. It is changed for a gain beyond chance
    only (`beyond_chance`): what is best by a hair on four folds is as often worse on the next season.

    Args:
        start: As `start_of` returns it.
        sums: Of a target, all cities' together.
        sizes: Of its groups of regressors.
        noise: As `noise_by_lead` returns it.
    """
    if _days(sums) < CHOICE_DAYS:
        return start
    leads = np.linspace(0, sums.rows.shape[2] - 1, CHOICE_LEADS).round().astype(np.int64)
    judged = Sums(*(part[:, :, leads] for part in sums))
    rests = {hours: list(judged.smoothed(hours).by_row())[1:] for hours in SMOOTHING_HOURS}

    def error(choice: Choice) -> Double:
        penalty = choice.penalty(sizes, noise[leads])
        return _left_out_error(judged, rests[choice.smoothing_hours], penalty).sum(axis=1)

    best, least = start, error(start)
    for setting in _varied(sums, sizes):
        found = {other: error(other) for other in _alternatives(best, setting)}
        candidate = min(found, key=lambda other: float(found[other].sum()))
        if beyond_chance(least - found[candidate]):
            best, least = candidate, found[candidate]
    return best


def beyond_chance(gain: Double) -> bool:
    """Tell whether the mean of gains on parts of a record is above their standard error.

    The one-standard-error rule (Breiman, Friedman, Olshen and Stone 1984, Classification and Regression
    Trees, 3.4.3), on paired differences.
    """
    return bool(gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)))


def _days(sums: Sums) -> float:
    """Return the days of record in the sums."""
    return float(sums.rows[:, :, 0].sum()) / HOURS_PER_DAY


def _varied(sums: Sums, sizes: Sequence[int]) -> list[int]:
    """Return the settings to vary: groups with regressors that the record is long enough for; smoothing."""
    groups = [group for group, size in enumerate(sizes[:-1]) if size]
    if _days(sums) < HOURLY_MINIMUM_DAYS:
        groups = [group for group in groups if group != HOURLY_GROUP]
    return [*groups, len(START.penalties)]


def _alternatives(choice: Choice, setting: int) -> list[Choice]:
    """Return the choices that differ in one setting: a group's penalty, or, last, the smoothing."""
    if setting == len(choice.penalties):
        changed = [choice._replace(smoothing_hours=hours) for hours in SMOOTHING_HOURS]
    else:
        before, after = choice.penalties[:setting], choice.penalties[setting + 1 :]
        changed = [choice._replace(penalties=(*before, penalty, *after)) for penalty in PENALTIES]
    return [other for other in changed if other != choice]


def _left_out_error(sums: Sums, rests: Iterable[Sums], penalty: Double) -> Double:
    """Return sums of squared errors `(FOLDS, L)`, each fold forecast by the sums without it."""
    total = np.empty((FOLDS, sums.rows.shape[2]))
    for fold, rest in enumerate(rests):
        weights = solve(rest, penalty)
        quadratic = (sums.gram[fold] @ weights[..., None])[..., 0] - 2.0 * sums.moment[fold]
        total[fold] = (sums.square[fold] + (weights * quadratic).sum(axis=-1)).sum(axis=0)
    return total
