"""What the model's inputs are called, in which order, and the spans and decays that they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import pandas as pd

from urbanwm.contracts.signals import ACTIONS, TARGETS, WEATHER, forecast_column
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
# The last two days hour by hour, newest first, say how a load goes on; other targets gain nothing by them.
HOURLY_TARGET, HOURLY_HOURS = "energy_mwh", 48
# How far the last hours were from similar days, as a logarithm: (name, trailing hours). Calm weeks are surer.
SPREAD: tuple[tuple[str, int], ...] = (("spread_24h", 24), ("spread_168h", 168), ("spread_720h", 720))
# What the direct forecast makes of all of these (`direct.py`): its prediction, and the logarithm of the usual
# size of its error.
DIRECT_NAMES: tuple[str, str] = ("direct", "direct_log_error")
# Warmth that is missing for a comfortable room, and too much of it: what heating and cooling follow, °C.
HEATING, COOLING = "heating_degrees", "cooling_degrees"
HEATING_BELOW_C, COOLING_ABOVE_C = 15.0, 22.0
DEGREES_OF = "temperature_c"
USUAL_WEATHER_HOURS = 30 * 24


class StateGroup(NamedTuple):
    """Weather at the origin, held through the horizon, that the direct forecast of some targets reads.

    Attributes:
        targets: Whose forecast.
        features: (signal, what of it, hours averaged): its `anomaly` from the last 30 days, its `change` from
            a day earlier, or its `mean`. Levels stand for the season, and a pressure's for the height of the
            station, rather than for the next day.
    """

    targets: tuple[str, ...]
    features: tuple[tuple[str, str, int], ...]


STATE: tuple[StateGroup, ...] = (
    # What ventilates the city.
    StateGroup(
        ("pm25",),
        tuple(
            (signal, of, hours)
            for signal in ("wind_speed_ms", "pressure_hpa")
            for of in ("anomaly", "change")
            for hours in (1, 6)
        ),
    ),
    # What it burns for warmth, and what lies on it.
    StateGroup(
        ("pm25", "energy_mwh"),
        tuple(
            (signal, of, hours)
            for signal in ("temperature_c", "humidity_pct", HEATING, COOLING)
            for of, hours in (("anomaly", 1), ("anomaly", 6), ("anomaly", 24), ("change", 24))
        ),
    ),
    # The season that a load's similar days lie in. (For the other targets it stands for too much else.)
    StateGroup(
        ("energy_mwh",), ((HEATING, "mean", USUAL_WEATHER_HOURS), (COOLING, "mean", USUAL_WEATHER_HOURS))
    ),
)
# Other signals than the targets need this much history: the hours of a feed of yesterday tell no scale.
INPUT_MINIMUM_HOURS = 14 * 24
# Day-of-year inputs need this much history: with one year they extrapolate (PM2.5: + 25 % CRPS).
YEAR_NAMES = frozenset({"year_sin", "year_cos"})
YEAR_MINIMUM_HOURS = 2 * 365 * 24
# Weather as it was forecast for the hour itself, from this many hours of forecasts on: fewer teach nothing.
FORECAST_SIGNALS = ("wind_speed_ms", "temperature_c", "pressure_hpa", "precipitation_mm")
FORECAST_SUFFIX = "_forecast"
FORECAST_MINIMUM_HOURS = 60 * 24
# One column per city trained on; its weights in the recurrence are the embedding of the city.
CITY_PREFIX = "city="
LEAD_NAMES = ("lead_decay_6h", "lead_decay_24h", "lead_log")


def observed_names(kind: Kind, frames: Iterable[pd.DataFrame]) -> tuple[str, ...]:
    """Return the measured inputs: the targets and whatever else any city has for long enough."""
    if kind == "reference":
        return REFERENCE_INPUTS
    available = {
        name for frame in frames for name in frame.columns if frame[name].notna().sum() >= INPUT_MINIMUM_HOURS
    }
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


def known_names(observed: Iterable[str], frames: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """Return the inputs known ahead, given each city's training rows.

    Calendar, lead, seasonal predictions and their absence, weather at the origin and as forecast, the city.
    """
    long_enough = all(len(frame) >= YEAR_MINIMUM_HOURS for frame in frames.values())
    calendar = (name for name in CALENDAR_NAMES if long_enough or name not in YEAR_NAMES)
    skips = (f"{target}_{name}" for target in TARGETS for name in skip_names())
    missing = (f"{target}_history_missing" for target in TARGETS)
    forecast = forecast_names(_forecast_signals(observed, frames.values()))
    cities = (f"{CITY_PREFIX}{name}" for name in frames) if len(frames) > 1 else ()
    return (*calendar, *LEAD_NAMES, *skips, *missing, *state_names(observed), *forecast, *cities)


def state_features(group: StateGroup, observed: Iterable[str]) -> list[tuple[str, str, int]]:
    """Return the features of a group whose signals are observed."""
    present = set(observed)
    if DEGREES_OF in present:
        present |= {HEATING, COOLING}
    return [feature for feature in group.features if feature[0] in present]


def state_names(observed: Iterable[str], *groups: StateGroup) -> tuple[str, ...]:
    """Return the names of the weather state at the origin, of some groups or all, for observed signals."""
    names = list(observed)
    return tuple(
        f"{signal}_{of}_last_{hours}h"
        for group in groups or STATE
        for signal, of, hours in state_features(group, names)
    )


def forecast_names(signals: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the weather as forecast: values, then whether there is none."""
    values = tuple(f"{signal}{FORECAST_SUFFIX}" for signal in signals)
    return (*values, *(f"{name}_missing" for name in values))


def _forecast_signals(observed: Iterable[str], frames: Iterable[pd.DataFrame]) -> list[str]:
    """Return the observed signals of which some city has enough forecasts to learn from."""
    hours: dict[str, int] = {}
    for frame in frames:
        for signal in set(observed).intersection(FORECAST_SIGNALS):
            column = forecast_column(signal, 1)
            if column in frame:
                hours[signal] = max(hours.get(signal, 0), int(frame[column].notna().sum()))
    return [signal for signal in FORECAST_SIGNALS if hours.get(signal, 0) >= FORECAST_MINIMUM_HOURS]
