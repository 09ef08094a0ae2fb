"""The observation batch between sources, ingest and the lake: its columns and keys."""

from __future__ import annotations

import pandas as pd

UTC_MICROSECONDS = pd.DatetimeTZDtype(unit="us", tz="UTC")
PARSED_COLUMNS = ("timestamp", "signal", "value", "flags", "available_at")
BATCH_COLUMNS = ("city", "timestamp", "signal", "value", "source", "available_at", "flags")
BATCH_KEY = ("city", "timestamp", "signal", "source")
FORECAST_KEY = (*BATCH_KEY, "available_at")
"""A forecast is told apart from the next one about the same hour by when it was issued."""


def empty_rows() -> pd.DataFrame:
    """Return a parsed table without rows, with the right column types."""
    return pd.DataFrame(
        {
            "timestamp": pd.Series([], dtype=UTC_MICROSECONDS),
            "signal": pd.Series([], dtype=str),
            "value": pd.Series([], dtype=float),
            "flags": pd.Series([], dtype=str),
            "available_at": pd.Series([], dtype=UTC_MICROSECONDS),
        }
    )
