"""Questions to the Delta table that every part of the lake asks the same way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

CITIES_NAMED_IN_PREDICATE = 64
"""Up to so many cities are named in a predicate, which lets files of other cities be skipped."""


def quoted(text: str) -> str:
    """Return a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def time_literal(moment: datetime | pd.Timestamp) -> str:
    """Return a SQL literal of the timestamp column's own type: only then are files skipped by it."""
    text = pd.Timestamp(moment).tz_convert("UTC").strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"arrow_cast('{text}', 'Timestamp(Microsecond, Some(\"UTC\"))')"


def select(table: DeltaTable, columns: Sequence[str], where: str) -> pa.Table:
    """Run one SELECT; never through pyarrow filters, which fail on text columns after a merge."""
    sql = f"SELECT {', '.join(columns)} FROM observations WHERE {where}"  # noqa: S608 - values are quoted
    return pa.table(QueryBuilder().register("observations", table).execute(sql).read_all())


def column_names(table: DeltaTable) -> set[str]:
    """Return the columns that this version of the table has."""
    return {field.name for field in table.schema().fields}


def data_files(table: DeltaTable, partition: str = "year") -> pd.DataFrame:
    """Return one row per file: partition (its year or month), bytes, first and last timestamp."""
    actions = pa.table(table.get_add_actions(flatten=True))
    names = {
        f"partition.{partition}": "partition",
        "size_bytes": "bytes",
        "min.timestamp": "first",
        "max.timestamp": "last",
    }
    if actions.num_rows == 0:
        return pd.DataFrame(columns=list(names.values()))
    return actions.select(list(names)).rename_columns(list(names.values())).to_pandas()


def literal_bounds(
    first: pd.Timestamp, last: pd.Timestamp, cities: Sequence[str], alias: str = ""
) -> list[str]:
    """Return literal bounds of year, time and city: without them a merge scans the whole history."""
    years = ", ".join(str(year) for year in range(first.year, last.year + 1))
    bounds = [
        f"{alias}year IN ({years})",
        f"{alias}timestamp >= {time_literal(first)}",
        f"{alias}timestamp <= {time_literal(last)}",
    ]
    return [*bounds, *named_cities(cities, alias)]


def named_cities(cities: Sequence[str], alias: str = "") -> list[str]:
    """Return a bound of the city; none for very many."""
    if len(cities) > CITIES_NAMED_IN_PREDICATE:
        return []
    return [f"{alias}city IN ({', '.join(quoted(city) for city in cities)})"]
