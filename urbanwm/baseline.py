"""The deterministic baseline: a similar-day climatology with the recent level. It needs no model file.

The expectation of an hour is the mean of the last eight days of its kind at its local hour, plus the recent
deviation from such means, fading with the lead. The spread comes from its own past errors, by lead and local
hour. Where there is no history, the caller's `initial_state` takes its place; nothing is invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.cities import City
from urbanwm.clock import floor_hour, require_utc
from urbanwm.contracts.scenario import Forecast, InitialState, ServedBy
from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import DataUnavailable
from urbanwm.features.calendar import HOURS_PER_DAY, LocalDays, local_days
from urbanwm.features.history import SeasonalHistory, build_history
from urbanwm.features.names import LOG_SIGNALS, skip_names
from urbanwm.features.spec import calendar_of
from urbanwm.freshness import ages_hours, freshness_reasons, known_before
from urbanwm.members import couple, member_levels
from urbanwm.past_errors import ERROR_LEADS, PastErrors
from urbanwm.policy import clip_to_vocabulary

Float = NDArray[np.float64]

HISTORY_HOURS = 400 * HOURS_PER_DAY
"""Older history is not looked at: a year of days, and the days before it that the first means need."""
MINIMUM_VALUES = 72
"""Three days of values; with fewer there is no shape of the day to speak of."""
ORIGIN_STEP_HOURS = HOURS_PER_DAY + 1
LEVEL_WEIGHTS = {"deviation_6h": 0.5, "deviation_24h": 0.5}
"""Share of the mean deviation over the last 6 h and 24 h: best of six pairs on Madrid's training rows."""
_COLUMN = {name: position for position, name in enumerate(skip_names())}
_LOG = np.array([name in LOG_SIGNALS for name in TARGETS])


def daily_factor(hours: NDArray[np.int64]) -> Float:
    """Return the reference system's shape of the day, `0.8 + 0.4 · |hour − 12| / 12`, local hours 0-23."""
    return 0.8 + 0.4 * np.abs(hours - 12) / 12


def reference_forecast(
    initial_state: InitialState, city: City, start: datetime, horizon_hours: int, samples: int
) -> Forecast:
    """Return the reference form: `initial_state · daily_factor`, all members alike, before any policy.

    Members `(samples, horizon_hours, 3)` are bare levels, unclipped; absolute factors come on top of them.
    """
    hours = pd.date_range(require_utc(start, "start"), periods=horizon_hours, freq="h").tz_convert(
        city.timezone
    )
    shape = daily_factor(hours.hour.to_numpy(dtype=np.int64))
    levels = np.array([getattr(initial_state, name) for name in TARGETS], dtype=np.float64)
    members = np.broadcast_to(shape[:, None] * levels, (samples, horizon_hours, len(TARGETS))).copy()
    reason = (
        "deterministic baseline in its reference form: initial_state times an illustrative shape of the day, "
        "no spread known"
    )
    return Forecast(members, "baseline", degraded=True, reasons=[reason], reference_form=True)


@dataclass(frozen=True)
class _Climatology:
    """A city's history on an hourly grid that reaches into the future; PM2.5 as log1p."""

    index: pd.DatetimeIndex
    days: LocalDays
    values: NDArray[np.float32]
    seasonal: SeasonalHistory

    def expect(self, origins: NDArray[np.int64], horizon_hours: int) -> Float:
        """Return expectations `(B, H, 3)` from what is known before each origin; NaN where nothing is."""
        hours = origins[:, None] + np.arange(horizon_hours)
        means, missing = self.seasonal.ahead(hours, origins[:, None])
        expected = means[..., _COLUMN["similar_8"]].astype(np.float64)
        for name, weight in LEVEL_WEIGHTS.items():
            expected += weight * means[..., _COLUMN[name]]
        expected[missing > 0] = np.nan
        return expected


def _climatology(history: pd.DataFrame, city: City, end: datetime) -> _Climatology:
    """Lay the history out up to `end` (exclusive), the future all missing."""
    index = pd.date_range(history.index[0], end, freq="h", inclusive="left", tz="UTC")
    raw = history.reindex(index=index, columns=list(TARGETS)).to_numpy(dtype=np.float64)
    values = np.where(_LOG, np.log1p(raw), raw).astype(np.float32)
    days = local_days(index, calendar_of(city))
    return _Climatology(index, days, values, build_history(values, days))


class BaselineForecaster:
    """Forecasts by climatology and recent level; deterministic given the seed."""

    served_by: ServedBy = "baseline"

    def forecast(
        self,
        history: pd.DataFrame | None,
        city: City,
        start: datetime,
        horizon_hours: int,
        samples: int,
        seed: int,
        initial_state: InitialState | None = None,
    ) -> Forecast:
        """Return members `(samples, horizon_hours, 3)` of the status quo from `start` on.

        Only rows of `history` before `start` are read. A signal without history takes `initial_state` times
        the reference shape of the day, and without that is NaN, with a reason.

        Raises:
            DataUnavailable: No target has history and there is no `initial_state`.
        """
        origin = floor_hour(require_utc(start, "start"))
        known = known_before(history, origin, HISTORY_HOURS, initial_state)
        reasons = ["answered by the deterministic baseline, not by the world model"]
        members = np.full((samples, horizon_hours, len(TARGETS)), np.nan)
        if known is not None:
            members = self._members(known, city, [origin], horizon_hours, samples, seed)[0]
        # The caller's state counts as an observation of the last hour, so its age is not that of the feeds.
        reasons += freshness_reasons(ages_hours(known, origin))
        empty = [i for i, name in enumerate(TARGETS) if np.isnan(members[..., i]).all()]
        if empty and initial_state is not None:
            stand_in = reference_forecast(initial_state, city, origin, horizon_hours, samples).members
            members[..., empty] = clip_to_vocabulary(stand_in)[..., empty]
            names = ", ".join(TARGETS[i] for i in empty)
            reasons.append(
                f"{names}: no history; initial_state with an illustrative shape of the day, no spread"
            )
        elif len(empty) == len(TARGETS):
            raise DataUnavailable(
                f"no recent data for {', '.join(TARGETS)} in {city.name}, and no initial_state",
                field="initial_state",
                allowed="an initial_state in the request, or data in the lake",
            )
        elif empty:
            reasons.append(
                f"{', '.join(TARGETS[i] for i in empty)}: no data and no initial_state; not answered"
            )
        return Forecast(members, self.served_by, degraded=True, reasons=reasons)

    def forecast_batch(
        self,
        frame: pd.DataFrame,
        city: City,
        origins: Sequence[datetime],
        horizon_hours: int,
        samples: int,
        seed: int,
    ) -> Float:
        """Return members `(origins, samples, horizon_hours, 3)`; each origin sees only hours before it."""
        return self._members(
            frame, city, [require_utc(o, "origin") for o in origins], horizon_hours, samples, seed
        )

    @staticmethod
    def _members(
        frame: pd.DataFrame,
        city: City,
        origins: Sequence[datetime],
        horizon_hours: int,
        samples: int,
        seed: int,
    ) -> Float:
        frame = frame[frame.index >= min(origins) - timedelta(hours=HISTORY_HOURS)]
        if frame.empty or frame.index[0] >= min(origins):
            return np.full((len(origins), samples, horizon_hours, len(TARGETS)), np.nan)
        climatology = _climatology(frame, city, max(origins) + timedelta(hours=horizon_hours))
        positions = np.array([int(climatology.index.get_loc(origin)) for origin in origins], dtype=np.int64)
        ages = _ages(climatology.values, positions)
        errors = _past_errors(climatology, int(positions.max()), horizon_hours + int(ages.max(initial=0)))
        expected = climatology.expect(positions, horizon_hours)
        levels = member_levels(samples)
        grid = np.empty((len(positions), samples, horizon_hours, len(TARGETS)))
        for i, position in enumerate(positions):
            leads = 1.0 + np.arange(horizon_hours)[:, None] + ages[i]
            target_hours = climatology.days.hour[position : position + horizon_hours]
            grid[i] = expected[i] + errors.quantiles(int(position), leads, target_hours, levels)
            grid[i] = couple(grid[i], seed, errors.correlation(int(position)))
        grid[..., _LOG] = np.expm1(grid[..., _LOG])
        too_short = np.cumsum(np.isfinite(climatology.values), axis=0)[positions - 1] < MINIMUM_VALUES
        grid[np.broadcast_to(too_short[:, None, None, :], grid.shape)] = np.nan
        return clip_to_vocabulary(grid)


def _ages(values: NDArray[np.float32], positions: NDArray[np.int64]) -> Float:
    """Return the age (h) of the last value of each target at each origin, `(B, 3)`; 0 = up to date."""
    hours = np.arange(len(values))[:, None]
    last = np.maximum.accumulate(np.where(np.isfinite(values), hours, -1), axis=0)[positions - 1]
    return np.where(last < 0, 0, positions[:, None] - 1 - last).astype(np.float64)


def _past_errors(climatology: _Climatology, last_origin: int, leads: int) -> PastErrors:
    """Forecast from one origin per day of the past and return the errors, in transformed units."""
    length = int(min(max(leads, HOURS_PER_DAY), ERROR_LEADS[-1]))
    # 25 h apart, so that the origins visit every hour of the day, and on a fixed grid of time, so that they
    # do not depend on which origin asks.
    epoch_hours = int(climatology.index[0].timestamp()) // 3600
    first = 1 + -(epoch_hours + 1) % ORIGIN_STEP_HOURS
    origins = np.arange(first, last_origin - length + 1, ORIGIN_STEP_HOURS, dtype=np.int64)
    hours = origins[:, None] + np.arange(length)
    errors = climatology.values[hours] - climatology.expect(origins, length)
    return PastErrors(origins, errors, climatology.days.hour[hours])
