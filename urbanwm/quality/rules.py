"""The data-quality rules: which observations are dropped, which are flagged, and why.

Rules of one value look at nothing else. Rules of a series look only backwards, at most `CONTEXT_DAYS`, so a
record gives the same flags whether it arrives at once or hour by hour. The one exception is the day/month
swap, which needs half a year of a file to be seen at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.contracts.signals import SIGNALS
from urbanwm.errors import InternalContractBroken
from urbanwm.quality.swap import swapped_days

Mask = NDArray[np.bool_]

CONTEXT_DAYS = 30
"""Days of history before a batch that the rules of a series want to see."""
POLLUTANTS = ("pm25", "no2")
SENTINELS = (-999.0, -9999.0, -99999.0, 99999.0, 999999.0)
POLLUTANT_SENTINELS = (999.0, 9999.0)
NOISE_FLOOR = -5.0  # µg/m³: a zero-drift of the instrument; below it the value means nothing
DAYTIME_HOURS = (6, 22)
FLATLINE_HOURS = 6
FLATLINE_HOURS_COARSE = 24
# Whole numbers below this are a coarse scale, on which equal neighbours are ordinary.
COARSE_BELOW = 2000.0
BASE_DAYS, BASE_DAYS_MIN = 28, 7
STEADY_SIGNALS = {"energy_mwh": 8.0, "pressure_hpa": 1.5}
"""Signals that never leave their median of four weeks by such a factor."""
POLLUTANT_JUMP_FLAG, POLLUTANT_JUMP_DROP = 10.0, 100.0
JUMP_HOURS = 6
AQI_HOURS = 24
AQI_FACTOR = 1.5
WHOLE_SHARE_BEFORE = 0.2


@dataclass(frozen=True)
class Rule:
    """One rule: its name in counts and flags, what it does, and what it means to a reader."""

    name: str
    action: Literal["drop", "flag", "raise"]
    meaning: str


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("naive_time", "raise", "a time without a zone; a guess would shift the record"),
        Rule("duplicate", "drop", "the same hour again in one answer; the last one counts"),
        Rule("sentinel", "drop", "a code for missing, such as -999"),
        Rule("negative", "drop", "a concentration below -5 µg/m³"),
        Rule("negative_to_zero", "flag", "a concentration from -5 to 0 µg/m³, stored as 0: zero drift"),
        Rule("out_of_range", "drop", "outside what the signal can be (contracts/signals.py)"),
        Rule("future", "drop", "the hour had not begun when the answer was received"),
        Rule("zero_is_missing", "drop", "no electricity at all, or no traffic at all by day"),
        Rule("flatline", "flag", "the 6th equal hour or later (24th on a coarse scale): a frozen sensor"),
        Rule("unit_jump", "drop", "far from the median of the last 28 days: another unit"),
        Rule("unit_jump_suspected", "flag", "6 hours at more than 10 times the median of the last 28 days"),
        Rule(
            "aqi_suspected", "flag", "a day of whole numbers, much higher than the fractions before: an index"
        ),
        Rule("day_month_swap", "drop", "days up to the 12th follow the weekday of the swapped date"),
    )
}


@dataclass
class Checked:
    """What is left of a batch, and the account of the rest.

    Attributes:
        rows: The rows kept, flags added; other columns untouched, in order of time and signal.
        dropped: Rows dropped per rule.
        flagged: Rows flagged per rule.
    """

    rows: pd.DataFrame
    dropped: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)

    def drop(self, rule: str, where: Mask) -> None:
        """Drop rows and count them."""
        if where.any():
            self.dropped[rule] += int(where.sum())
            self.rows = self.rows[~where]

    def flag(self, rule: str, where: Mask) -> None:
        """Flag rows and count them; a flag that is there already is not repeated."""
        if where.any():
            self.flagged[rule] += int(where.sum())
            flags = self.rows["flags"].to_numpy(dtype=object, copy=True)
            flags[where] = [_with_flag(text, rule) for text in flags[where]]
            self.rows = self.rows.assign(flags=flags)


def _with_flag(text: str, rule: str) -> str:
    return text if rule in text.split(",") else f"{text},{rule}".lstrip(",")


def check(
    batch: pd.DataFrame,
    *,
    timezone: str = "UTC",
    now: datetime | None = None,
    history: pd.DataFrame | None = None,
) -> Checked:
    """Apply every rule to the rows of one source and one city.

    Args:
        batch: At least `timestamp` (UTC, hour start), `signal`, `value`, `flags`.
        timezone: The city's IANA zone, for the rules that know day from night.
        now: When the answer was received; None skips the rule against future hours.
        history: Earlier rows of the same source (`timestamp`, `signal`, `value`), context only.

    Raises:
        InternalContractBroken: A time is naive.
    """
    points = check_points(batch, timezone=timezone, now=now)
    series = check_series(points.rows, timezone=timezone, history=history)
    return Checked(series.rows, points.dropped + series.dropped, points.flagged + series.flagged)


def check_points(
    batch: pd.DataFrame, *, timezone: str = "UTC", now: datetime | pd.Series | None = None
) -> Checked:
    """Apply the rules that look at one value at a time; arguments as `check`.

    With `now` a series, one time per row, the rows of many answers are checked at once: rows that were
    received at different times do not count as repetitions of each other.
    """
    if not isinstance(batch["timestamp"].dtype, pd.DatetimeTZDtype):
        raise InternalContractBroken("naive_time: timestamps carry no zone", field="timestamp")
    checked = Checked(batch.reset_index(drop=True))
    received = pd.Series(pd.NaT if now is None else now, index=batch.index).reset_index(drop=True)
    repeated = (
        checked.rows[["timestamp", "signal"]].assign(received=received).duplicated(keep="last").to_numpy()
    )
    future = (
        np.zeros(len(batch), dtype=bool) if now is None else (checked.rows["timestamp"] > received).to_numpy()
    )
    checked.drop("duplicate", repeated)
    checked.drop("future", future[~repeated])
    rules: tuple[tuple[str, Callable[[pd.DataFrame], Mask]], ...] = (
        ("sentinel", _is_sentinel),
        ("negative", lambda rows: _is_pollutant(rows) & (rows["value"].to_numpy() < NOISE_FLOOR)),
    )
    for name, applies in rules:
        checked.drop(name, applies(checked.rows))
    drifted = _is_pollutant(checked.rows) & (checked.rows["value"].to_numpy() < 0)
    checked.flag("negative_to_zero", drifted)
    checked.rows = checked.rows.assign(value=np.where(drifted, 0.0, checked.rows["value"].to_numpy()))
    checked.drop("out_of_range", _is_out_of_range(checked.rows))
    checked.drop("zero_is_missing", _is_zero_for_missing(checked.rows, timezone))
    return checked


def _is_pollutant(rows: pd.DataFrame) -> Mask:
    return np.asarray(rows["signal"].isin(POLLUTANTS), dtype=bool)


def _is_sentinel(rows: pd.DataFrame) -> Mask:
    value = rows["value"]
    pollutant = _is_pollutant(rows) & np.asarray(value.isin(POLLUTANT_SENTINELS))
    # 99,999 MWh and veh/h are real numbers; a negative code never is.
    large = ~np.asarray(rows["signal"].isin(("energy_mwh", "traffic_volume"))) | (value.to_numpy() < 0)
    code: Mask = pollutant | (np.asarray(value.isin(SENTINELS)) & large)
    return code


def _is_out_of_range(rows: pd.DataFrame) -> Mask:
    value = rows["value"].to_numpy(np.float64)
    lowest = rows["signal"].map({name: signal.minimum for name, signal in SIGNALS.items()}).to_numpy(float)
    highest = rows["signal"].map({name: signal.maximum for name, signal in SIGNALS.items()}).to_numpy(float)
    possible: Mask = (value >= lowest) & (value <= highest)
    return ~possible


def _is_zero_for_missing(rows: pd.DataFrame, timezone: str) -> Mask:
    zero: Mask = rows["value"].to_numpy(np.float64) == 0
    hour = rows["timestamp"].dt.tz_convert(timezone).dt.hour
    by_day = hour.between(DAYTIME_HOURS[0], DAYTIME_HOURS[1] - 1).to_numpy()
    signal = rows["signal"]
    traffic = signal.isin(("traffic_index", "traffic_volume")).to_numpy()
    silent: Mask = zero & ((signal == "energy_mwh").to_numpy() | (traffic & by_day))
    return silent


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
        found["flatline"] = _is_flat(series)
    if signal in STEADY_SIGNALS:
        ratio = series.to_numpy() / _usual_level(series)
        factor = STEADY_SIGNALS[signal]
        found["unit_jump"] = (ratio > factor) | (ratio < 1 / factor)
    if signal in POLLUTANTS:
        usual = _usual_level(series)
        ratio = series.rolling(JUMP_HOURS, min_periods=JUMP_HOURS).median().to_numpy() / usual
        found["unit_jump"] = ratio > POLLUTANT_JUMP_DROP
        found["unit_jump_suspected"] = (ratio > POLLUTANT_JUMP_FLAG) & ~found["unit_jump"]
        found["aqi_suspected"] = _looks_like_index(series, usual)
    if signal in {"energy_mwh", "traffic_volume", "traffic_index"}:
        found["day_month_swap"] = swapped_days(series, timezone)
    return found


def _is_flat(series: pd.Series) -> Mask:
    """Whether an hour ends a run of equal consecutive hours that is too long for its scale."""
    value = series.to_numpy()
    if len(value) == 0:
        return np.zeros(0, dtype=bool)
    hours = pd.DatetimeIndex(series.index).as_unit("s").asi8 // 3600
    breaks = np.append(True, (np.diff(value) != 0) | (np.diff(hours) != 1))
    start = np.maximum.accumulate(np.where(breaks, np.arange(len(value)), 0))
    run = np.arange(len(value)) - start + 1
    coarse = (value == np.round(value)) & (np.abs(value) < COARSE_BELOW)
    return run >= np.where(coarse, FLATLINE_HOURS_COARSE, FLATLINE_HOURS)


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
