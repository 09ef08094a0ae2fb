"""The bytes of a CSV or Parquet file as columns; every way such a file can be broken has a named error."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from urbanwm.contracts.signals import nearest_name
from urbanwm.errors import MalformedPayload, NoData, RequestRefused

NAME = "file"
PARQUET_MAGIC = b"PAR1"
PARQUET_SUFFIXES = (".parquet", ".pq")
# Texts that say "no value" in the files of agencies and spreadsheets.
MISSING_TEXTS = ("", "-", "--", "na", "n/a", "nan", "null", "none", "nil", "missing")

FileFormat = Literal["auto", "csv", "parquet"]
Choose = Callable[[Sequence[str]], list[str]]


def read_columns(
    body: bytes,
    name: str,
    choose: Choose,
    *,
    file_format: FileFormat = "auto",
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
) -> tuple[pd.DataFrame, Counter[str]]:
    """Read the wanted columns and count rows that cannot be read.

    CSV cells come as text, Parquet columns as they are typed.

    Args:
        body: The file.
        name: Its name, for messages and to tell the format.
        choose: Is given the names of all columns and returns those to read.
        file_format: "auto" goes by the Parquet magic number and the suffix.
        delimiter: Between CSV cells.
        encoding: Of a CSV file.

    Raises:
        MalformedPayload: The file is empty, cut off, or not what its format says.
        NoData: The file has columns and no rows.
    """
    if not body.strip():
        raise MalformedPayload(f"{name} is empty", source=NAME, field="path", value=name)
    looks_parquet = body.startswith(PARQUET_MAGIC) or name.lower().endswith(PARQUET_SUFFIXES)
    if file_format == "parquet" or (file_format == "auto" and looks_parquet):
        table, dropped = _read_parquet(body, name, choose), Counter[str]()
    else:
        table, dropped = _read_csv(body, name, choose, delimiter, encoding)
    if table.empty:
        raise NoData(f"{name} has no rows", source=NAME, field="path", value=name)
    return table, dropped


def _read_parquet(body: bytes, name: str, choose: Choose) -> pd.DataFrame:
    """Read a Parquet file."""
    try:
        with pq.ParquetFile(io.BytesIO(body)) as file:
            columns = choose(file.schema_arrow.names)
            table = file.read(columns=columns)
            return table.to_pandas(date_as_object=False, ignore_metadata=True)[columns]
    except (pa.ArrowException, OSError, ValueError) as failure:
        raise MalformedPayload(
            f"{name} is not a readable Parquet file ({type(failure).__name__})",
            source=NAME,
            field="path",
            value=name,
            allowed="a complete Parquet file",
        ) from failure


def _read_csv(
    body: bytes, name: str, choose: Choose, delimiter: str, encoding: str
) -> tuple[pd.DataFrame, Counter[str]]:
    """Read a CSV file, every cell as text; a row with too many or too few cells is counted and left out."""
    ragged: Counter[str] = Counter()

    def skip(_row: object) -> str:
        ragged["ragged_row"] += 1
        return "skip"

    try:
        first_line = body.lstrip(b"\r\n").splitlines()[0].decode(encoding)
        header = [cell.strip() for cell in next(csv.reader([first_line], delimiter=delimiter))]
        columns = choose(header)
        places = [str(header.index(column)) for column in columns]
        table = pa_csv.read_csv(
            io.BytesIO(body.lstrip(b"\r\n")),
            # Columns go by their place: headers in the wild carry blanks and repeat themselves.
            pa_csv.ReadOptions(
                skip_rows=1,
                column_names=[str(place) for place in range(len(header))],
                encoding=encoding,
                use_threads=False,
            ),
            pa_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip),
            pa_csv.ConvertOptions(include_columns=places, column_types=dict.fromkeys(places, pa.string())),
        )
    except (pa.ArrowException, csv.Error, UnicodeError, LookupError) as failure:
        raise MalformedPayload(
            f"{name} is not a readable CSV file: {failure}",
            source=NAME,
            field="path",
            value=name,
            allowed=f"{encoding} text, cells separated by {delimiter!r}",
        ) from failure
    if ragged and table.num_rows == 0:
        raise MalformedPayload(
            f"{name}: no row has as many cells as the header", source=NAME, field="path", value=name
        )
    return table.rename_columns(columns).to_pandas(), ragged


def require_column(column: str, names: Sequence[str], field: str, name: str) -> str:
    """Return `column` when the file has it.

    Raises:
        RequestRefused: It has not; the nearest name, or another delimiter, is suggested.
    """
    if column in names:
        return column
    close = nearest_name(column, names)
    hint = f"; did you mean '{close}'?" if close else ""
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|,"):
        hint = f"; its only column is named {names[0]!r}: set `delimiter`"
    raise RequestRefused(
        f"{name} has no column '{column}'{hint}", source=NAME, field=field, value=column, allowed=list(names)
    )


def numeric(column: pd.Series, decimal: str) -> tuple[pd.Series, Counter[str]]:
    """Return the column as float64, NaN where a cell holds no finite number, and the count per reason.

    `missing` is an empty cell or one that says so, `not_a_number` any other text, `infinite` an overflow.
    """
    dropped: Counter[str] = Counter()
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        values = column.astype("float64")
        said_missing = values.isna()
    else:
        text = column.astype(object).where(column.notna(), "").astype(str)
        if decimal != ".":
            text = text.str.replace(decimal, ".", regex=False)
        values = pd.to_numeric(text, errors="coerce").astype("float64")
        unread = text[values.isna()].str.strip().str.lower()
        said_missing = unread.isin(MISSING_TEXTS).reindex(column.index, fill_value=False)
    infinite = np.isinf(values)
    for reason, where in (
        ("missing", said_missing),
        ("not_a_number", values.isna() & ~said_missing),
        ("infinite", infinite),
    ):
        if where.any():
            dropped[reason] += int(where.sum())
    return values.where(~infinite), dropped
