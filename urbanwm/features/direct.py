"""The direct forecast: for each local hour and lead, one linear regression on what the city just did.

With midnights as origins this is the classical ridge regression per lead, which ties gradient boosting on
hourly city series; outliers count less in its fit. Fitted in `urbanwm.training.direct_fit`; the world model
forecasts its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from urbanwm.features.calendar import CALENDAR_NAMES, HOURS_PER_DAY
from urbanwm.features.names import (
    DIRECT_NAMES,
    HOURLY_HOURS,
    HOURLY_TARGET,
    SPREAD,
    STATE,
    YEAR_NAMES,
    forecast_names,
    state_names,
)
from urbanwm.features.windows import Float, Windows

if TYPE_CHECKING:
    from urbanwm.features.spec import FeatureSpec

UNSEEN: Final = ""
"""Name of the row of weights for a city never seen."""
LEVELS: Final = 9
"""The first regressors are seasonal levels: last week and the similar-day means."""
LOG_ERROR_RANGE: Final = (-4.5, 2.0)
"""Bounds of the logarithm of the usual error, in standard deviations of the signal."""
SMALLEST_ERROR: Final = 3e-3
"""Added to an error, in standard deviations, before its logarithm: a lucky hit is no evidence of precision. A
larger one would be a size of its own to a load in its first hours, whose errors are a hundredth."""
_CLOCK: Final = frozenset({"hour_sin", "hour_cos", "hour_sin_2", "hour_cos_2"})
CALENDAR: Final = tuple(name for name in CALENDAR_NAMES if name not in _CLOCK | YEAR_NAMES)
"""Calendar inputs of the regressions: each has weights per hour, so the clock itself is not one of them."""


FOLDS: Final = 4
PART_HOURS: Final = 14 * HOURS_PER_DAY
"""In training, consecutive fortnights belong to different folds: none is forecast by weights that saw it."""


def fold_of(origins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fold of each window of a record, by the fortnight of its origin."""
    return origins // PART_HOURS % FOLDS


@dataclass(frozen=True)
class DirectForecast:
    """Weights of the regressions; R rows (unseen cities first), P regressors, E inputs of the error.

    There are weights for L leads, the horizon that was trained on; a later lead takes those of the same hour
    of the last day that has its own.

    Attributes:
        names: What each row is for: `UNSEEN`, then cities (in training: parts of the record).
        weights: Per target, `(R, 24, L, P)` by local hour and lead.
        variance: Per target, `(R, P, P)` covariance of the weights in units of the errors' variance.
        log_error: `(R, 3, 24, L)` logarithm of the usual size of the error, were the weights known exactly.
        error_weights: `(3, E)` what makes it larger or smaller.
    """

    names: tuple[str, ...]
    weights: tuple[NDArray[np.float32], ...]
    variance: tuple[NDArray[np.float32], ...]
    log_error: NDArray[np.float32]
    error_weights: NDArray[np.float32]

    def row(self, city: str) -> int:
        """Return a city's row; the first for a city never seen."""
        return self.names.index(city) if city in self.names else 0

    def predict(self, inputs: DirectInputs, row: NDArray[np.int64]) -> tuple[Float, Float]:
        """Return the forecast and the logarithm of its usual error, `(B, T, 3)` each.

        Args:
            inputs: Of B windows of T hours.
            row: `(B,)` row of each window.
        """
        own = self.log_error.shape[-1]
        day_before = own - HOURS_PER_DAY + (inputs.lead - own) % HOURS_PER_DAY
        later = day_before if own >= HOURS_PER_DAY else own - 1
        lead = np.where(inputs.lead < own, inputs.lead, later)
        forecast = inputs.apply(self.weights, row, lead)
        spread = np.einsum("btse,se->bts", inputs.error_inputs(forecast), self.error_weights)
        usual = (
            self.log_error[row[:, None], :, inputs.hour, lead] + spread + inputs.log_doubt(self.variance, row)
        )
        return forecast, np.clip(usual, *LOG_ERROR_RANGE)


@dataclass(frozen=True)
class DirectInputs:
    """What the regressions see of B windows of T hours.

    Attributes:
        regressors: Per target, `(B, T, P)`.
        spread: `(B, T, 3, len(SPREAD))` recent size of the deviations.
        calendar: `(B, T, len(CALENDAR))`.
        hour: `(B, T)` local hour.
        lead: `(B, T)` whole hours since the origin; 0 throughout the context, where every hour is forecast
            one ahead.
    """

    regressors: tuple[Float, ...]
    spread: Float
    calendar: Float
    hour: NDArray[np.int64]
    lead: NDArray[np.int64]

    def apply(
        self, weights: Sequence[NDArray[np.float32]], row: NDArray[np.int64], lead: NDArray[np.int64]
    ) -> Float:
        """Return forecasts `(B, T, 3)` by weights as `DirectForecast` has them, at `(B, T)` leads."""
        cell = row[:, None], self.hour, lead
        found = [np.einsum("btp,btp->bt", x, w[cell]) for x, w in zip(self.regressors, weights, strict=True)]
        return np.stack(found, axis=-1)

    def log_doubt(self, variance: Sequence[NDArray[np.float32]], row: NDArray[np.int64]) -> Float:
        """Return by how much uncertain weights widen an error, as a logarithm `(B, T, 3)`: ½ log(1 + xᵀ V x).

        The predictive variance of a linear regression. It is next to nothing on the kinds of day that the
        record is full of, and large on one that it has hardly seen, such as its second Christmas.
        """
        leverage = [((x @ v[row]) * x).sum(axis=-1) for x, v in zip(self.regressors, variance, strict=True)]
        return np.float32(0.5) * np.log1p(np.maximum(np.stack(leverage, axis=-1), np.float32(0.0)))

    def error_inputs(self, forecast: Float) -> Float:
        """Return `(B, T, 3, E)`: recent deviations, kind of day, and the forecast itself."""
        by_target = np.broadcast_to(self.calendar[:, :, None], (*forecast.shape, self.calendar.shape[-1]))
        return np.concatenate([self.spread, by_target, forecast[..., None]], axis=-1)


@dataclass(frozen=True)
class DirectColumns:
    """Where the regressions find their inputs in a spec's windows, and where their answer goes."""

    spec: FeatureSpec

    @cached_property
    def predictions(self) -> list[int]:
        """Return the skip columns that are regressors."""
        left_out = {name for name, _ in SPREAD} | set(DIRECT_NAMES)
        return [i for i, name in enumerate(self.spec.skip_names) if name not in left_out]

    def shape_free(self, target: str) -> NDArray[np.float64]:
        """Return `(P, P')`: the combinations of regressors that say nothing of the shape of a city's day.

        Seasonal levels enter as differences from their mean, and so do the last hours' levels; deviations as
        they are; calendar, weather and the constant, whose weights are one city's habits, not at all.
        """
        combined = np.zeros((sum(self.groups(target)), len(self.predictions)))
        np.fill_diagonal(combined, 1.0)
        combined[:LEVELS, self.levels_of_any_kind] -= 1.0 / LEVELS
        return combined

    @cached_property
    def levels_of_any_kind(self) -> list[int]:
        """Return the regressors that are levels and no deviations: seasonal ones, and those of last hours."""
        names = [self.spec.skip_names[i] for i in self.predictions]
        return [i for i, name in enumerate(names) if i < LEVELS or name.startswith("level_")]

    @cached_property
    def spread(self) -> list[int]:
        """Return the skip columns that say how far off the last days were."""
        return [self.spec.skip_names.index(name) for name, _ in SPREAD]

    @cached_property
    def answer(self) -> list[int]:
        """Return the skip columns that take the forecast and its usual error."""
        return [self.spec.skip_names.index(name) for name in DIRECT_NAMES]

    @cached_property
    def calendar(self) -> list[int]:
        """Return the known-ahead columns of the calendar."""
        return [self.spec.known_names.index(name) for name in CALENDAR]

    def weather(self, target: str) -> list[list[int]]:
        """Return the known-ahead columns of the weather that serves a target, group by group."""
        states = (
            state_names(self.spec.observed_names, group) if target in group.targets else () for group in STATE
        )
        groups = (*states, forecast_names(self.spec.forecast_signals))
        return [[self.spec.known_names.index(name) for name in names] for names in groups]

    @cached_property
    def answer_known(self) -> list[int]:
        """Return the known-ahead columns of the answers, target by target."""
        names = (f"{target}_{name}" for target in self.spec.targets for name in DIRECT_NAMES)
        return [self.spec.known_names.index(name) for name in names]

    def groups(self, target: str) -> tuple[int, ...]:
        """Return the sizes of a target's groups of regressors: those of a group are shrunk alike.

        Seasonal levels, recent values, the last hours one by one, calendar, the weather's groups, a constant.
        """
        hourly = HOURLY_HOURS if target == HOURLY_TARGET else 0
        recent, weather = len(self.predictions) - LEVELS, map(len, self.weather(target))
        return LEVELS, recent, hourly, len(self.calendar), *weather, 1

    @property
    def error_inputs(self) -> int:
        """Return E: recent deviations, calendar, and the forecast itself."""
        return len(SPREAD) + len(CALENDAR) + 1

    def inputs(self, windows: Windows) -> DirectInputs:
        """Read the regressions' inputs out of windows."""
        calendar = windows.known[..., self.calendar]
        one = np.ones_like(calendar[..., :1])
        regressors = []
        for position, target in enumerate(self.spec.targets):
            hourly = [windows.hourly] if target == HOURLY_TARGET else []
            weather = windows.known[..., list(chain.from_iterable(self.weather(target)))]
            own = windows.skip[..., position, self.predictions]
            regressors.append(np.concatenate([own, *hourly, calendar, weather, one], axis=-1))
        lead = np.maximum(np.arange(windows.known.shape[1]) - windows.context_hours, 0)
        return DirectInputs(
            tuple(regressors),
            windows.skip[..., self.spread],
            calendar,
            windows.local_hour,
            np.broadcast_to(lead, windows.local_hour.shape),
        )


def fill_direct(windows: Windows, spec: FeatureSpec, direct: DirectForecast, row: NDArray[np.int64]) -> None:
    """Fill the direct forecast in, in place, in `skip` and in `known`.

    A target without any history keeps zeros, as everything else about it is 0.
    """
    columns = DirectColumns(spec)
    answer = np.stack(direct.predict(columns.inputs(windows), row), axis=-1)
    absent = [spec.known_names.index(f"{target}_history_missing") for target in spec.targets]
    answer = np.where(windows.known[..., absent, None] > 0, np.float32(0.0), answer)
    windows.skip[..., columns.answer] = answer
    windows.known[..., columns.answer_known] = answer.reshape(*answer.shape[:2], -1)
