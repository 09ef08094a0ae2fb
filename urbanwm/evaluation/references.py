"""Reference forecasts: the seasonal rules that a model has to beat before its skill means anything.

Each takes the record and the origins and returns a table of forecasts. Spread comes from the rule's own
errors at the same lead, from the daily origins before the first judged one (climatology: from the values of
the same hour), so nothing at or after that origin shapes it; the point forecast uses hours before its origin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.cities import City
from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.errors import DataUnavailable
from urbanwm.evaluation.backtest import forecast_rows
from urbanwm.features.calendar import HOURS_PER_DAY, REST_DAY, SUNDAY, LocalDays, local_days
from urbanwm.features.similar_day import build_table, day_table
from urbanwm.features.spec import calendar_of

Float = NDArray[np.float64]
Positions = NDArray[np.int64]
Reference = Callable[[City, pd.DataFrame, Sequence[datetime], int], pd.DataFrame]

DAYS_PER_WEEK: Final = 7
HOURS_PER_WEEK: Final = DAYS_PER_WEEK * HOURS_PER_DAY
SIMILAR_DAYS: Final = 8


def persistence(
    city: City, frame: pd.DataFrame, origins: Sequence[datetime], horizon_hours: int
) -> pd.DataFrame:
    """Forecast the last known value for every hour."""

    def rule(values: Float, _: LocalDays, hours: Positions, starts: Positions) -> Float:
        last = pd.DataFrame(values).ffill().to_numpy()
        return np.broadcast_to(last[starts - 1][:, None], (*hours.shape, values.shape[1]))

    return _forecast(city, frame, origins, horizon_hours, rule)


def yesterday(
    city: City, frame: pd.DataFrame, origins: Sequence[datetime], horizon_hours: int
) -> pd.DataFrame:
    """Forecast the same hour of the last whole day known: 24 h back for leads 1-24, 48 h for 25-48, ..."""
    return _forecast(city, frame, origins, horizon_hours, _seasonal_naive(HOURS_PER_DAY))


def last_week(
    city: City, frame: pd.DataFrame, origins: Sequence[datetime], horizon_hours: int
) -> pd.DataFrame:
    """Forecast the same hour a week ago (two weeks where the horizon is longer than one)."""
    return _forecast(city, frame, origins, horizon_hours, _seasonal_naive(HOURS_PER_WEEK))


def similar_days(
    city: City, frame: pd.DataFrame, origins: Sequence[datetime], horizon_hours: int
) -> pd.DataFrame:
    """Forecast the mean of this local hour on the last eight such weekdays (holidays as Sundays)."""

    def rule(values: Float, days: LocalDays, hours: Positions, starts: Positions) -> Float:
        day_type = _day_type(days)
        table = build_table(
            day_table(values.astype(np.float32), days.day, days.hour), day_type, DAYS_PER_WEEK, [SIMILAR_DAYS]
        )
        cutoff = np.broadcast_to(days.day[starts][:, None], hours.shape)
        return table.lookup(cutoff, day_type[days.day[hours]], days.hour[hours])[..., 0].astype(np.float64)

    return _forecast(city, frame, origins, horizon_hours, rule)


def climatology(
    city: City, frame: pd.DataFrame, origins: Sequence[datetime], horizon_hours: int
) -> pd.DataFrame:
    """Forecast the quantiles of all values before the first origin at the local hour of the week.

    Public holidays count as Sundays, which makes it harder to beat than the plain 168 hours.
    """
    record = _Record(city, frame, origins, horizon_hours)
    hour_of_week = _day_type(record.days)[record.days.day] * HOURS_PER_DAY + record.days.hour
    first = int(record.starts[0])
    mean = np.full((HOURS_PER_WEEK, len(TARGETS)), np.nan)
    quantiles = np.full((len(QUANTILE_LEVELS), HOURS_PER_WEEK, len(TARGETS)), np.nan)
    for hour in range(HOURS_PER_WEEK):
        past = record.values[:first][hour_of_week[:first] == hour]
        for signal in range(len(TARGETS)):
            present = past[~np.isnan(past[:, signal]), signal]
            if present.size:
                mean[hour, signal] = present.mean()
                quantiles[:, hour, signal] = np.quantile(present, QUANTILE_LEVELS)
    target = hour_of_week[record.hours(record.starts)]
    return forecast_rows(city.name, frame, origins, mean[target], quantiles[:, target])


REFERENCES: Mapping[str, Reference] = MappingProxyType(
    {
        "persistence": persistence,
        "yesterday": yesterday,
        "last_week": last_week,
        "climatology": climatology,
        "similar_days": similar_days,
    }
)


class _Record:
    """A city's targets on a gap-free grid that reaches to the end of the last horizon.

    Attributes:
        values: `(N, 3)`, NaN = missing.
        days: The grid in local time.
        starts: `(origins,)` grid positions.
    """

    def __init__(
        self, city: City, frame: pd.DataFrame, origins: Sequence[datetime], horizon_hours: int
    ) -> None:
        stamps = pd.DatetimeIndex(origins)
        if frame.empty or frame.index[0] >= stamps[0]:
            raise DataUnavailable(f"no data of {city.name} before the first origin", field="origin")
        end = max(frame.index[-1], stamps[-1] + pd.Timedelta(hours=horizon_hours - 1))
        index = pd.date_range(frame.index[0], end, freq="h", tz="UTC", unit="us")
        self.values: Float = frame.reindex(index=index, columns=list(TARGETS)).to_numpy(dtype=np.float64)
        self.days = local_days(index, calendar_of(city))
        self.starts: Positions = index.get_indexer(stamps.tz_convert("UTC").as_unit("us")).astype(np.int64)
        self._leads = np.arange(horizon_hours)

    def hours(self, starts: Positions) -> Positions:
        """Return `(origins, horizon)` grid positions."""
        return starts[:, None] + self._leads

    def training_starts(self, horizon_hours: int) -> Positions:
        """Return daily origins whose horizons end before the first judged origin, after two weeks of past."""
        first = int(self.starts[0])
        latest, earliest = first - horizon_hours, 2 * HOURS_PER_WEEK
        return np.arange(latest, earliest - 1, -HOURS_PER_DAY, dtype=np.int64)[::-1]


Rule = Callable[[Float, LocalDays, Positions, Positions], Float]


def _forecast(
    city: City, frame: pd.DataFrame, origins: Sequence[datetime], horizon_hours: int, rule: Rule
) -> pd.DataFrame:
    """Return a rule's point forecasts, with its past errors per lead as spread."""
    record = _Record(city, frame, origins, horizon_hours)
    training = record.training_starts(horizon_hours)
    if training.size == 0:
        raise DataUnavailable(
            f"{city.name} has too little history before the first origin to know a reference's errors",
            field="origin",
            allowed="at least two weeks and one horizon of data before the first origin",
        )
    past_hours = record.hours(training)
    errors = record.values[past_hours] - rule(record.values, record.days, past_hours, training)
    point = rule(record.values, record.days, record.hours(record.starts), record.starts)
    spread = _nan_quantiles(errors)
    quantiles = point[None] + spread[:, None]
    # No target can be negative; the rules know no other bound.
    return forecast_rows(city.name, frame, origins, point, np.maximum(quantiles, 0.0))


def _nan_quantiles(errors: Float) -> Float:
    """Return quantiles `(7, horizon, signal)` over the first axis, ignoring NaN; NaN where all is."""
    result = np.full((len(QUANTILE_LEVELS), *errors.shape[1:]), np.nan)
    known = ~np.isnan(errors).all(axis=0)
    result[:, known] = np.nanquantile(errors[:, known], QUANTILE_LEVELS, axis=0)
    return result


def _seasonal_naive(season_hours: int) -> Rule:
    """Return the rule "the same hour in the last whole season before the origin"."""

    def rule(values: Float, _: LocalDays, hours: Positions, starts: Positions) -> Float:
        seasons_back = (hours - starts[:, None]) // season_hours + 1
        position = hours - season_hours * seasons_back
        found = np.where((position >= 0)[..., None], values[position], np.nan)
        # A gap is bridged by the season before it, else by the last known value.
        earlier = position - season_hours
        older = np.where((earlier >= 0)[..., None], values[earlier], np.nan)
        last = pd.DataFrame(values).ffill().to_numpy()[starts - 1][:, None]
        return np.where(np.isnan(found), np.where(np.isnan(older), last, older), found)

    return rule


def _day_type(days: LocalDays) -> Positions:
    """Return `(D,)` weekdays, with every public holiday as a Sunday."""
    return np.where(days.day_class == REST_DAY, SUNDAY, days.weekday)
