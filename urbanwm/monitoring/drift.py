"""Drift, like with like: are the last days further from usual than such days ever were?

The deviation of a week is the mean log ratio of its hours to the same local hours of the same kind of day in
the eight weeks before the window, less what the same weeks of earlier years deviated (a summer break
returns). It is judged against the deviations of all earlier windows of the same length, so the dependence
between neighbouring hours and days is in the yardstick itself, as in a block bootstrap with blocks of the
window's length. False alarms are measured: `python -m benchmarks.monitoring`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.features.calendar import HOURS_PER_DAY, CityCalendar
from urbanwm.monitoring.similar import deviations

Float = NDArray[np.float64]

WINDOW_DAYS: Final = 7
WINDOW_DAYS_MIN: Final = 5
HOURS_PER_DAY_MIN: Final = 12
YARDSTICK_WINDOWS: Final = 90
"""Earlier windows without which nothing is judged: a quarter."""
HISTORY_DAYS: Final = 1100
LIMIT: Final = 3.5
"""Root mean squares of earlier windows; see the measured false alarms in docs/runbook.md."""
NEGLIGIBLE_CHANGE: Final = 0.05
"""A change of the level below this is not worth a person's time, however steady the signal is."""
SEASON_HALF_WIDTH_DAYS: Final = 7
SEASON_SHRINKAGE_YEARS: Final = 0.5
"""k earlier years count k / (k + this): one year's weather is not yet a season."""
DAYS_PER_YEAR: Final = 364
"""52 whole weeks, so that a Monday meets a Monday."""


@dataclass(frozen=True)
class Drift:
    """One window judged.

    Attributes:
        change: Ratio to the likes, minus 1.
        score: In root mean squares of earlier windows; None: too short a record to say.
    """

    change: float
    score: float | None

    @property
    def alarming(self) -> bool:
        """Whether the score is beyond the limit."""
        return self.score is not None and abs(self.score) > LIMIT


def drift(series: pd.Series, signal: str, calendar: CityCalendar) -> Drift | None:
    """Judge the last whole local days of a record; None where they have too few values.

    Args:
        series: Hourly, UTC, regular, up to the night; NaN = missing.
        signal: A target.
        calendar: Time zone and holidays.
    """
    windows = window_deviations(series, signal, calendar)
    if len(windows) == 0 or np.isnan(windows[-1]):
        return None
    score = window_scores(windows, first=len(windows) - 1)[-1]
    return Drift(float(np.expm1(windows[-1])), None if np.isnan(score) else float(score))


def window_deviations(
    series: pd.Series, signal: str, calendar: CityCalendar, history_days: int = HISTORY_DAYS
) -> Float:
    """Return, per whole local day, the deviation of the window that it ends, season taken off, `(days,)`."""
    recent = series.iloc[-history_days * HOURS_PER_DAY :]
    found = deviations(recent, signal, calendar, gap_days=WINDOW_DAYS - 1)
    values = found.values[: found.whole_days()]
    enough = (~np.isnan(values)).sum(axis=1) >= HOURS_PER_DAY_MIN
    daily = np.full(len(values), np.nan)
    judged = enough & ~found.special[: len(values)]
    daily[judged] = np.nanmean(values[judged], axis=1)
    windows = pd.Series(daily).rolling(WINDOW_DAYS, min_periods=WINDOW_DAYS_MIN).mean().to_numpy()
    return windows - _season(windows)


def _season(windows: Float) -> Float:
    """Return what the same weeks of earlier years deviated, shrunk towards 0, `(days,)`."""
    width = 2 * SEASON_HALF_WIDTH_DAYS + 1
    smooth = pd.Series(windows).rolling(width, center=True, min_periods=SEASON_HALF_WIDTH_DAYS).mean()
    years = range(DAYS_PER_YEAR, len(windows), DAYS_PER_YEAR)
    past = pd.concat([smooth.shift(days) for days in years], axis=1) if years else pd.DataFrame()
    if past.empty:
        return np.zeros(len(windows))
    count = past.notna().sum(axis=1)
    return (past.sum(axis=1) / (count + SEASON_SHRINKAGE_YEARS)).to_numpy(np.float64)


def window_scores(windows: Float, first: int = 0) -> Float:
    """Return each window in root mean squares of the windows that ended before it began, `(days,)`.

    Args:
        windows: As `window_deviations` returns them.
        first: Days before this one are not scored (NaN).
    """
    scores = np.full(len(windows), np.nan)
    for day in range(max(first, WINDOW_DAYS), len(windows)):
        past = windows[: day - WINDOW_DAYS + 1]
        past = past[~np.isnan(past)]
        if len(past) >= YARDSTICK_WINDOWS:
            scores[day] = windows[day] / max(float(np.sqrt(np.mean(past**2))), NEGLIGIBLE_CHANGE / LIMIT)
    return scores
