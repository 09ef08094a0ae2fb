"""Rolling-origin backtests: what a forecaster would have said at each origin, knowing only the past."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.cities import City
from urbanwm.clock import require_utc
from urbanwm.contracts.scenario import Forecaster
from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.errors import BadInput, DataUnavailable, InternalContractBroken
from urbanwm.evaluation.forecasts import COLUMNS, KEY_COLUMNS, QUANTILE_COLUMNS
from urbanwm.features import with_forecasts

DEFAULT_HORIZON_HOURS = 48
DEFAULT_SAMPLES = 200
HOURS_PER_DAY = 24


@runtime_checkable
class BatchForecaster(Protocol):
    """A forecaster that answers many origins at once, each from the hours before it only."""

    def forecast_batch(
        self,
        frame: pd.DataFrame,
        city: City,
        origins: Sequence[datetime],
        horizon_hours: int,
        samples: int,
        seed: int,
    ) -> NDArray[np.float64]:
        """Return members `(origins, samples, horizon_hours, 3)` in physical units."""
        ...


def local_midnights(
    city: City, start: datetime, end: datetime, every_hours: int = HOURS_PER_DAY
) -> list[datetime]:
    """Return the origins in [start, end), UTC: steps of the local clock, counted from a local midnight.

    Multiples of 24 h stay on local midnight through both clock changes.

    Raises:
        BadInput: A time is naive, the span holds no origin, or the step is not positive.
    """
    first, last = require_utc(start, "start"), require_utc(end, "end")
    if every_hours < 1:
        raise BadInput("origins need a step", field="every_hours", value=every_hours, allowed="1 or more")
    midnight = city.local_day(first)
    days = (city.local_day(last) - midnight).days + 1
    steps = (divmod(hours, HOURS_PER_DAY) for hours in range(0, days * HOURS_PER_DAY, every_hours))
    # An hour that does not exist locally is the next one, which may be a step already.
    moments = dict.fromkeys(city.local_hour(midnight + timedelta(days=day), hour) for day, hour in steps)
    origins = [moment for moment in moments if first <= moment < last]
    if not origins:
        raise BadInput(
            "there is no origin between start and end",
            field="start",
            value=first.isoformat(),
            allowed=f"a local midnight of {city.name} before {last.isoformat()}",
        )
    return origins


def backtest(
    city: City,
    frame: pd.DataFrame,
    forecaster: Forecaster,
    *,
    start: datetime,
    end: datetime,
    every_hours: int = HOURS_PER_DAY,
    horizon_hours: int = DEFAULT_HORIZON_HOURS,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Forecast from every origin in [start, end) and set the forecasts beside what happened.

    Args:
        city: Whose origins are local midnights.
        frame: Hourly observations, UTC index, columns = signals.
        forecaster: Asked in one batch if it can, else origin by origin with the rows before the origin only.
        start: First possible origin.
        end: End of the origins, exclusive; the horizon may reach beyond it, and beyond the data.
        every_hours: Step between origins.
        horizon_hours: Leads 1 to this.
        samples: Members whose quantiles are taken (linear interpolation).
        seed: Of the members.

    Returns:
        The columns of DESIGN §6, one row per origin, lead and signal; `observed` is NaN where nothing was
        measured, the forecast is NaN for a signal that the forecaster knows nothing about.

    Raises:
        BadInput: There is no origin.
        DataUnavailable: No row lies before the first origin.
    """
    origins = local_midnights(city, start, end, every_hours)
    return forecast_table(
        city, frame, forecaster, origins, horizon_hours=horizon_hours, samples=samples, seed=seed
    )


def forecast_table(
    city: City,
    frame: pd.DataFrame,
    forecaster: Forecaster,
    origins: Sequence[datetime],
    *,
    horizon_hours: int = DEFAULT_HORIZON_HOURS,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Do what `backtest` does, from origins chosen by the caller (whole hours, UTC, increasing)."""
    if frame.empty or frame.index[0] >= origins[0]:
        raise DataUnavailable(
            f"no data of {city.name} before the first origin",
            field="start",
            value=origins[0].isoformat(),
            allowed="a time after the first observation",
        )
    members = _members(city, frame, forecaster, origins, horizon_hours, samples, seed)
    expected = (len(origins), samples, horizon_hours, len(TARGETS))
    if members.shape != expected:
        raise InternalContractBroken(
            "the forecaster answered in another shape",
            field="members",
            value=members.shape,
            allowed=str(expected),
        )
    # (origins, horizon, signal) per statistic.
    quantiles = np.quantile(members, QUANTILE_LEVELS, axis=1)
    return forecast_rows(city.name, frame, origins, members.mean(axis=1), quantiles)


def _members(
    city: City,
    frame: pd.DataFrame,
    forecaster: Forecaster,
    origins: Sequence[datetime],
    horizon_hours: int,
    samples: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return members `(origins, samples, horizon_hours, 3)`."""
    if isinstance(forecaster, BatchForecaster):
        # Of what lies at or after the last origin, weather forecasts alone can be known at any of them.
        known = with_forecasts(frame[frame.index < origins[-1]], frame, origins[-1])
        return np.asarray(forecaster.forecast_batch(known, city, origins, horizon_hours, samples, seed))
    forecasts = (
        forecaster.forecast(frame[frame.index < origin], city, origin, horizon_hours, samples, seed)
        for origin in origins
    )
    return np.stack([forecast.members for forecast in forecasts])


def forecast_rows(
    city: str,
    frame: pd.DataFrame,
    origins: Sequence[datetime],
    mean: NDArray[np.float64],
    quantiles: NDArray[np.float64],
) -> pd.DataFrame:
    """Lay forecasts out as rows, beside the observations: the columns of DESIGN §6.

    Args:
        city: Name.
        frame: Observations.
        origins: Of the forecasts.
        mean: `(origins, horizon, 3)`.
        quantiles: `(7, origins, horizon, 3)`.
    """
    _, horizon, signals = mean.shape
    start = pd.DatetimeIndex(origins).tz_convert("UTC").as_unit("us")
    hours = (
        start.tz_localize(None).to_numpy()[:, None] + np.arange(horizon) * np.timedelta64(1, "h")
    ).reshape(-1)
    timestamp = pd.DatetimeIndex(hours, tz="UTC")
    observed = frame.reindex(index=timestamp, columns=list(TARGETS)).to_numpy(dtype=np.float64)
    rows = {
        "city": np.full(mean.size, city, dtype=object),
        "origin": start.repeat(horizon * signals),
        "timestamp": timestamp.repeat(signals),
        "lead_hours": np.tile(np.arange(1, horizon + 1, dtype=np.int16).repeat(signals), len(origins)),
        "signal": np.tile(np.array(TARGETS, dtype=object), len(timestamp)),
        "mean": mean.reshape(-1),
        **dict(zip(QUANTILE_COLUMNS, quantiles.reshape(len(QUANTILE_LEVELS), -1), strict=True)),
        "observed": observed.reshape(-1),
    }
    return pd.DataFrame(rows)[list(COLUMNS)].sort_values(list(KEY_COLUMNS), ignore_index=True)
