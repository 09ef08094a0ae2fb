"""How the observations table is laid out, and the pure conversions between its rows and frames."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from urbanwm.contracts.tables import UTC_MICROSECONDS
from urbanwm.errors import InternalContractBroken
from urbanwm.lake.offers import HOUR_MICROSECONDS
from urbanwm.lake.row_flags import RowFlags, plain_text
from urbanwm.lake.winners import MICROSECOND_TIME, signal_columns

KEY_FIELDS = (
    pa.field("city", pa.string(), nullable=False),
    pa.field("timestamp", MICROSECOND_TIME, nullable=False),
    pa.field("year", pa.int32(), nullable=False),
    pa.field("flags", pa.string()),
)
TABLE_CONFIGURATION = {
    # Only what the predicates name: 40 columns of statistics would make every commit slower to read.
    "delta.dataSkippingStatsColumns": "city,timestamp",
    # A version stays readable until `Lake.vacuum` says otherwise; the default forgets it after 30 days.
    "delta.logRetentionDuration": "interval 36500 days",
    # How long a checkpoint lists a replaced file: a full vacuum finds it without, and the log stays short.
    "delta.deletedFileRetentionDuration": "interval 7 days",
}
PROVENANCE_COLUMNS = ("timestamp", "signal", "value", "source", "available_at", "flags")


def microseconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return a time column as int64 microseconds; null becomes 0."""
    numbers: NDArray[np.int64] = column.cast(pa.int64()).fill_null(0).to_numpy()
    return numbers


def hourly_frame(rows: pa.Table, signals: Sequence[str], known_at: datetime | None = None) -> pd.DataFrame:
    """Lay wide rows of one city on the full hourly grid from the first to the last row.

    Args:
        rows: `timestamp` and, per signal that the table has, its value (and available_at with `known_at`).
        signals: Columns of the result; a signal that the table lacks is all NaN.
        known_at: Values that became known later than this are masked.

    Raises:
        InternalContractBroken: An hour occurs twice.
    """
    hours = microseconds(rows["timestamp"]) // HOUR_MICROSECONDS
    first = hours.min()
    place = hours - first
    if len(np.unique(place)) < len(place):
        raise InternalContractBroken("the lake holds an hour of a city twice", field="timestamp")
    grid = np.full((int(place.max()) + 1, len(signals)), np.nan)
    for column, signal in enumerate(signals):
        if signal not in rows.column_names:
            continue
        values = rows[signal].to_numpy()
        if known_at is not None:
            limit = pd.Timestamp(known_at).as_unit("us").value // pd.Timedelta("1us").value
            available = microseconds(rows[signal_columns(signal)[2]])
            values = np.where(available > limit, np.nan, values)
        grid[place, column] = values
    start = pd.Timestamp(int(first) * HOUR_MICROSECONDS, unit="us", tz="UTC").as_unit("us")
    index = pd.date_range(start, periods=len(grid), freq="h", name="timestamp", unit="us")
    return pd.DataFrame(grid, index=index, columns=list(signals))


def long_frame(rows: pa.Table, signals: Sequence[str]) -> pd.DataFrame:
    """Return one row per present value: timestamp, signal, value, source, available_at, flags."""
    flags = RowFlags(rows["flags"])
    stamps = rows["timestamp"].to_pandas().astype(UTC_MICROSECONDS)
    parts = []
    for signal in signals:
        value, source, available = (rows[name] for name in signal_columns(signal))
        present = value.is_valid().to_numpy()
        parts.append(
            pd.DataFrame(
                {
                    "timestamp": stamps[present],
                    "signal": signal,
                    "value": value.to_numpy()[present],
                    "source": plain_text(source).to_numpy(zero_copy_only=False)[present],
                    "available_at": available.to_pandas().astype(UTC_MICROSECONDS)[present],
                    "flags": flags.of(signal)[present],
                },
                columns=list(PROVENANCE_COLUMNS),
            )
        )
    kept = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(kept).sort_values(["timestamp", "signal"], kind="stable", ignore_index=True)
