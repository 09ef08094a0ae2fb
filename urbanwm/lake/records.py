"""A city's record as models read it: observations, and beside each hour the weather as it was forecast."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

from urbanwm.contracts.signals import FORECAST_DAYS, HORIZON_HOURS_MAX, WEATHER, forecast_column
from urbanwm.lake.forecasts import Forecasts, last_words, least_trusted_first
from urbanwm.lake.reader import LakeReader


class Records(LakeReader):
    """The observations table, read together with the weather forecasts.

    A forecast is never corrected, and each of its columns only holds what was known days before the hour:
    the same version of the observations always comes with the same forecasts.

    Args:
        uri: Where the observations are.
        forecasts_uri: Where the forecasts are; there may be none.
        storage_options: Options of the object store.
    """

    def __init__(
        self, uri: str | Path, forecasts_uri: str | Path, storage_options: dict[str, str] | None = None
    ) -> None:
        super().__init__(uri, storage_options)
        self.forecasts = Forecasts(forecasts_uri, storage_options)

    def read(
        self,
        city: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        signals: Sequence[str] | None = None,
        known_at: datetime | None = None,
        version: int | None = None,
    ) -> pd.DataFrame:
        """Read a city's observations; without `signals` the columns of `forecast_column` come with them.

        Arguments and errors as `LakeReader.read`. With `end` None the grid goes on to the last hour that
        was forecast, at most a week after the last observation, which is then missing there.
        """
        frame = super().read(city, start=start, end=end, signals=signals, known_at=known_at, version=version)
        if signals is not None:
            return frame
        first, stop = frame.index[0].to_pydatetime(), frame.index[-1].to_pydatetime() + timedelta(hours=1)
        if end is None:
            stop += timedelta(hours=HORIZON_HOURS_MAX)
        said = self.forecasts.issued(city, start=first, end=stop, known_at=known_at, signals=WEATHER)
        if said.empty:
            return frame
        ahead = by_days_ahead(said)
        last = max(frame.index[-1], ahead.index[-1])
        hours = pd.date_range(frame.index[0], last, freq="h", name=frame.index.name, unit="us")
        return frame.reindex(hours).join(ahead)


def by_days_ahead(said: pd.DataFrame) -> pd.DataFrame:
    """Arrange issued forecasts by hour and days ahead: `(hours, signals and days)`, NaN = none was known.

    Args:
        said: Rows of `Forecasts.issued`, one or more.
    """
    parts, ordered = [], least_trusted_first(said)
    for day in range(1, FORECAST_DAYS + 1):
        known = ordered[ordered["available_at"] <= ordered["timestamp"] - pd.Timedelta(days=day)]
        grid = last_words(known).pivot(index="timestamp", columns="signal", values="value")
        parts.append(grid.rename(columns={name: forecast_column(str(name), day) for name in grid}))
    hours = pd.DatetimeIndex(said["timestamp"].unique(), name="timestamp").sort_values()
    return pd.concat(parts, axis=1).reindex(hours).rename_axis(columns=None)
