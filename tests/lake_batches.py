"""Small observation batches for the tests of the lake."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd

from urbanwm.contracts.tables import BATCH_COLUMNS, UTC_MICROSECONDS

START = datetime(2025, 3, 1, tzinfo=UTC)


def observation(
    hour: int,
    value: float,
    *,
    city: str = "x",
    signal: str = "pm25",
    source: str = "a",
    known: float | None = None,
    flags: str = "",
) -> dict[str, object]:
    """Return one observation `hour` hours after START; `known`: hours after START (default: hour + 1)."""
    return {
        "city": city,
        "timestamp": START + timedelta(hours=hour),
        "signal": signal,
        "value": float(value),
        "source": source,
        "available_at": START + timedelta(hours=hour + 1 if known is None else known),
        "flags": flags,
    }


def batch(*rows: dict[str, object]) -> pd.DataFrame:
    """Return observations as a batch with the contract's types."""
    frame = pd.DataFrame(list(rows), columns=list(BATCH_COLUMNS))
    for column in ("timestamp", "available_at"):
        frame[column] = pd.to_datetime(frame[column], utc=True).astype(UTC_MICROSECONDS)
    frame["value"] = frame["value"].astype(float)
    return frame


def series(values: list[float], **options: object) -> pd.DataFrame:
    """Return a batch of consecutive hours from START."""
    return batch(*(observation(hour, value, **options) for hour, value in enumerate(values)))


def long_batch(frame: pd.DataFrame, city: str, signals: list[str], source: str) -> pd.DataFrame:
    """Turn a wide recording (column `timestamp`) into a batch; a value is known an hour after its hour."""
    rows = frame.melt(id_vars=["timestamp"], value_vars=signals, var_name="signal").dropna(subset="value")
    stamps = rows["timestamp"].astype(UTC_MICROSECONDS)
    known = (stamps + pd.Timedelta(hours=1)).astype(UTC_MICROSECONDS)
    rows = rows.assign(
        city=city,
        timestamp=stamps,
        value=rows["value"].astype(float),
        source=source,
        available_at=known,
        flags="",
    )
    return rows.loc[:, list(BATCH_COLUMNS)].reset_index(drop=True)
