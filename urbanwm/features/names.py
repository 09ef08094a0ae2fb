"""What the model's inputs are called, in which order, and the spans and decays that they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import pandas as pd

from urbanwm.contracts.signals import ACTIONS, TARGETS, WEATHER
from urbanwm.features.calendar import CALENDAR_NAMES

Kind = Literal["reference", "urban"]

# Heavy right tails: scaled as log(1 + x), which also turns their multiplicative errors into additive ones.
LOG_SIGNALS = frozenset({"pm25", "no2", "precipitation_mm"})
PAST_ONLY = ("no2", "renewable_share", *WEATHER)
CHANGE_SIGNALS = ("temperature_c", "wind_speed_ms", "pressure_hpa")
CHANGE_HOURS = 24
CHANGE_SUFFIX = f"_change_{CHANGE_HOURS}h"
ACTIVITY = ("gdp_activity_index", "commercial_load_factor")
# DESIGN §4, in its order; the last slot pads to 12. Kept as it is, with its weaknesses: the activity indices
# are 1 in every real record, hour and weekday are not known ahead in imagination, a missing value looks like
# the mean, and the targets stay in raw units, so that energy owns the loss.
REFERENCE_INPUTS = (
    *TARGETS,
    *ACTIONS,
    *ACTIVITY,
    "hour_sin",
    "hour_cos",
    "weekday_sin",
    "weekday_cos",
    "padding",
)

# Similar-day means per target: (name, partition of days, number of days). Partitions: `class` = the four day
# classes, `weekday` = seven with holidays as Sunday, `any` = every day alike.
SIMILAR_DAYS: tuple[tuple[str, str, int], ...] = (
    ("similar_1", "class", 1),
    ("similar_3", "class", 3),
    ("similar_8", "class", 8),
    ("similar_60", "class", 60),
    ("weekday_1", "weekday", 1),
    ("weekday_4", "weekday", 4),
    ("recent_1", "any", 1),
    ("recent_7", "any", 7),
)
# What the last hours add: (name, the mean that the target is compared with, trailing hours averaged, decay
# over the lead in hours). "level" compares with nothing.
RECENT: tuple[tuple[str, str | None, int, float], ...] = (
    ("deviation_1h", "similar_8", 1, 3.0),
    ("deviation_6h", "similar_8", 6, 12.0),
    ("deviation_24h", "similar_8", 24, 48.0),
    ("deviation_168h", "similar_8", 168, math.inf),
    ("yesterday_deviation_1h", "recent_1", 1, 3.0),
    ("yesterday_deviation_6h", "recent_1", 6, 12.0),
    ("yesterday_deviation_24h", "recent_1", 24, 48.0),
    ("level_1h", None, 1, math.inf),
    ("level_3h", None, 3, math.inf),
    ("level_12h", None, 12, math.inf),
    ("level_24h", None, 24, math.inf),
)
# How far the last hours were from similar days, as a logarithm: (name, trailing hours). Calm weeks are surer.
SPREAD: tuple[tuple[str, int], ...] = (("spread_24h", 24), ("spread_168h", 168), ("spread_720h", 720))
# What the direct forecast makes of all of these (`direct.py`): its prediction, and the logarithm of the usual
# size of its error.
DIRECT_NAMES: tuple[str, str] = ("direct", "direct_log_error")
# Weather at the origin, held through the horizon: what ventilates the city now. (Temperature and NO2 stand
# for the season rather than for the next day, and made a linear forecast of PM2.5 worse.)
STATE_SIGNALS = ("wind_speed_ms", "pressure_hpa", "pressure_hpa" + CHANGE_SUFFIX)
STATE_HOURS = (1, 6)
# Day-of-year inputs need this much history: with one year they extrapolate (PM2.5: + 25 % CRPS).
YEAR_NAMES = frozenset({"year_sin", "year_cos"})
YEAR_MINIMUM_HOURS = 2 * 365 * 24
LEAD_NAMES = ("lead_decay_6h", "lead_decay_24h", "lead_log")


def observed_names(kind: Kind, frames: Iterable[pd.DataFrame]) -> tuple[str, ...]:
    """Return the measured inputs: the targets and whatever else any city has."""
    if kind == "reference":
        return REFERENCE_INPUTS
    available = {name for frame in frames for name in frame.columns if frame[name].notna().any()}
    past = tuple(name for name in PAST_ONLY if name in available)
    changes = tuple(name + CHANGE_SUFFIX for name in CHANGE_SIGNALS if name in available)
    return (*TARGETS, *past, *changes)


def scaled_signals(observed: Iterable[str]) -> list[str]:
    """Return the signals that need a scale."""
    names = {*TARGETS, *(name for name in observed if name in PAST_ONLY)}
    return [name for name in (*TARGETS, *PAST_ONLY) if name in names]


def skip_names() -> tuple[str, ...]:
    """Return the names of the seasonal predictions, the same for each target."""
    means, recent = (name for name, _, _ in SIMILAR_DAYS), (name for name, *_ in RECENT)
    return ("last_week", *means, *recent, *(name for name, _ in SPREAD), *DIRECT_NAMES)


def known_names(observed: Iterable[str], frames: Iterable[pd.DataFrame]) -> tuple[str, ...]:
    """Return the inputs known ahead: calendar, lead, seasonal predictions, their absence, weather state."""
    long_enough = all(len(frame) >= YEAR_MINIMUM_HOURS for frame in frames)
    calendar = (name for name in CALENDAR_NAMES if long_enough or name not in YEAR_NAMES)
    skips = (f"{target}_{name}" for target in TARGETS for name in skip_names())
    missing = (f"{target}_history_missing" for target in TARGETS)
    return (*calendar, *LEAD_NAMES, *skips, *missing, *state_names(observed))


def state_names(observed: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the weather state at the origin, for the signals that are observed."""
    present = set(observed)
    return tuple(
        f"{name}_last_{hours}h" for name in STATE_SIGNALS if name in present for hours in STATE_HOURS
    )
