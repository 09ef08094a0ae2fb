"""Feeds that stopped, froze or changed their unit: what must be seen before a model learns from it.

Three signs of another unit, because the quality rules drop some of it at the door: a level that jumps within
one hour and stays (`level_jump`), values dropped as impossible while the newest hours are missing
(`units_dropped`), and an index that sticks to the end of its scale (`is_frozen`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.contracts.signals import SIGNALS, TARGETS, TRAFFIC_INDEX, TRAFFIC_VOLUME
from urbanwm.features.calendar import HOURS_PER_DAY, CityCalendar
from urbanwm.monitoring.similar import deviations

Float = NDArray[np.float64]

HISTORY_DAYS: Final = 120
"""Enough for eight weeks of likes before three weeks that are searched for a jump."""
LOOK_BACK_DAYS: Final = 21
"""A jump is named for as long as this: after eight weeks the new level is its own reference."""
HOURS_AFTER_JUMP: Final = 6
HOURS_BEFORE_JUMP: Final = 24
BRIDGED_HOURS: Final = 6
"""A gap up to this long may lie inside a jump."""
JUMP_FACTOR_UP: Final = {"pm25": 5.0, "energy_mwh": 2.0, "traffic_index": 4.0}
JUMP_FACTOR_DOWN: Final = {"pm25": 7.0, "energy_mwh": 2.0, "traffic_index": 4.0}
"""Change of the ratio to similar hours within one hour. A front can clean the air by a factor of five;
nothing fouls a whole city's as fast."""
STAY_FACTOR: Final = 2.7
"""How far the hours since a jump must lie from the day before it."""
STAY_FACTOR_STEADY: Final = {"energy_mwh": 2.0}
FROZEN_HOURS: Final = 6
FROZEN_HOURS_COARSE: Final = 24
"""Equal hours that no sensor shows: a record of whole numbers, and a weather field, rest longer."""
COARSE_SHARE: Final = 0.8
COARSE_BELOW: Final = 1000.0
"""A record of mostly whole numbers on a small level is coarse: equal neighbours are ordinary in it."""
VOLUME: Final = {TRAFFIC_INDEX: TRAFFIC_VOLUME}
"""What a target is made from by dividing by its usual value: a frozen counter does not freeze the ratio."""
SILENT_HOURS: Final = 24
USUAL_COVERAGE: Final = 0.8
COVERAGE_DAYS: Final = 28
UNIT_RULES: Final = ("unit_jump", "out_of_range")
"""Quality rules whose drops mean another unit."""
MAY_REST: Final = frozenset({"precipitation_mm"})
"""Signals that are equal for days in nature."""


@dataclass(frozen=True)
class Jump:
    """A level that jumped within one hour and stayed.

    Attributes:
        hours_ago: Hours of the new level so far.
        factor: New level ÷ old, like with like.
    """

    hours_ago: int
    factor: float


def level_jump(series: pd.Series, signal: str, calendar: CityCalendar) -> Jump | None:
    """Return the largest lasting jump of the last three weeks, or None.

    Args:
        series: Hourly, UTC, regular, up to the night; NaN = missing.
        signal: A target.
        calendar: Time zone and holidays.
    """
    recent = series.iloc[-HISTORY_DAYS * HOURS_PER_DAY :]
    if recent.notna().sum() < HOURS_BEFORE_JUMP:
        return None
    values = deviations(recent, signal, calendar).hours()
    # The hour before each one, across short gaps.
    before = pd.Series(values).ffill(limit=BRIDGED_HOURS).shift(1).to_numpy()
    step = values - before
    up, down = np.log(JUMP_FACTOR_UP[signal]), np.log(JUMP_FACTOR_DOWN[signal])
    with np.errstate(invalid="ignore"):
        suspect = np.flatnonzero((step > up) | (step < -down))
    stay = np.log(STAY_FACTOR_STEADY.get(signal, STAY_FACTOR))
    found = []
    for start in suspect[suspect >= len(values) - LOOK_BACK_DAYS * HOURS_PER_DAY]:
        after, earlier = values[start:], values[max(0, start - HOURS_BEFORE_JUMP) : start]
        if min((~np.isnan(after)).sum(), (~np.isnan(earlier)).sum()) < HOURS_AFTER_JUMP:
            continue
        change = float(np.nanmedian(after) - np.nanmedian(earlier))
        if change * step[start] > 0 and abs(change) > stay:
            found.append(Jump(len(values) - int(start), float(np.exp(change))))
    return max(found, key=lambda jump: abs(np.log(jump.factor)), default=None)


def frozen_hours(series: pd.Series) -> int:
    """Return for how many hours in a row the newest value has been given; 0 without any value."""
    known = series.dropna()
    if known.empty:
        return 0
    hours = pd.DatetimeIndex(known.index).as_unit("s").asi8 // 3600
    values = known.to_numpy(np.float64)
    breaks = np.flatnonzero((np.diff(values) != 0) | (np.diff(hours) != 1))
    return len(values) - (int(breaks[-1]) + 1 if len(breaks) else 0)


def is_frozen(series: pd.Series, signal: str) -> bool:
    """Return whether a feed repeats one value for longer than its scale explains.

    Args:
        series: Hourly, UTC, up to the night; its last four weeks say how coarse it is.
        signal: A signal of the vocabulary.
    """
    if signal in MAY_REST:
        return False
    hours = frozen_hours(series)
    if hours < FROZEN_HOURS:
        return False
    known = series.dropna()
    usual = known.iloc[-(COVERAGE_DAYS * HOURS_PER_DAY + hours) : -hours].to_numpy(np.float64)
    whole = len(usual) == 0 or float((usual == np.round(usual)).mean()) > COARSE_SHARE
    coarse = whole and float(known.iloc[-1]) < COARSE_BELOW
    watched = signal in (*TARGETS, *VOLUME.values())
    at_the_end = float(known.iloc[-1]) == SIGNALS[signal].maximum
    if not watched or (coarse and not at_the_end):
        return hours >= FROZEN_HOURS_COARSE
    return True


def is_silent(series: pd.Series, end: datetime) -> bool:
    """Return whether a feed that used to be complete has no value in the 24 h before `end`.

    Args:
        series: Hourly, UTC.
        end: Where the known hours end.
    """
    now = pd.Timestamp(end)
    quiet_since = now - pd.Timedelta(hours=SILENT_HOURS)
    first = quiet_since - pd.Timedelta(days=COVERAGE_DAYS)
    hours = series[(series.index >= quiet_since) & (series.index < now)]
    if hours.notna().any():
        return False
    before = series[(series.index >= first) & (series.index < quiet_since)]
    return int(before.notna().sum()) >= USUAL_COVERAGE * COVERAGE_DAYS * HOURS_PER_DAY


def units_dropped(dropped: Mapping[str, Mapping[str, int]], sources: Sequence[str]) -> int:
    """Return how many values of some sources the quality rules dropped as another unit.

    Args:
        dropped: Source label → rule → values.
        sources: Labels that feed the signal.
    """
    return sum(dropped.get(label, {}).get(rule, 0) for label in sources for rule in UNIT_RULES)
