"""The rules that look back along a signal, at most `CONTEXT_DAYS`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.quality.rules import POLLUTANTS, RULES, Checked, Mask
from urbanwm.quality.swap import swapped_days

FLATLINE_HOURS = 6
FLATLINE_HOURS_COARSE = 24
# Whole numbers below this are a coarse scale, on which equal neighbours are ordinary.
COARSE_BELOW = 2000.0
BASE_DAYS, BASE_DAYS_MIN = 28, 7
STEADY_SIGNALS = {"energy_mwh": 4.0, "pressure_hpa": 1.5}
"""Signals that never leave their median of four weeks by such a factor, also in a blackout's hours."""
STEADY_DAYS_MIN = 3
POLLUTANT_JUMP_FLAG, POLLUTANT_JUMP_DROP, POLLUTANT_FALL_FLAG = 10.0, 100.0, 0.01
JUMP_HOURS = 6
SPIKE_FACTOR, SPIKE_NEIGHBOURS_MIN = 5.0, 3
SPIKE_BASE_MIN = 5.0  # µg/m³: five times next to nothing is nothing remarkable
SECONDS_PER_DAY = 86_400
AQI_HOURS = 24
AQI_FACTOR = 1.5
WHOLE_SHARE_BEFORE = 0.2


def check_series(
    rows: pd.DataFrame, *, timezone: str = "UTC", history: pd.DataFrame | None = None
) -> Checked:
    """Apply the rules that look back along each signal; hours must be unique per signal."""
    checked = Checked(rows.sort_values(["signal", "timestamp"], kind="stable", ignore_index=True))
    verdicts: dict[str, Mask] = {}
    for signal, part in checked.rows.groupby("signal", sort=True):
        before = _before(part, signal, history)
        series = pd.Series(
            np.concatenate([before.to_numpy(), part["value"].to_numpy()]),
            index=before.index.append(pd.DatetimeIndex(part["timestamp"])),
        )
        found = _series_verdicts(str(signal), series, timezone)
        for rule, where in found.items():
            verdict = verdicts.setdefault(rule, np.zeros(len(checked.rows), dtype=bool))
            verdict[part.index] = where[len(before) :]
    for rule in (name for name in RULES if name in verdicts and RULES[name].action == "flag"):
        checked.flag(rule, verdicts[rule])
    doomed = np.zeros(len(checked.rows), dtype=bool)
    for rule in (name for name in RULES if name in verdicts and RULES[name].action == "drop"):
        new = verdicts[rule] & ~doomed
        checked.dropped[rule] += int(new.sum())
        doomed |= new
    kept = checked.rows[~doomed].sort_values(["timestamp", "signal"], kind="stable", ignore_index=True)
    return Checked(kept, +checked.dropped, checked.flagged)


def _before(part: pd.DataFrame, signal: object, history: pd.DataFrame | None) -> pd.Series:
    """Return the history of a signal before the batch begins."""
    if history is None or history.empty:
        return pd.Series(np.zeros(0), index=pd.DatetimeIndex(part["timestamp"])[:0])
    mine = history[(history["signal"] == signal) & (history["timestamp"] < part["timestamp"].iloc[0])]
    return pd.Series(mine["value"].to_numpy(), index=pd.DatetimeIndex(mine["timestamp"])).sort_index()


def _series_verdicts(signal: str, series: pd.Series, timezone: str) -> dict[str, Mask]:
    """Return, per rule that can apply to a signal, which hours it hits."""
    found: dict[str, Mask] = {}
    if signal != "precipitation_mm":
        found["flatline"] = _is_flat(series, coarse=signal not in POLLUTANTS)
    if signal in STEADY_SIGNALS:
        found["unit_jump"] = _leaves_its_level(series, STEADY_SIGNALS[signal])
    if signal in POLLUTANTS:
        usual = _usual_level(series)
        ratio = series.rolling(JUMP_HOURS, min_periods=JUMP_HOURS).median().to_numpy() / usual
        found["unit_jump"] = ratio > POLLUTANT_JUMP_DROP
        suspected = (ratio > POLLUTANT_JUMP_FLAG) | (ratio < POLLUTANT_FALL_FLAG)
        found["unit_jump_suspected"] = suspected & ~found["unit_jump"]
        found["aqi_suspected"] = _looks_like_index(series, usual)
    if signal == "pm25":  # NO2 beside a road does rise fivefold within hours
        found["jump_suspected"] = _jumps(series)
    if signal in {"energy_mwh", "traffic_volume", "traffic_index"}:
        found["day_month_swap"] = swapped_days(series, timezone)
    return found


def _is_flat(series: pd.Series, *, coarse: bool) -> Mask:
    """Whether an hour ends a run of equal consecutive hours that is too long for its scale.

    With `coarse`, small whole numbers count as readings of a coarse scale. Zeros always do: a concentration
    below the limit of detection is reported as 0 for hours.
    """
    value = series.to_numpy()
    if len(value) == 0:
        return np.zeros(0, dtype=bool)
    hours = pd.DatetimeIndex(series.index).as_unit("s").asi8 // 3600
    breaks = np.append(True, (np.diff(value) != 0) | (np.diff(hours) != 1))
    start = np.maximum.accumulate(np.where(breaks, np.arange(len(value)), 0))
    run = np.arange(len(value)) - start + 1
    small_whole = (value == np.round(value)) & (np.abs(value) < COARSE_BELOW)
    patient = small_whole if coarse else value == 0
    return run >= np.where(patient, FLATLINE_HOURS_COARSE, FLATLINE_HOURS)


def _jumps(series: pd.Series) -> Mask:
    """Whether an hour stands far above the hours just before it."""
    # The left end is open, so that an hour is not its own neighbour.
    before = series.rolling(f"{JUMP_HOURS}h", min_periods=SPIKE_NEIGHBOURS_MIN, closed="left").median()
    return series.to_numpy() > SPIKE_FACTOR * before.clip(lower=SPIKE_BASE_MIN).to_numpy()


def _leaves_its_level(series: pd.Series, factor: float) -> Mask:
    """Whether an hour is far from the median of the accepted daily medians of the 28 days before its day.

    What was refused does not count as level: a lasting change of unit is refused for weeks, and cannot creep
    in by moving the median, whether the record comes at once or hour by hour.
    """
    value = series.to_numpy(np.float64)
    day = pd.DatetimeIndex(series.index).as_unit("s").asi8 // SECONDS_PER_DAY
    refused = np.zeros(len(value), dtype=bool)
    accepted: deque[tuple[int, float]] = deque()
    firsts = np.flatnonzero(np.diff(day, prepend=-1))
    for first, end in zip(firsts, [*firsts[1:], len(value)], strict=True):
        while accepted and accepted[0][0] < day[first] - BASE_DAYS:
            accepted.popleft()
        today = slice(first, end)
        if len(accepted) >= STEADY_DAYS_MIN:
            ratio = value[today] / np.median([level for _, level in accepted])
            refused[today] = (ratio > factor) | (ratio < 1 / factor)
        kept = value[today][~refused[today]]
        if len(kept):
            accepted.append((int(day[first]), float(np.median(kept))))
    return refused


def _usual_level(series: pd.Series) -> NDArray[np.float64]:
    """Return the median of the daily medians of the 28 days before each hour's day; NaN under 7 days."""
    return _trailing_days(series, lambda days: days.median(), lambda window: window.median())


def _trailing_days(
    series: pd.Series,
    per_day: Callable[[pd.core.resample.Resampler], pd.Series],
    over_days: Callable[[pd.core.window.Rolling], pd.Series],
) -> NDArray[np.float64]:
    """Summarise the days before each hour's own UTC day."""
    if series.empty:
        return np.zeros(0)
    daily = per_day(series.resample("1D"))
    before = over_days(daily.rolling(BASE_DAYS, min_periods=BASE_DAYS_MIN)).shift(1)
    level = before.reindex(pd.DatetimeIndex(series.index).floor("D")).to_numpy()
    return np.where(level > 0, level, np.nan)


def _looks_like_index(series: pd.Series, usual: NDArray[np.float64]) -> Mask:
    """Whether a fractional concentration has turned into whole numbers on a much higher level."""
    whole = (series == series.round()).astype(float)
    all_whole = whole.rolling(AQI_HOURS, min_periods=AQI_HOURS).min().to_numpy() == 1
    # The share is 0 for a series of fractions; 1 - share keeps it positive for the shared helper.
    fractions = _trailing_days(1 - whole, lambda days: days.mean(), lambda window: window.mean())
    level = series.rolling(AQI_HOURS, min_periods=AQI_HOURS).median().to_numpy()
    suspect: Mask = all_whole & (fractions > 1 - WHOLE_SHARE_BEFORE) & (level > AQI_FACTOR * usual)
    return suspect
