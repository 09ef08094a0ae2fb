"""Time stamps of files: text or typed, naive or aware, local or UTC, turned into UTC without guessing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.contracts.tables import UTC_MICROSECONDS

HOUR = pd.Timedelta(hours=1)
DISORDER_TOLERATED = 0.01  # share of rows against the file's direction: a few appended corrections
WITH_OFFSET = r"\d{2}:\d{2}.*(?:[Zz]|[+-]\d{2}(?::?\d{2})?)$"


def utc_stamps(
    column: pd.Series, timezone: str, timestamp_format: str | None = None
) -> tuple[pd.DatetimeIndex, Counter[str]]:
    """Return the stamps in UTC, NaT where one cannot be told, and the count of those per reason.

    A stamp with an offset is an instant. A naive one is wall time of `timezone`: the spring hour that no
    clock showed is dropped (`nonexistent_hour`); the autumn hour that it showed twice is kept when the file
    has both, in the order of the file, and dropped (`ambiguous_hour`) when it has only one.
    Text is ISO 8601 unless a `strptime` format is given: day and month are never guessed.
    """
    naive, aware = _read_stamps(column, timestamp_format)
    dropped: Counter[str] = Counter()
    _count(dropped, "bad_timestamp", naive.isna() & aware.isna())
    local = _localise(naive, timezone, dropped)
    return aware.where(aware.notna(), local), dropped


def _count(dropped: Counter[str], reason: str, where: NDArray[np.bool_]) -> None:
    """Count the marked rows, leaving no zero behind."""
    number = int(np.count_nonzero(where))
    if number:
        dropped[reason] += number


def _nowhere(length: int) -> pd.DatetimeIndex:
    """Return that many NaT."""
    return pd.DatetimeIndex(np.full(length, np.datetime64("NaT", "us")))


def _read_stamps(
    column: pd.Series, timestamp_format: str | None
) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Split a column into naive wall times and aware UTC times; a row that is neither is NaT in both."""
    nowhere = _nowhere(len(column))
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return nowhere, pd.DatetimeIndex(column).astype(UTC_MICROSECONDS)
    if pd.api.types.is_datetime64_dtype(column.dtype):
        return pd.DatetimeIndex(column).astype("datetime64[us]"), nowhere.tz_localize("UTC")
    if pd.api.types.is_numeric_dtype(column.dtype) and timestamp_format is None:
        return nowhere, nowhere.tz_localize("UTC")  # a bare number could be an epoch, a year or an Excel day
    text = column.astype(str).str.strip()
    has_offset = text.str.contains(WITH_OFFSET, regex=True).to_numpy(dtype=bool)
    if timestamp_format is not None:
        has_offset[:] = "%z" in timestamp_format
    layout = timestamp_format or "ISO8601"
    naive = pd.to_datetime(text.where(~has_offset), format=layout, errors="coerce")
    aware = pd.to_datetime(text.where(has_offset), format=layout, errors="coerce", utc=True)
    return pd.DatetimeIndex(naive).astype("datetime64[us]"), pd.DatetimeIndex(aware).astype(UTC_MICROSECONDS)


def _localise(naive: pd.DatetimeIndex, timezone: str, dropped: Counter[str]) -> pd.DatetimeIndex:
    """Read wall times of a zone as instants."""
    # The zone goes in by name: with a ZoneInfo object pandas 2 takes 70 times as long.
    early = naive.tz_localize(timezone, ambiguous=np.ones(len(naive), dtype=bool), nonexistent="NaT")
    late = naive.tz_localize(timezone, ambiguous=np.zeros(len(naive), dtype=bool), nonexistent="NaT")
    _count(dropped, "nonexistent_hour", naive.notna() & early.isna())
    ambiguous = early.notna() & (early != late)
    take_late, undecided = _autumn_order(naive, ambiguous)
    _count(dropped, "ambiguous_hour", undecided)
    chosen = late.where(take_late, early).where(~undecided)
    return pd.DatetimeIndex(chosen).astype(UTC_MICROSECONDS)


def _autumn_order(
    naive: pd.DatetimeIndex, ambiguous: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which ambiguous rows are the second instance of their wall time, and which stay undecided."""
    nothing = np.zeros(len(naive), dtype=bool)
    if not ambiguous.any():
        return nothing, nothing
    steps = np.diff(naive[~ambiguous & naive.notna()].to_numpy()).astype(np.int64)
    backwards, forwards = np.count_nonzero(steps < 0), np.count_nonzero(steps > 0)
    disorder = min(backwards, forwards) / max(1, steps.size)
    stamps = pd.Series(np.arange(len(naive)))[ambiguous].groupby(naive[ambiguous])
    second, twice = nothing.copy(), nothing.copy()
    second[ambiguous] = (stamps.cumcount() == 1).to_numpy() ^ (backwards > forwards)
    twice[ambiguous] = (stamps.transform("size") == 2).to_numpy()
    # In a file without an order, order does not say which instance came first.
    return second & twice, ambiguous & (~twice | (disorder > DISORDER_TOLERATED))


def resolution_of(stamps: pd.DatetimeIndex) -> pd.Timedelta:
    """Return the usual distance of consecutive stamps, at most one hour (also for a single stamp)."""
    steps = np.diff(np.unique(stamps.dropna().as_unit("us").asi8))
    if steps.size == 0:
        return HOUR
    return min(HOUR, pd.Timedelta(int(np.median(steps)), unit="us"))
