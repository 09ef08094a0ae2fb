"""What every side of the benchmark of feature building gets, and how its work is described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from urbanwm.features.calendar import REST_DAY, SUNDAY
from urbanwm.features.names import (
    CHANGE_SUFFIX,
    COOLING,
    COOLING_ABOVE_C,
    DEGREES_OF,
    HEATING,
    HEATING_BELOW_C,
    SIMILAR_DAYS,
    STATE,
    state_features,
)

# Which mean stands in for a missing one: as `urbanwm.features.history` has it, longer counts included.
LONGER = {
    "similar_1": "similar_3",
    "similar_3": "similar_8",
    "similar_8": "similar_60",
    "weekday_1": "weekday_4",
    "recent_1": "recent_7",
}
STAND_INS = (
    ("recent_1", "recent_7"),
    ("recent_7", "similar_60"),
    ("similar_60", "recent_7"),
    ("similar_8", "similar_60"),
    ("similar_3", "similar_8"),
    ("similar_1", "similar_3"),
    ("weekday_4", "similar_3"),
    ("weekday_1", "weekday_4"),
)
LEVEL_STAND_IN = "similar_8"
"""What a silent hour counts as in the mean of the last hours' level."""
PARTITIONS = {"class": ["day_class", "hour"], "weekday": ["weekday_class", "hour"], "any": ["hour"]}
MEANS = ("last_week", *(name for name, _, _ in SIMILAR_DAYS))
HOURS = 24
CLOCK = pd.DataFrame(
    {
        "hour": np.arange(HOURS, dtype=np.int32),
        "hour_sin": np.sin(2 * np.pi * np.arange(HOURS) / HOURS),
        "hour_cos": np.cos(2 * np.pi * np.arange(HOURS) / HOURS),
        "hour_sin_2": np.sin(4 * np.pi * np.arange(HOURS) / HOURS),
        "hour_cos_2": np.cos(4 * np.pi * np.arange(HOURS) / HOURS),
    }
)


@dataclass(frozen=True)
class Task:
    """What every side gets.

    Attributes:
        frame: Hourly signals over a UTC index, NaN = missing.
        daily: One row per local day: `date`, calendar features, `day_class`, `weekday`.
        zone: The city's time zone.
        mean: Mean of each signal, after log1p where it is scaled so.
        std: Its standard deviation.
        observed: Measured inputs, in order.
    """

    frame: pd.DataFrame
    daily: pd.DataFrame
    zone: str
    mean: Mapping[str, float]
    std: Mapping[str, float]
    observed: tuple[str, ...]

    @property
    def signals(self) -> list[str]:
        """The signals that are normalised."""
        return [name for name in self.observed if not name.endswith(CHANGE_SUFFIX)]

    @property
    def state(self) -> dict[str, tuple[str, str, int]]:
        """The weather state by column: signal, what of it, and hours averaged."""
        features = (feature for group in STATE for feature in state_features(group, self.observed))
        return {f"state_{signal}_{of}_last_{span}h": (signal, of, span) for signal, of, span in features}

    @property
    def degrees(self) -> dict[str, tuple[float, int]]:
        """Limit and side (1 above, -1 below) of what calls for heating or cooling, in normalised degrees."""
        mean, std = self.mean[DEGREES_OF], self.std[DEGREES_OF]
        return {
            HEATING: ((HEATING_BELOW_C - mean) / std, -1),
            COOLING: ((COOLING_ABOVE_C - mean) / std, 1),
        }

    def days(self) -> pd.DataFrame:
        """The local days with the weekday on which a holiday counts as Sunday."""
        weekday = np.where(self.daily["day_class"] == REST_DAY, SUNDAY, self.daily["weekday"])
        return self.daily.assign(weekday_class=weekday).drop(columns="weekday")


class Run(NamedTuple):
    """One side's work, from its own table in memory to its own table in memory, which `columns` reads."""

    work: Callable[[], Any]
    columns: Callable[[Any], dict[str, np.ndarray]]
