"""The table of forecasts that a backtest writes and that scores and the gate read (DESIGN §6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from urbanwm.contracts.signals import QUANTILE_LEVELS
from urbanwm.errors import BadInput

KEY_COLUMNS = ("city", "origin", "timestamp", "signal")
QUANTILE_COLUMNS: tuple[str, ...] = tuple(f"q{round(100 * level):02d}" for level in QUANTILE_LEVELS)
VALUE_COLUMNS = ("mean", *QUANTILE_COLUMNS)
COLUMNS: tuple[str, ...] = (
    "city",
    "origin",
    "timestamp",
    "lead_hours",
    "signal",
    *VALUE_COLUMNS,
    "observed",
)
HOUR = pd.Timedelta(hours=1)


def check_forecasts(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the forecasts with the contract's columns and types, sorted by key; refuse the unscorable.

    A table whose `origin` is the last known hour (timestamp = origin + lead) is shifted to the contract's
    first unknown hour. Rows without an observation may lack quantiles too; they are kept and score nothing.

    Args:
        frame: Columns of `COLUMNS`, others are ignored.
        name: What to call the table in an error, such as "challenger".

    Raises:
        BadInput: Empty; a column is missing, of the wrong type, or not finite where needed; a key repeats.
    """
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise BadInput(f"{name}: column '{missing[0]}' is missing", field=missing[0], allowed=list(COLUMNS))
    if frame.empty:
        raise BadInput(f"{name}: the table has no rows", field="origin", allowed="one origin or more")
    table = frame.loc[:, list(COLUMNS)].copy()
    for column in ("origin", "timestamp"):
        table[column] = _utc(table[column], name)
    for column in ("lead_hours", *VALUE_COLUMNS, "observed"):
        table[column] = _numeric(table[column], name)
    for column in ("city", "signal"):
        if table[column].isna().any():
            raise BadInput(f"{name}: column '{column}' has empty entries", field=column)
        table[column] = table[column].astype(str)
    table = _aligned_leads(table, name)
    duplicated = table.duplicated(list(KEY_COLUMNS))
    if duplicated.any():
        raise BadInput(
            f"{name}: the same city, origin, timestamp and signal occur twice",
            field="timestamp",
            value=str(table.loc[duplicated, "timestamp"].iloc[0]),
            allowed="one row per key",
        )
    return _finite(table, name).sort_values(list(KEY_COLUMNS), ignore_index=True)


def read_forecasts(path: str | Path, name: str) -> pd.DataFrame:
    """Read and check a Parquet file of forecasts.

    Raises:
        BadInput: There is no such file, it is not Parquet, or its content fails `check_forecasts`.
    """
    file = Path(path)
    if not file.is_file():
        raise BadInput(f"{name}: no such file", field=name, value=str(path), allowed="a Parquet file")
    try:
        frame = pd.read_parquet(file)
    except (pa.ArrowException, OSError, ValueError) as failure:
        raise BadInput(
            f"{name}: not a readable Parquet file: {failure}",
            field=name,
            value=str(path),
            allowed="a Parquet file",
        ) from failure
    return check_forecasts(frame, name)


def require_same_rows(reference: pd.DataFrame, other: pd.DataFrame, names: tuple[str, str]) -> None:
    """Refuse two checked tables that do not score the same hours against the same truth.

    Raises:
        BadInput: Names the column in which they differ.
    """
    first, second = names
    for column in ("city", "signal", "origin", "timestamp"):
        only = set(reference[column].unique()) ^ set(other[column].unique())
        if only:
            raise BadInput(
                f"{first} and {second} do not cover the same '{column}'",
                field=column,
                value=str(min(only)),
                allowed="the same rows in both",
            )
    keys = list(KEY_COLUMNS)
    if len(reference) != len(other) or not reference[keys].equals(other[keys]):
        raise BadInput(
            f"{first} and {second} do not have the same hours per origin",
            field="timestamp",
            value=f"{len(reference)} and {len(other)} rows",
            allowed="the same rows in both",
        )
    agree = np.isclose(reference["observed"], other["observed"], rtol=1e-6, atol=1e-9, equal_nan=True)
    if not agree.all():
        row = int(np.flatnonzero(~agree)[0])
        raise BadInput(
            f"{first} and {second} were scored against different observations",
            field="observed",
            value=f"{reference['observed'].iloc[row]} and {other['observed'].iloc[row]}",
            allowed="the same observations in both",
        )


def _utc(column: pd.Series, name: str) -> pd.Series:
    """Return an aware time column in UTC, at one resolution so that tables compare."""
    if not isinstance(column.dtype, pd.DatetimeTZDtype):
        raise BadInput(
            f"{name}: column '{column.name}' is not a time with a zone",
            field=str(column.name),
            value=str(column.dtype),
            allowed="UTC timestamps",
        )
    if column.isna().any():
        raise BadInput(f"{name}: column '{column.name}' has empty entries", field=str(column.name))
    return column.dt.tz_convert("UTC").dt.as_unit("us")


def _numeric(column: pd.Series, name: str) -> pd.Series:
    """Return a number column as float64."""
    if not pd.api.types.is_numeric_dtype(column.dtype):
        raise BadInput(
            f"{name}: column '{column.name}' is not a number",
            field=str(column.name),
            value=str(column.dtype),
            allowed="a number",
        )
    return column.astype(np.float64)


def _aligned_leads(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Check lead = hours since the origin + 1, after shifting an origin that is the last known hour."""
    since = (table["timestamp"] - table["origin"]) / HOUR
    if np.array_equal(since, table["lead_hours"]):
        table["origin"] = (table["origin"] + HOUR).dt.as_unit("us")
        since = since - 1.0
    wrong = (since + 1.0 != table["lead_hours"]) | (table["lead_hours"] < 1)
    if wrong.any():
        raise BadInput(
            f"{name}: column 'lead_hours' does not fit origin and timestamp",
            field="lead_hours",
            value=float(table.loc[wrong, "lead_hours"].iloc[0]),
            allowed="(timestamp - origin) / 1 h + 1",
        )
    table["lead_hours"] = table["lead_hours"].astype(np.int16)
    return table


def _finite(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Refuse infinite numbers, scored rows without a forecast, and a table without anything to score."""
    scored = table["observed"].notna()
    for column in (*VALUE_COLUMNS, "observed"):
        values = table[column].to_numpy()
        if np.isinf(values).any() or np.isnan(values[scored]).any():
            raise BadInput(
                f"{name}: column '{column}' has entries that are not finite",
                field=column,
                value=str(values[~np.isfinite(values) & (scored | np.isinf(values))][0]),
                allowed="finite numbers wherever there is an observation",
            )
    if not scored.any():
        raise BadInput(
            f"{name}: no row has an observation", field="observed", allowed="observations to score"
        )
    return table
