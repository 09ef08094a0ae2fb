"""The work of feature building as pandas, polars and duckdb do it, each in its own idiom."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.feature_peers.task import Run, Task
from benchmarks.feature_peers.with_duckdb import load_duckdb
from benchmarks.feature_peers.with_pandas import load_pandas
from benchmarks.feature_peers.with_polars import load_polars

__all__ = ["PEERS", "Run", "Task"]

PEERS: dict[str, Callable[[], Callable[[Task], Run]]] = {
    "pandas": load_pandas,
    "polars": load_polars,
    "duckdb": load_duckdb,
}
