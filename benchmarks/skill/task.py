"""The task that every forecaster gets: one record, one split, the same origins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.cities import City, HolidayCalendar, Location
from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.errors import BadInput
from urbanwm.evaluation.backtest import forecast_rows, local_midnights
from urbanwm.features.calendar import LocalDays, local_days
from urbanwm.features.spec import calendar_of

Float = NDArray[np.float64]
Positions = NDArray[np.int64]

HORIZON_HOURS = 48
WEATHER = ("temperature_c", "wind_speed_ms", "humidity_pct", "pressure_hpa", "precipitation_mm")
VOLUME = "traffic"
"""Column of a raw traffic volume: forecast as it is, under the name `traffic_index`."""
LOG_SIGNALS = ("pm25",)


class PeerMissing(Exception):
    """A peer cannot take part; the message says why."""


@dataclass(frozen=True)
class Task:
    """What is known, until when, and what is asked.

    Attributes:
        city: Time zone and holidays.
        frame: Hourly, UTC, without gaps in time: the targets (traffic as volume) and the weather.
        origins: Local midnights from the split on whose horizon the record covers.
        is_volume: Whether `traffic_index` holds a volume and not an index.
    """

    city: City
    frame: pd.DataFrame
    origins: Sequence[datetime]
    is_volume: bool

    @property
    def training(self) -> pd.DataFrame:
        """The hours before the first origin."""
        return self.frame[self.frame.index < self.origins[0]]

    @cached_property
    def days(self) -> LocalDays:
        """The record in local time."""
        return local_days(pd.DatetimeIndex(self.frame.index), calendar_of(self.city))

    @cached_property
    def values(self) -> Float:
        """The targets `(N, 3)`, PM2.5 as log1p, NaN = missing."""
        raw = self.frame[list(TARGETS)].to_numpy(dtype=np.float64)
        return np.where([name in LOG_SIGNALS for name in TARGETS], np.log1p(raw), raw)

    @cached_property
    def starts(self) -> Positions:
        """Positions of the origins."""
        return pd.DatetimeIndex(self.frame.index).get_indexer(pd.DatetimeIndex(self.origins)).astype(np.int64)

    def training_starts(self, hours: Sequence[int], first: int) -> Positions:
        """Return positions of training origins at these local hours whose horizon ends before the split."""
        last = int(self.starts[0]) - HORIZON_HOURS
        candidates = np.arange(first, last + 1, dtype=np.int64)
        return candidates[np.isin(self.days.hour[candidates], hours)]

    def table(self, quantiles: Float) -> pd.DataFrame:
        """Lay quantiles `(7, origins, 48, 3)` of `values` out as `urbanwm backtest` does."""
        physical = np.sort(quantiles, axis=0)
        for position, name in enumerate(TARGETS):
            if name in LOG_SIGNALS:
                physical[..., position] = np.expm1(physical[..., position])
        physical = np.maximum(physical, 0.0)
        # The mean of a piecewise linear quantile function, its tails cut at the outer quantiles.
        levels = np.asarray(QUANTILE_LEVELS)
        weights = np.diff(np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2.0, [1.0]]))
        mean = np.tensordot(weights, physical, axes=1)
        return forecast_rows(self.city.name, self.frame, self.origins, mean, physical)


def read_task(
    paths: Sequence[Path],
    split: datetime,
    timezone: str,
    country: str | None = None,
    subdivision: str | None = None,
    end: datetime | None = None,
) -> Task:
    """Read the record; a later file fills what the earlier ones lack.

    Args:
        paths: Parquet files with `timestamp` (UTC) and any of the targets, `traffic` and the weather.
        split: End of training.
        timezone: IANA.
        country: Whose holidays.
        subdivision: Region of the country.
        end: End of the origins; default: as far as the record covers a horizon.

    Raises:
        BadInput: A file cannot be read or has no target, or no origin remains.
    """
    frame = pd.DataFrame()
    for path in paths:
        if not path.is_file():
            raise BadInput("no such file", field="--data", value=str(path))
        table = pd.read_parquet(path)
        if "timestamp" in table:
            table = table.set_index("timestamp")
        frame = frame.combine_first(table.drop(columns="city", errors="ignore"))
    is_volume = VOLUME in frame
    frame = frame.rename(columns={VOLUME: "traffic_index"}) if is_volume else frame
    hours = pd.date_range(frame.index[0], frame.index[-1], freq="h", tz="UTC", name="timestamp", unit="us")
    present = [name for name in (*WEATHER, "renewable_share") if name in frame and frame[name].notna().any()]
    frame = frame.reindex(index=hours, columns=[*TARGETS, *present])
    if not frame[list(TARGETS)].notna().any(axis=None):
        raise BadInput("no target in the record", field="--data", allowed=[*TARGETS, VOLUME])
    city = City(
        name=paths[0].stem.split("_")[0].lower(),
        timezone=timezone,
        location=Location(latitude=0.0, longitude=0.0),
        holidays=HolidayCalendar(country=country, subdivision=subdivision) if country else None,
        signals={},
    )
    covered = hours[-1].to_pydatetime() - pd.Timedelta(hours=HORIZON_HOURS - 2)
    origins = local_midnights(city, split, min(end, covered) if end else covered)
    return Task(city, frame, origins, is_volume)
