"""The direct forecast: for each local hour and lead, one linear regression on what the city just did.

With midnights as origins this is the classical ridge regression per lead, which ties gradient boosting on
hourly city series. Fitted in `urbanwm.training.direct_fit`; the world model forecasts its error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from urbanwm.features.calendar import CALENDAR_NAMES, HOURS_PER_DAY
from urbanwm.features.names import (
    DIRECT_NAMES,
    SPREAD,
    STATE,
    YEAR_NAMES,
    forecast_names,
    state_features,
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
    """Weights of the regressions; R rows (unseen cities first), P regressors, E inputs of the error size.

    There are weights for L leads, the horizon that was trained on; a later lead takes those of the same hour
    of the last day that has its own.

    Attributes:
        names: What each row is for: `UNSEEN`, then cities (in training: parts of the record).
        weights: `(R, 3, 24, L, P)` by target, local hour and lead.
        variance: `(R, 3, P, P)` covariance of the weights in units of the errors' variance.
        log_error: `(R, 3, 24, L)` logarithm of the usual size of the error, were the weights known exactly.
        error_weights: `(3, E)` what makes it larger or smaller.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float32]
    variance: NDArray[np.float32]
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
        cell = (row[:, None], slice(None), inputs.hour, lead)
        forecast = np.einsum("btsp,btsp->bts", inputs.regressors, self.weights[cell])
        spread = np.einsum("btse,se->bts", inputs.error_inputs(forecast), self.error_weights)
        doubt = log_doubt(inputs.regressors, self.variance[row])
        return forecast, np.clip(self.log_error[cell] + spread + doubt, *LOG_ERROR_RANGE)


def log_doubt(regressors: Float, variance: Float) -> Float:
    """Return by how much uncertain weights widen an error, as a logarithm `(B, T, 3)`: ½ log(1 + xᵀ V x).

    The predictive variance of a linear regression. It is next to nothing on the kinds of day that the record
    is full of, and large on one that it has hardly seen, such as its second Christmas.

    Args:
        regressors: x `(B, T, 3, P)`.
        variance: V `(B, 3, P, P)`.
    """
    by_target = np.moveaxis(regressors, 2, 1)
    leverage = ((by_target @ variance) * by_target).sum(axis=-1)
    return np.moveaxis(np.float32(0.5) * np.log1p(np.maximum(leverage, np.float32(0.0))), 1, 2)


@dataclass(frozen=True)
class DirectInputs:
    """What the regressions see of B windows of T hours.

    Attributes:
        regressors: `(B, T, 3, P)`.
        spread: `(B, T, 3, len(SPREAD))` recent size of the deviations.
        calendar: `(B, T, len(CALENDAR))`.
        hour: `(B, T)` local hour.
        lead: `(B, T)` whole hours since the origin; 0 throughout the context, where every hour is forecast
            one ahead.
    """

    regressors: Float
    spread: Float
    calendar: Float
    hour: NDArray[np.int64]
    lead: NDArray[np.int64]

    def error_inputs(self, forecast: Float) -> Float:
        """Return `(B, T, 3, E)`: recent deviations, kind of day, and the forecast itself."""
        by_target = np.broadcast_to(self.calendar[:, :, None], (*forecast.shape, self.calendar.shape[-1]))
        return np.concatenate([self.spread, by_target, forecast[..., None]], axis=-1)


class RegressorGroup(NamedTuple):
    """Regressors that are shrunk alike, and whose forecast they serve."""

    size: int
    targets: tuple[str, ...]


@dataclass(frozen=True)
class DirectColumns:
    """Where the regressions find their inputs in a spec's windows, and where their answer goes."""

    spec: FeatureSpec

    @cached_property
    def predictions(self) -> list[int]:
        """Return the skip columns that are regressors."""
        left_out = {name for name, _ in SPREAD} | set(DIRECT_NAMES)
        return [i for i, name in enumerate(self.spec.skip_names) if name not in left_out]

    @cached_property
    def shape_free(self) -> NDArray[np.float64]:
        """Return `(P, P')`: the combinations of regressors that say nothing of the shape of a city's day.

        Seasonal levels enter as differences from their mean, and so do the last hours' levels; deviations as
        they are; calendar, weather and the constant, whose weights are one city's habits, not at all.
        """
        combined = np.zeros((self.width, len(self.predictions)))
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

    @cached_property
    def weather(self) -> list[int]:
        """Return the known-ahead columns of the weather, at the origin and as forecast."""
        names = (*state_names(self.spec.observed_names), *forecast_names(self.spec.forecast_signals))
        return [self.spec.known_names.index(name) for name in names]

    @cached_property
    def answer_known(self) -> list[int]:
        """Return the known-ahead columns of the answers, target by target."""
        names = (f"{target}_{name}" for target in self.spec.targets for name in DIRECT_NAMES)
        return [self.spec.known_names.index(name) for name in names]

    @cached_property
    def groups(self) -> tuple[RegressorGroup, ...]:
        """Return the regressors, group by group: those of a group are shrunk alike."""
        all_targets = self.spec.targets
        recent = len(self.predictions) - LEVELS
        state = (
            RegressorGroup(len(state_features(group, self.spec.observed_names)), group.targets)
            for group in STATE
        )
        forecasts = len(forecast_names(self.spec.forecast_signals))
        return (
            RegressorGroup(LEVELS, all_targets),
            RegressorGroup(recent, all_targets),
            RegressorGroup(len(self.calendar), all_targets),
            *state,
            RegressorGroup(forecasts, all_targets),
            RegressorGroup(1, all_targets),
        )

    @property
    def width(self) -> int:
        """Return P."""
        return sum(group.size for group in self.groups)

    def used(self, target: str) -> NDArray[np.int64]:
        """Return the regressors of a target; the weights of the others are 0."""
        uses = np.repeat([target in group.targets for group in self.groups], [g.size for g in self.groups])
        return np.flatnonzero(uses)

    @property
    def error_inputs(self) -> int:
        """Return E: recent deviations, calendar, and the forecast itself."""
        return len(SPREAD) + len(CALENDAR) + 1

    def inputs(self, windows: Windows) -> DirectInputs:
        """Read the regressions' inputs out of windows."""
        calendar = windows.known[..., self.calendar]
        shared = np.concatenate(
            [calendar, windows.known[..., self.weather], np.ones_like(calendar[..., :1])], axis=-1
        )
        own = windows.skip[..., self.predictions]
        by_target = np.broadcast_to(shared[:, :, None], (*own.shape[:-1], shared.shape[-1]))
        lead = np.maximum(np.arange(windows.known.shape[1]) - windows.context_hours, 0)
        return DirectInputs(
            np.concatenate([own, by_target], axis=-1),
            windows.skip[..., self.spread],
            calendar,
            windows.local_hour,
            np.broadcast_to(lead, windows.local_hour.shape),
        )


def with_direct(
    windows: Windows, spec: FeatureSpec, direct: DirectForecast, row: NDArray[np.int64]
) -> Windows:
    """Return the windows with the direct forecast filled in, in `skip` and in `known`.

    A target without any history keeps zeros, as everything else about it is 0.
    """
    columns = DirectColumns(spec)
    answer = np.stack(direct.predict(columns.inputs(windows), row), axis=-1)
    absent = [spec.known_names.index(f"{target}_history_missing") for target in spec.targets]
    answer = np.where(windows.known[..., absent, None] > 0, np.float32(0.0), answer)
    skip, known = windows.skip.copy(), windows.known.copy()
    skip[..., columns.answer] = answer
    known[..., columns.answer_known] = answer.reshape(*answer.shape[:2], -1)
    return replace(windows, skip=skip, known=known)
