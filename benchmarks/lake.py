"""Measure the lake: backfill of many cities and years, a night's merge against the bare Delta merge, a read.

    python benchmarks/lake.py                          # 10 cities x 2 years, some seconds
    python benchmarks/lake.py --cities 100 --years 10  # 8.8 M rows, the size that the design is meant for

Prints one JSON document. "bare" is `DeltaTable.merge` with literal bounds on the same table and rows, without
reading, resolving winners or counting anything; each side merges into a fresh copy of the same table.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable

from urbanwm.contracts.tables import UTC_MICROSECONDS
from urbanwm.lake import Lake
from urbanwm.lake.offers import Offers
from urbanwm.lake.query import literal_bounds
from urbanwm.lake.winners import resolve, signal_columns

SIGNALS = (
    "pm25",
    "energy_mwh",
    "traffic_index",
    "renewable_share",
    "temperature_c",
    "wind_speed_ms",
    "humidity_pct",
    "pressure_hpa",
)
LAST_YEAR = 2025
NIGHT_HOURS, NEW_HOURS = 72, 24
READ_DAYS = 90
REPEATS = 5


def observations(cities: list[str], hours: pd.DatetimeIndex, seed: int) -> pd.DataFrame:
    """Return all signals of all cities and hours as one batch."""
    generator = np.random.default_rng(seed)
    stamps = pd.Series(np.tile(np.repeat(hours, len(SIGNALS)), len(cities))).astype(UTC_MICROSECONDS)
    count = len(stamps)
    return pd.DataFrame(
        {
            "city": np.repeat(cities, len(hours) * len(SIGNALS)),
            "timestamp": stamps,
            "signal": np.tile(SIGNALS, len(cities) * len(hours)),
            "value": generator.uniform(0, 1, count).round(3),
            "source": "file:benchmark.parquet",
            "available_at": (stamps + pd.Timedelta(hours=1)).astype(UTC_MICROSECONDS),
            "flags": "",
        }
    )


def backfill(lake: Lake, cities: list[str], years: list[int], end: pd.Timestamp) -> tuple[int, float]:
    """Write every year of ten cities at a time up to `end`; return the rows and the seconds of writing."""
    rows, taken = 0, 0.0
    for year in years:
        first_hour, next_year = (pd.Timestamp(f"{name}-01-01T00:00Z") for name in (year, year + 1))
        hours = pd.date_range(first_hour, min(next_year, end), freq="h", inclusive="left")
        for first in range(0, len(cities), 10):
            group = cities[first : first + 10]
            batch = observations(group, hours, seed=year * 1000 + first)
            began = time.perf_counter()
            rows += lake.upsert(batch).inserted
            taken += time.perf_counter() - began
    return rows, taken


def bare_merge(uri: str, rows: pa.Table, cities: list[str]) -> None:
    """Merge wide rows as the Delta library does it, and nothing else."""
    stamps = rows["timestamp"].to_pandas()
    bounds = literal_bounds(stamps.min(), stamps.max(), cities, alias="t.")
    predicate = " AND ".join([*bounds, "t.city = s.city", "t.timestamp = s.timestamp"])
    written = [c for s in SIGNALS for c in signal_columns(s)]
    (
        DeltaTable(uri)
        .merge(rows, predicate=predicate, source_alias="s", target_alias="t")
        .when_matched_update({c: f"s.{c}" for c in written})
        .when_not_matched_insert({c: f"s.{c}" for c in rows.column_names})
        .execute()
    )


def seconds(work: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def night_against_bare(home: Path, cities: list[str], night: pd.DataFrame) -> dict[str, float]:
    """Merge the same night into copies of the same table; the two sides take turns."""
    empty = pa.table(
        {
            "city": pa.array([], pa.string()),
            "timestamp": pa.array([], pa.timestamp("us", "UTC")),
            "flags": pa.array([], pa.string()),
        }
    )
    wide = resolve(Offers.of(night), empty).rows
    merges: dict[str, Callable[[Path], object]] = {
        "lake": lambda copy: Lake(copy).upsert(night),
        "bare": lambda copy: bare_merge(str(copy), wide, cities),
    }
    times: dict[str, list[float]] = {side: [] for side in merges}
    for repeat in range(REPEATS):
        for side, merge in merges.items():
            copy = home / f"{side}{repeat}"
            shutil.copytree(home / "observations", copy)
            began = time.perf_counter()
            merge(copy)
            times[side].append(time.perf_counter() - began)
            shutil.rmtree(copy)
    return {side: float(np.median(taken)) for side, taken in times.items()}


def main() -> None:
    """Run the measurement and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cities", type=int, default=10)
    parser.add_argument("--years", type=int, default=2)
    arguments = parser.parse_args()
    cities = [f"city{index:03d}" for index in range(arguments.cities)]
    years = list(range(LAST_YEAR - arguments.years + 1, LAST_YEAR + 1))
    end = pd.Timestamp(f"{LAST_YEAR}-12-20T00:00Z")
    figures: dict[str, Any] = {"cities": len(cities), "years": len(years), "signals": len(SIGNALS)}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        lake = Lake(home / "observations")
        figures["rows"], figures["backfill_seconds"] = backfill(lake, cities, years, end)
        # A quarter of the hours that are there already is corrected; 24 hours are new.
        hours = pd.date_range(
            end - pd.Timedelta(hours=NIGHT_HOURS - NEW_HOURS), periods=NIGHT_HOURS, freq="h"
        )
        night = observations(cities, hours, seed=1)
        night["available_at"] = (night["available_at"] + pd.Timedelta(minutes=1)).astype(UTC_MICROSECONDS)
        figures["night_rows"] = NIGHT_HOURS * len(cities)
        figures["night_seconds_before_compaction"] = night_against_bare(home, cities, night)
        figures["compact_seconds"] = seconds(lake.compact)
        figures["night_seconds"] = night_against_bare(home, cities, night)
        figures["night_ratio"] = figures["night_seconds"]["lake"] / figures["night_seconds"]["bare"]
        lake.upsert(night)
        figures["unchanged_night_seconds"] = seconds(lambda: lake.upsert(night))
        start = (end - pd.Timedelta(days=READ_DAYS)).to_pydatetime()
        reads = [seconds(lambda: lake.read(cities[0], start=start)) for _ in range(4 * REPEATS)]
        figures["read_90_days_ms"] = 1000 * float(np.median(reads))
        size = sum(
            Path(uri.removeprefix("file://")).stat().st_size for uri in DeltaTable(lake.uri).file_uris()
        )
        figures["megabytes"] = size / 2**20
    figures["peak_memory_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    json.dump(figures, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
