"""What the record of a city looks like: coverage by month, gaps, flags."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd

from urbanwm.quality.rules import RULES

GAP_COLUMNS = ("signal", "start", "end", "hours")
FLAG_COLUMNS = ("signal", "flag", "hours", "meaning")


def coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of hours with a value per month (rows, UTC, "YYYY-MM") and signal (columns), 0 to 1.

    Args:
        frame: Hourly grid as `Lake.read` gives it. The first and last month count only the hours of the grid.
    """
    month = pd.DatetimeIndex(frame.index).strftime("%Y-%m")
    return frame.notna().groupby(month).mean().rename_axis(index="month", columns="signal")


def gaps(frame: pd.DataFrame, longer_than: timedelta = timedelta(hours=0)) -> pd.DataFrame:
    """Return every run of missing hours between the first and the last value of a signal, longest first.

    Args:
        frame: Hourly grid as `Lake.read` gives it.
        longer_than: Leave out runs up to this long.

    Returns:
        Columns signal, start (first missing hour), end (first hour with a value again), hours.
    """
    found = []
    for signal in frame.columns:
        series = frame[signal].loc[frame[signal].first_valid_index() : frame[signal].last_valid_index()]
        missing = series.isna().to_numpy() if frame[signal].notna().any() else np.zeros(0, dtype=bool)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(np.int8)))
        for first, end in edges.reshape(-1, 2):
            if timedelta(hours=int(end - first)) > longer_than:
                found.append((signal, series.index[first], series.index[end], int(end - first)))
    table = pd.DataFrame(found, columns=list(GAP_COLUMNS))
    return table.sort_values(["hours", "signal", "start"], ascending=[False, True, True], ignore_index=True)


def flag_counts(provenance: pd.DataFrame) -> pd.DataFrame:
    """Return how many hours carry each flag, per signal, most frequent first.

    Args:
        provenance: As `Lake.read_provenance` gives it.

    Returns:
        Columns signal, flag, hours, meaning ("" for a flag that a source set; its module explains it).
    """
    flagged = provenance.loc[provenance["flags"] != "", ["signal", "flags"]]
    single = flagged.assign(flag=flagged["flags"].str.split(",")).explode("flag")
    counts = single.groupby(["signal", "flag"]).size().rename("hours").reset_index()
    counts["meaning"] = [RULES[name].meaning if name in RULES else "" for name in counts["flag"]]
    counts = counts.sort_values(["hours", "signal", "flag"], ascending=[False, True, True], ignore_index=True)
    return counts.loc[:, list(FLAG_COLUMNS)]
