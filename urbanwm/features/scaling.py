"""The scale of each signal in each city, fitted on training rows only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import DataUnavailable
from urbanwm.features.calendar import CityCalendar, local_days
from urbanwm.features.names import INPUT_MINIMUM_HOURS, LOG_SIGNALS, Kind
from urbanwm.features.usual import INDEX, mean_volume, traffic_level

MINIMUM_STD = 1e-6
# Used for a signal that no training city has, so that a missing signal stays finite and masked.
NEUTRAL_SCALE = (0.0, 1.0)


@dataclass(frozen=True)
class CityScaler:
    """Mean and standard deviation per signal of one city, in transformed space (see `LOG_SIGNALS`).

    Attributes:
        mean: Per signal.
        std: Per signal, > 0.
        borrowed: Signals that the city does not have; their scale is the average of other cities'.
        mean_volume: Traffic volume (veh/h) that a level of 1 stands for (`usual.py`); None without volumes.
    """

    mean: dict[str, float]
    std: dict[str, float]
    borrowed: tuple[str, ...] = ()
    mean_volume: float | None = None


def fit_scaler(frame: pd.DataFrame, signals: Iterable[str], kind: Kind, calendar: CityCalendar) -> CityScaler:
    """Fit mean and standard deviation on every row of `frame`; a signal with too few values is left out."""
    mean, std = {}, {}
    volume = mean_volume(frame) if kind == "urban" else None
    for signal in signals:
        values = frame[signal].to_numpy(dtype=np.float64) if signal in frame.columns else np.empty(0)
        if signal == INDEX and volume is not None:
            hourly = frame.asfreq("h")
            values = traffic_level(hourly, local_days(hourly.index, calendar), volume).level
        values = values[np.isfinite(values)]
        if values.size < (1 if signal in TARGETS else INPUT_MINIMUM_HOURS):
            continue
        transformed = np.log1p(values) if kind == "urban" and signal in LOG_SIGNALS else values
        mean[signal] = float(transformed.mean())
        # A constant signal carries nothing; a unit scale keeps it finite.
        spread = float(transformed.std())
        std[signal] = spread if spread > MINIMUM_STD else 1.0
    if not any(signal in mean for signal in TARGETS):
        raise DataUnavailable(
            "no value of any target to fit a scale on", field="frame", allowed=list(TARGETS)
        )
    return CityScaler(mean, std, mean_volume=volume)


def lend(scaler: CityScaler, lenders: Iterable[CityScaler]) -> CityScaler:
    """Complete a scaler with the average scale of other cities for the signals its city does not have."""
    others = list(lenders)
    wanted = {*TARGETS, *(name for other in others for name in other.mean)}
    mean, std, borrowed = dict(scaler.mean), dict(scaler.std), []
    for signal in sorted(wanted - set(mean)):
        scales = [(other.mean[signal], other.std[signal]) for other in others if signal in other.mean]
        average = np.mean(scales, axis=0) if scales else NEUTRAL_SCALE
        mean[signal], std[signal] = float(average[0]), float(average[1])
        borrowed.append(signal)
    return replace(scaler, mean=mean, std=std, borrowed=tuple(borrowed))
