"""Like with like: each hour against the same local hour of the same kind of day in the weeks before.

Levels are compared as logarithms, so that a change of scale is a shift, the same at noon and at midnight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.features.calendar import (
    HOURS_PER_DAY,
    REST_DAY,
    SATURDAY_CLASS,
    SPECIAL_DAY,
    WORKDAY,
    CityCalendar,
    local_days,
)

Float = NDArray[np.float64]

FLOORS: Final = {"pm25": 0.5, "energy_mwh": 1e-6, "traffic_index": 0.05}
"""Level below which a ratio says nothing: the resolution of the instrument, in the signal's unit."""
REFERENCE_DAYS: Final = 56
MINIMUM_SIMILAR_DAYS: Final = 4


@dataclass(frozen=True)
class Deviations:
    """One signal's log ratio to similar hours, laid out in local days.

    Attributes:
        values: `(days, 24)`, NaN where the hour or its likes are missing.
        special: `(days,)` bridge days and the weeks around New Year: without likes, they count as workdays.
        last: Position in `values.ravel()` behind the last hour of the record.
    """

    values: Float
    special: NDArray[np.bool_]
    last: int

    def hours(self) -> Float:
        """Return the deviations hour after hour up to the end of the record, `(last,)`."""
        return self.values.ravel()[: self.last]

    def whole_days(self) -> int:
        """Return how many local days are over."""
        return self.last // HOURS_PER_DAY


def deviations(series: pd.Series, signal: str, calendar: CityCalendar, gap_days: int = 0) -> Deviations:
    """Return log(value ÷ median of its likes): same local hour, same class of day, 8 weeks before.

    Args:
        series: Hourly, UTC, regular; NaN = missing.
        signal: A target; gives the floor of its level.
        calendar: Time zone and holidays.
        gap_days: Days before each day that its reference leaves out, beside the day itself.
    """
    index = pd.DatetimeIndex(series.index)
    days = local_days(index, calendar)
    table = np.full((len(days.day_class), HOURS_PER_DAY), np.nan)
    table[days.day, days.hour] = np.log(np.maximum(series.to_numpy(np.float64), FLOORS[signal]))
    special = days.day_class == SPECIAL_DAY
    kind = np.where(special, WORKDAY, days.day_class)
    date = pd.date_range("2000-01-01", periods=len(table), freq="D")
    usual = np.full_like(table, np.nan)
    for wanted in (WORKDAY, SATURDAY_CLASS, REST_DAY):
        # Special days are compared with workdays, but are nobody's reference.
        chosen = (kind == wanted) & ~special
        if not chosen.any():
            continue
        rolled = pd.DataFrame(table[chosen], index=date[chosen]).rolling(
            f"{REFERENCE_DAYS}D", min_periods=MINIMUM_SIMILAR_DAYS
        )
        known = date[kind == wanted] - pd.Timedelta(days=gap_days + 1)
        usual[kind == wanted] = rolled.median().reindex(known, method="ffill").to_numpy()
    return Deviations(table - usual, special, int(days.day[-1]) * HOURS_PER_DAY + int(days.hour[-1]) + 1)
