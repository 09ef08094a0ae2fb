"""One city's hours as arrays, and windows of them: indices into one array, nothing per item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.clock import require_utc
from urbanwm.contracts.signals import HORIZON_HOURS_MAX
from urbanwm.errors import BadInput
from urbanwm.features.calendar import CALENDAR_NAMES, HOURS_PER_DAY, local_days
from urbanwm.features.columns import (
    action_columns,
    column_of,
    forecast_columns,
    observed_columns,
    with_forecasts,
)
from urbanwm.features.direct import DirectForecast, fill_direct, fold_of
from urbanwm.features.history import SeasonalHistory, build_history
from urbanwm.features.names import CITY_PREFIX, HOURLY_HOURS, HOURLY_TARGET, LEAD_NAMES
from urbanwm.features.spec import FeatureSpec
from urbanwm.features.usual import INDEX, traffic_level
from urbanwm.features.weather import state_columns
from urbanwm.features.windows import Windows

HOUR = pd.Timedelta(hours=1)
LEAD_DECAY_HOURS = (6.0, 24.0)


@dataclass(frozen=True)
class CitySeries:
    """The hourly grid of one city: N hours, float32.

    Attributes:
        city: Name.
        index: `(N,)` UTC, hourly, no gaps.
        spec: What the columns mean.
        observed: `(N, F)` normalised, 0 where missing; `observed_mask` 1.0 = present.
        action: `(N, A)` levers (urban: difference from the status quo).
        target: `(N, 3)` normalised, 0 where missing; `target_mask` 1.0 = present.
        calendar: `(N, calendar)` local-time features, those that the spec names.
        state: `(N, state)` weather just before each hour.
        forecast: `(N, FORECAST_DAYS, S)` weather forecasts of each hour, by days ahead; NaN = none.
        history: Seasonal predictions; None for the reference.
        usual: `(N,)` traffic level that stands for an index of 1 (`usual.py`).
        local_hour: `(N,)` hour of the city's day.
        by_fold: In training, the direct forecast with one row per fold, fitted without that fold; it
            stands in for the spec's.
    """

    city: str
    index: pd.DatetimeIndex
    spec: FeatureSpec
    observed: NDArray[np.float32]
    observed_mask: NDArray[np.float32]
    action: NDArray[np.float32]
    target: NDArray[np.float32]
    target_mask: NDArray[np.float32]
    calendar: NDArray[np.float32]
    state: NDArray[np.float32]
    forecast: NDArray[np.float32]
    history: SeasonalHistory | None
    usual: NDArray[np.float32]
    local_hour: NDArray[np.int64]
    by_fold: DirectForecast | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.index)

    def position(self, moment: datetime | pd.Timestamp) -> int:
        """Return the grid position of an hour (0 = first row; the hour after the last row is allowed).

        Raises:
            BadInput: The time is naive or lies outside the grid.
        """
        stamp = pd.Timestamp(require_utc(moment, "origin"))
        position = int((stamp - self.index[0]) // HOUR)
        if not 0 <= position <= len(self):
            raise BadInput(
                "the hour lies outside the series",
                field="origin",
                value=stamp.isoformat(),
                allowed=f"{self.index[0].isoformat()} to {(self.index[-1] + HOUR).isoformat()}",
            )
        return position

    def windows(
        self, origins: NDArray[np.int64] | Sequence[int], context_hours: int, horizon_hours: int
    ) -> Windows:
        """Cut windows around origins, in one gather per array.

        Args:
            origins: `(B,)` grid positions of the first horizon hour, `context_hours` ≤ origin ≤ N - horizon.
            context_hours: C hours before each origin.
            horizon_hours: H hours from each origin on, at most 168.

        Raises:
            BadInput: A window leaves the grid or the horizon is longer than a week.
        """
        start = np.asarray(origins, dtype=np.int64).reshape(-1)
        if not 1 <= horizon_hours <= HORIZON_HOURS_MAX:
            raise BadInput(
                "the horizon is not possible",
                field="horizon_hours",
                value=horizon_hours,
                allowed=f"1 to {HORIZON_HOURS_MAX}",
            )
        outside = (start < context_hours) | (start + horizon_hours > len(self))
        if start.size == 0 or outside.any():
            raise BadInput(
                "a window leaves the series",
                field="origins",
                value=int(start[outside][0]) if outside.any() else None,
                allowed=f"{context_hours} to {len(self) - horizon_hours}",
            )
        hours = start[:, None] + np.arange(-context_hours, horizon_hours)
        known_at = np.minimum(hours, start[:, None])
        known, skip = self._known(hours, known_at)
        cities = self.spec.cities
        city_index = cities.index(self.city) if self.city in cities else -1
        windows = Windows(
            observed=self.observed[hours],
            observed_mask=self.observed_mask[hours],
            known=known,
            action=self.action[hours],
            target=self.target[hours],
            target_mask=self.target_mask[hours],
            skip=skip,
            hourly=self._hourly(known_at, context_hours),
            usual=self.usual[hours],
            local_hour=self.local_hour[hours],
            city_index=np.full(len(start), city_index, dtype=np.int64),
            context_hours=context_hours,
        )
        self.fill_direct(windows, start)
        return windows

    def fill_direct(self, windows: Windows, origins: NDArray[np.int64]) -> None:
        """Fill the direct forecast in, in place, where one has been fitted.

        Args:
            windows: This city's, cut around `origins`; perhaps altered since.
            origins: `(B,)` grid positions.
        """
        direct = self.spec.direct
        if self.by_fold is not None:
            fill_direct(windows, self.spec, self.by_fold, fold_of(origins))
        elif direct is not None:
            fill_direct(windows, self.spec, direct, np.full(len(origins), direct.row(self.city)))

    def _known(
        self, hours: NDArray[np.int64], known_at: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return `known (B, T, K)` and `skip (B, T, 3, J)` of hours, as known at the start of `known_at`.

        In the context that is the hour itself, one step ahead; from the origin on it is the origin.
        """
        shape = hours.shape
        if self.history is None:
            return np.zeros((*shape, 0), np.float32), np.zeros((*shape, self.target.shape[1], 0), np.float32)
        skip, missing = self.history.ahead(hours, known_at)
        lead = (hours - known_at).astype(np.float32)
        forecast = self.forecast[hours, lead.astype(np.int64) // HOURS_PER_DAY]
        absent = np.isnan(forecast)
        parts = [
            self.calendar[hours],
            lead_features(lead),
            skip.reshape(*shape, -1),
            missing,
            self.state[known_at],
        ]
        parts += [np.where(absent, np.float32(0.0), forecast), absent.astype(np.float32)]
        names = [name for name in self.spec.known_names if name.startswith(CITY_PREFIX)]
        own_city = np.array([name == f"{CITY_PREFIX}{self.city}" for name in names], np.float32)
        parts.append(np.broadcast_to(own_city, (*shape, len(names))))
        return np.concatenate(parts, axis=-1), skip

    def _hourly(self, known_at: NDArray[np.int64], context_hours: int) -> NDArray[np.float32]:
        """Return the last levels of `HOURLY_TARGET` before `known_at`, `(B, T, HOURLY_HOURS)`."""
        if self.history is None:
            return np.zeros((*known_at.shape, 0), np.float32)
        until_origin = known_at[:, : context_hours + 1]
        found = self.history.before(until_origin, self.spec.targets.index(HOURLY_TARGET), HOURLY_HOURS)
        held = np.minimum(np.arange(known_at.shape[1]), context_hours)
        return found[:, held]


def lead_features(lead: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `(..., 3)` features of the hours since the origin (0 throughout the context)."""
    features = np.empty((*lead.shape, len(LEAD_NAMES)), dtype=np.float32)
    for column, decay_hours in enumerate(LEAD_DECAY_HOURS):
        features[..., column] = np.exp(-lead / decay_hours)
    features[..., -1] = np.log1p(lead) / np.log1p(HORIZON_HOURS_MAX)
    return features


def build_series(
    frame: pd.DataFrame,
    city_name: str,
    spec: FeatureSpec,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> CitySeries:
    """Turn a city's observations into arrays on a gap-free hourly grid.

    Args:
        frame: Columns = signals (any subset), index UTC; NaN or an absent row = missing.
        city_name: A city that `spec` knows (`FeatureSpec.with_city` for a new one).
        spec: Names, scales, calendars.
        start: First hour of the grid; default the first row.
        end: Hour after the last of the grid; default the hour after the last row. Later than the data for
            serving: the future is all missing.

    Raises:
        BadInput: The index is empty, naive, duplicated or not on whole hours.
    """
    grid = _hour_grid(frame, start, end)
    # Rows outside the grid are cut: a serving window must not see what lies at or after its end.
    aligned = frame if grid.equals(frame.index) else frame.reindex(grid)
    days = local_days(grid, spec.calendars[city_name])
    raw = np.stack([column_of(aligned, name) for name in spec.targets], axis=1)
    usual = np.ones(len(grid))
    if spec.kind == "urban":
        raw[:, spec.targets.index(INDEX)], usual = traffic_level(
            aligned, days, spec.scaler(city_name).mean_volume
        )
    normalised = spec.normalise_targets(city_name, raw).astype(np.float32)
    observed = observed_columns(aligned, city_name, spec, days, raw)
    present, target_present = np.isfinite(observed), np.isfinite(normalised)
    normalised[~target_present] = np.nan
    return CitySeries(
        city=city_name,
        index=grid,
        spec=spec,
        observed=np.where(present, observed, np.float32(0.0)),
        observed_mask=present.astype(np.float32),
        action=action_columns(aligned, city_name, spec),
        target=np.where(target_present, normalised, np.float32(0.0)),
        target_mask=target_present.astype(np.float32),
        calendar=days.features[:, [i for i, name in enumerate(CALENDAR_NAMES) if name in spec.known_names]],
        state=state_columns(observed, city_name, spec),
        forecast=forecast_columns(aligned, city_name, spec),
        history=build_history(normalised, days) if spec.kind == "urban" else None,
        usual=usual.astype(np.float32),
        local_hour=days.hour,
    )


def serving_series(
    frame: pd.DataFrame, city_name: str, spec: FeatureSpec, origin: datetime, horizon_hours: int
) -> CitySeries:
    """Return the series of a live forecast: whatever is known before `origin`, then the unknown.

    A history shorter than the context is padded with missing hours.

    Args:
        frame: History; of rows at or after `origin` only the weather forecasts are seen, each where its
            days ahead show that it was known.
        city_name: A city that `spec` knows.
        spec: Names, scales, calendars.
        origin: First hour to forecast (whole hour, aware).
        horizon_hours: 1 to 168.
    """
    first = pd.Timestamp(require_utc(origin, "origin"))
    past = frame[frame.index < first]
    context_start = first - spec.context_hours * HOUR
    start = min(context_start, past.index[0]) if len(past) else context_start
    seen = with_forecasts(past, frame, first)
    return build_series(seen, city_name, spec, start=start, end=first + timedelta(hours=horizon_hours))


def serving_windows(
    frame: pd.DataFrame, city_name: str, spec: FeatureSpec, origin: datetime, horizon_hours: int
) -> Windows:
    """Return the one window of a live forecast; arguments as `serving_series`."""
    series = serving_series(frame, city_name, spec, origin, horizon_hours)
    return series.windows([series.position(origin)], spec.context_hours, horizon_hours)


def _hour_grid(frame: pd.DataFrame, start: datetime | None, end: datetime | None) -> pd.DatetimeIndex:
    """Return the gap-free hourly UTC index from `start` (or the first row) to before `end`."""
    index = frame.index
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
        raise BadInput(
            "the frame needs a time index with a time zone", field="timestamp", allowed="UTC hours"
        )
    if len(index) == 0 and (start is None or end is None):
        raise BadInput("the frame has no rows", field="frame", value=0, allowed="one row or more")
    if index.has_duplicates or not index.is_monotonic_increasing:
        raise BadInput(
            "hours are repeated or out of order", field="timestamp", allowed="increasing UTC hours"
        )
    first = index[0] if start is None else pd.Timestamp(require_utc(start, "start"))
    after = index[-1] + HOUR if end is None else pd.Timestamp(require_utc(end, "end"))
    grid = pd.date_range(first, after, freq="h", inclusive="left", tz="UTC", unit="us")
    if len(grid) == 0 or first != first.floor("h"):
        raise BadInput("the grid is empty or not on whole hours", field="start", value=str(first))
    return grid
