"""Measure feature building: hours per second of one core, against pandas, polars and duckdb at the same work.

    python -m benchmarks.features               # 10 years of one city
    python -m benchmarks.features --years 50    # 438,300 hours

Prints one JSON document. Every side gets the same hourly frame (8 signals, 3 % missing) and, for nothing, the
small table of local days; it runs on one thread and materialises the same columns (140) as float32: scaled
signals and 24 h changes with masks, calendar, last week's value, means of similar days, trailing deviations
and levels, their spread, weather state. All values are compared with UrbanWM's before anything is timed.
Seconds are processor time, so a busy neighbour does not count. A peer that is not installed is left out, and
the output says why. The peers' code: `feature_peers/`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.feature_peers import PEERS, Task
from urbanwm.contracts.signals import TARGETS
from urbanwm.features import CityCalendar, CitySeries, FeatureSpec, build_series
from urbanwm.features.calendar import CALENDAR_NAMES, local_days
from urbanwm.features.names import (
    DIRECT_NAMES,
    known_names,
    observed_names,
    scaled_signals,
    skip_names,
    state_names,
)
from urbanwm.features.scaling import fit_scaler

CITY, ZONE = "bench", "Europe/Berlin"
HOURS_PER_YEAR = 8766
MISSING_SHARE = 0.03
REPEATS = 5
TOLERANCE = 2e-3
"""Largest difference allowed, in standard deviations: float32 sums are taken in another order."""


def record(hours: int) -> pd.DataFrame:
    """Return a frame of hourly signals as the lake gives it."""
    index = pd.date_range("2015-01-01", periods=hours, freq="h", tz="UTC", unit="us")
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "pm25": draw.lognormal(3, 0.5, hours),
            "energy_mwh": draw.lognormal(7, 0.2, hours),
            "traffic_index": draw.uniform(0.2, 1.8, hours),
            "renewable_share": draw.uniform(0, 1, hours),
            "temperature_c": draw.normal(10, 8, hours),
            "wind_speed_ms": draw.lognormal(1, 0.5, hours),
            "humidity_pct": draw.uniform(20, 100, hours),
            "pressure_hpa": draw.normal(1013, 8, hours),
        },
        index=index.rename("timestamp"),
    )
    return frame.mask(draw.random(frame.shape) < MISSING_SHARE)


def specification(frame: pd.DataFrame) -> FeatureSpec:
    """Return what training would fit on the frame."""
    calendar, observed = CityCalendar(ZONE, "DE"), observed_names("urban", [frame])
    return FeatureSpec(
        kind="urban",
        observed_names=observed,
        known_names=known_names(observed, {CITY: frame}),
        action_names=("car_free_ratio", "renewable_mix"),
        skip_names=skip_names(),
        context_hours=336,
        horizon_hours=48,
        cities=(CITY,),
        scalers={CITY: fit_scaler(frame, scaled_signals(observed), "urban", calendar)},
        calendars={CITY: calendar},
        renewable_status_quo={},
    )


def one_step_ahead(series: CitySeries) -> tuple[np.ndarray, np.ndarray]:
    """Return what each hour's past says of it, as windows look it up: `(N, 3, J)`, and what is missing."""
    if series.history is None:
        raise ValueError("the reference has no seasonal history")
    hours = np.arange(len(series))
    return series.history.ahead(hours, hours)


def columns_of(series: CitySeries) -> dict[str, np.ndarray]:
    """Return the columns that the peers have to give, by name."""
    one_step, missing = one_step_ahead(series)
    names = series.spec.observed_names
    columns = {f"obs_{name}": series.observed[:, i] for i, name in enumerate(names)}
    columns |= {f"mask_{name}": series.observed_mask[:, i] for i, name in enumerate(names)}
    known = [name for name in CALENDAR_NAMES if name in series.spec.known_names]
    columns |= {name: series.calendar[:, i] for i, name in enumerate(known)}
    for i, target in enumerate(TARGETS):
        for j, name in enumerate(name for name in series.spec.skip_names if name not in DIRECT_NAMES):
            columns[f"{target}_{name}"] = one_step[:, i, j]
        columns[f"{target}_missing"] = missing[:, i]
    states = state_names(series.spec.observed_names)
    return columns | {f"state_{name}": series.state[:, i] for i, name in enumerate(states)}


def task_of(frame: pd.DataFrame, spec: FeatureSpec) -> Task:
    """Return what the peers get: the frame, the scales, and the local days with classes and features."""
    days = local_days(frame.index, spec.calendars[CITY])
    local = pd.DatetimeIndex(frame.index).tz_convert(ZONE)
    first = np.unique(days.day, return_index=True)[1]
    daily = pd.DataFrame(days.features[first][:, 4:], columns=CALENDAR_NAMES[4:])
    daily.insert(0, "date", local[first].tz_localize(None).normalize())
    daily["day_class"], daily["weekday"] = days.day_class, days.weekday
    scaler = spec.scaler(CITY)
    return Task(frame, daily, ZONE, dict(scaler.mean), dict(scaler.std), spec.observed_names)


def processor_seconds(work: Callable[[], Any]) -> float:
    """Return the least processor time of some calls."""
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def largest_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> tuple[float, str]:
    """Return how far the worst column is from ours, and its name; a missing column is infinitely far."""
    found = [
        (float(np.abs(values - theirs[name]).max()) if name in theirs else float("inf"), name)
        for name, values in ours.items()
    ]
    return max(found)


def main() -> None:
    """Run the measurement and print its figures."""
    os.environ["POLARS_MAX_THREADS"] = "1"  # one core each; read when polars is loaded
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--years", type=int, default=10)
    frame = record(parser.parse_args().years * HOURS_PER_YEAR)
    spec = specification(frame)
    expected, task = columns_of(build_series(frame, CITY, spec)), task_of(frame, spec)
    seconds = {"urbanwm": processor_seconds(lambda: one_step_ahead(build_series(frame, CITY, spec)))}
    left_out, differences = {}, {}
    for name, load in PEERS.items():
        try:
            prepare = load()
        except ImportError as missing:
            left_out[name] = str(missing)
            continue
        run = prepare(task)
        differences[name], column = largest_difference(expected, run.columns(run.work()))
        if not differences[name] <= TOLERANCE:
            sys.exit(f"{name} does other work: {column} differs by {differences[name]}")
        seconds[name] = processor_seconds(run.work)
    fastest = min((value, name) for name, value in seconds.items() if name != "urbanwm")[1]
    rates = {name: len(frame) / value for name, value in seconds.items()}
    figures = {
        "hours": len(frame),
        "columns": len(expected),
        "hours_per_second_and_core": rates,
        "values_per_second_and_core": {name: rate * len(expected) for name, rate in rates.items()},
        "best_peer": fastest,
        "times_of_the_best_peer": seconds["urbanwm"] / seconds[fastest],
        "largest_difference": differences,
        "left_out": left_out,
    }
    json.dump(figures, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
