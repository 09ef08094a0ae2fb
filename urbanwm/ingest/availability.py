"""When each value became known: the first time its source gave it, not the last time we asked."""

from __future__ import annotations

import numpy as np
import pandas as pd

from urbanwm.contracts.tables import UTC_MICROSECONDS

# A source that does not say when it corrected a value (a file) states an assumed time, the same for both.
# The correction must rank after what it corrects, and it is still assumed to have been known in its hour.
REVISION_STEP_MICROSECONDS = 1


def settle(rows: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """Reduce everything that one source said to its present word per hour and signal.

    A value that a source repeats keeps the time at which it was first given, so asking again changes nothing.
    A changed value is later than the value it replaces, by at least one microsecond.

    Args:
        rows: `timestamp`, `signal`, `value`, `flags`, `available_at` (NaT: when it was fetched) and
            `fetched_at`, in the order in which the source said it.
        stored: Present word of the same source, `timestamp`, `signal`, `value`, `available_at`; unique.

    Returns:
        `rows` with one row per (timestamp, signal), `available_at` complete, without `fetched_at`.
    """
    said = rows.assign(available_at=rows["available_at"].fillna(rows["fetched_at"]), old=False)
    head = stored.loc[:, ["timestamp", "signal", "value", "available_at"]].assign(flags="", old=True)
    columns = ["timestamp", "signal", "value", "flags", "available_at", "old"]
    told = pd.concat([head[columns], said[columns]], ignore_index=True) if len(head) else said[columns]
    told = told.sort_values(["signal", "timestamp"], kind="stable", ignore_index=True)
    same_key = (told["signal"] == told["signal"].shift()) & (told["timestamp"] == told["timestamp"].shift())
    first = ~same_key.to_numpy()
    changed = first | (told["value"] != told["value"].shift()).to_numpy()
    key = np.cumsum(first)
    # Times of the changes of a key: each at least one step after the one before, t_k = k + max(c_j - j).
    change = told.loc[changed, "available_at"].astype(UTC_MICROSECONDS).dt.as_unit("us")
    step = pd.Series(np.cumsum(changed)[changed] * REVISION_STEP_MICROSECONDS)
    micros = pd.Series(pd.DatetimeIndex(change).asi8) - step
    times = micros.groupby(key[changed]).cummax() + step
    known = times.to_numpy()[np.cumsum(changed) - 1]
    told["available_at"] = pd.DatetimeIndex(known.astype("datetime64[us]"), tz="UTC")
    last = np.append(first[1:], True)
    return told[last & ~told["old"].to_numpy()].drop(columns="old").reset_index(drop=True)


def news(rows: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that say something else than what is stored of the same source."""
    if stored.empty:
        return rows
    key = ["timestamp", "signal"]
    known = rows[key].merge(stored[[*key, "value", "available_at", "flags"]], on=key, how="left")
    repeated = np.ones(len(rows), dtype=bool)
    for column in ("value", "available_at", "flags"):
        repeated &= known[column].to_numpy() == rows[column].to_numpy()
    return rows[~repeated]
