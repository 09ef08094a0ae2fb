"""The columns of a city's series, from a frame on the hourly grid: measured, levers, weather forecasts."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.contracts.signals import ACTIONS, FORECAST_DAYS, forecast_column
from urbanwm.features.calendar import CALENDAR_NAMES, LocalDays
from urbanwm.features.names import (
    ACTIVITY,
    CHANGE_HOURS,
    CHANGE_SUFFIX,
    FORECAST_SIGNALS,
)
from urbanwm.features.spec import FeatureSpec


def with_forecasts(past: pd.DataFrame, frame: pd.DataFrame, moment: datetime) -> pd.DataFrame:
    """Return `past` and, of the hours of `frame` from `moment` on, the weather forecasts alone."""
    days = range(1, FORECAST_DAYS + 1)
    names = [forecast_column(signal, day) for signal in FORECAST_SIGNALS for day in days]
    later = frame.loc[frame.index >= pd.Timestamp(moment), [name for name in names if name in frame]]
    return past if later.empty else pd.concat([past, later])


def column_of(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a column, NaN throughout where the city does not have it."""
    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    column: NDArray[np.float64] = frame[name].to_numpy(dtype=np.float64)
    return column


def observed_columns(
    frame: pd.DataFrame, city: str, spec: FeatureSpec, days: LocalDays, targets: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the measured inputs `(N, F)`, NaN = missing."""
    columns = np.full((len(frame), spec.observed_dim), np.nan, dtype=np.float32)
    for i, name in enumerate(spec.observed_names):
        if name in spec.targets:
            columns[:, i] = spec.normalise(city, name, targets[:, spec.targets.index(name)])
        elif name.endswith(CHANGE_SUFFIX):
            signal = name.removesuffix(CHANGE_SUFFIX)
            level = spec.normalise(city, signal, column_of(frame, signal))
            columns[CHANGE_HOURS:, i] = level[CHANGE_HOURS:] - level[:-CHANGE_HOURS]
        elif name in ACTIONS:
            columns[:, i] = _lever(frame, city, spec, name)
        elif name in ACTIVITY:
            column = column_of(frame, name)
            columns[:, i] = np.where(np.isnan(column), 1.0, column)
        elif name in CALENDAR_NAMES:
            columns[:, i] = days.features[:, CALENDAR_NAMES.index(name)]
        elif name == "padding":
            columns[:, i] = 0.0
        else:
            columns[:, i] = spec.normalise(city, name, column_of(frame, name))
    return columns


def forecast_columns(frame: pd.DataFrame, city: str, spec: FeatureSpec) -> NDArray[np.float32]:
    """Return the weather forecasts `(N, FORECAST_DAYS, S)`, scaled as the weather itself; NaN = none."""
    days, signals = range(1, FORECAST_DAYS + 1), spec.forecast_signals
    values = np.full((len(frame), len(days), len(signals)), np.nan, dtype=np.float32)
    for i, signal in enumerate(signals):
        for day in days:
            column = column_of(frame, forecast_column(signal, day))
            values[:, day - 1, i] = spec.normalise(city, signal, column)
    return values


def _lever(frame: pd.DataFrame, city: str, spec: FeatureSpec, name: str) -> NDArray[np.float64]:
    """Return a policy lever, at the status quo where the record does not say otherwise."""
    status_quo = spec.renewable_status_quo.get(city, 0.0) if name == "renewable_mix" else 0.0
    column = column_of(frame, name)
    return np.where(np.isnan(column), status_quo, column)


def action_columns(frame: pd.DataFrame, city: str, spec: FeatureSpec) -> NDArray[np.float32]:
    """Return the levers `(N, A)`: raw for the reference, difference from the status quo for urban."""
    levers = np.stack([_lever(frame, city, spec, name) for name in spec.action_names], axis=1)
    if spec.kind == "urban":
        quo = [
            spec.renewable_status_quo.get(city, 0.0) if n == "renewable_mix" else 0.0
            for n in spec.action_names
        ]
        levers = levers - np.array(quo)
    return levers.astype(np.float32)
