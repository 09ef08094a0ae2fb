"""How often the monitors cry wolf, and what they catch: drift, unit change and freeze, night by night.

    python -m benchmarks.monitoring [--data FOLDER] [--city NAME ...] [--json]

Real cities come from recorded Parquet files (`timestamp`, `pm25`, `energy_mwh`, `traffic`), simulated ones
from the generator with other seeds. Every night sees only the hours before it. An alarm that stays is one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from urbanwm.features.calendar import CityCalendar
from urbanwm.monitoring.drift import LIMIT, window_deviations, window_scores
from urbanwm.monitoring.feeds import is_frozen, level_jump
from urbanwm.settings import PROJECT_ROOT
from urbanwm.sources.usual_value import usual_values
from urbanwm.synthetic import PROFILES
from urbanwm.synthetic.city import simulate

DAYS_PER_QUARTER = 365.25 / 4
NIGHT_HOUR = 4
"""The night runs at this UTC hour."""
WARM_UP_DAYS = 84
EPISODE_GAP_DAYS = 7
INJECTIONS = 60
COVERED_HOURS, COVERED_SHARE = 72, 0.9
"""Faults are injected where the record is there: nothing can be wrong with hours that are missing."""
CITIES = {
    "madrid": CityCalendar("Europe/Madrid", "ES", "MD"),
    "madrid_long": CityCalendar("Europe/Madrid", "ES", "MD"),
    "beijing": CityCalendar("Asia/Shanghai", "CN"),
    "new_york_qmt": CityCalendar("America/New_York", "US", "NY"),
    "minneapolis": CityCalendar("America/Chicago", "US", "MN"),
}
SIMULATED_CALENDAR = CityCalendar("Europe/Berlin", "DE")
SIMULATED_SEEDS = (11, 12, 13)
SIMULATED_DAYS = 730
FIRST_SIMULATED_HOUR = 455_832  # 2022-01-01
SHIFT = 1.3
DRIFT_NIGHTS = 14
"""A level shift counts as caught if it is named within so many nights."""


@dataclass
class Row:
    """What one signal of one city showed: alarms without a cause, and shares of injected faults caught."""

    city: str
    signal: str
    quarters: float
    drift_quarters: float
    drift_alarms: int
    unit_alarms: int
    frozen_alarms: int
    caught: dict[str, float] = field(default_factory=dict)


def real_city(folder: Path, name: str) -> dict[str, pd.Series]:
    """Return the targets of a recorded city; traffic as an index, as the file source makes it."""
    frame = pd.read_parquet(folder / f"{name}.parquet").set_index("timestamp")
    frame.index = pd.DatetimeIndex(frame.index).as_unit("us")
    volume = frame["traffic"].dropna()
    if len(volume):
        usual, _ = usual_values(pd.DatetimeIndex(volume.index), volume.to_numpy(), CITIES[name].timezone)
        frame["traffic_index"] = (volume / usual).clip(0, 2).reindex(frame.index)
    wanted = [column for column in ("pm25", "energy_mwh", "traffic_index") if column in frame]
    return {column: frame[column] for column in wanted if frame[column].notna().any()}


def simulated_city(seed: int) -> dict[str, pd.Series]:
    """Return the targets of the simulated city with another seed."""
    count = SIMULATED_DAYS * 24
    values = simulate(FIRST_SIMULATED_HOUR, count, seed, PROFILES["demo"], SIMULATED_CALENDAR)
    index = pd.date_range(
        np.datetime64(FIRST_SIMULATED_HOUR, "h"), periods=count, freq="h", tz="UTC", unit="us"
    )
    return {name: pd.Series(values[name], index) for name in ("pm25", "energy_mwh", "traffic_index")}


def episodes(alarms: np.ndarray) -> int:
    """Count alarms, those within a week of each other as one."""
    nights = np.flatnonzero(alarms)
    return 0 if len(nights) == 0 else 1 + int((np.diff(nights) > EPISODE_GAP_DAYS).sum())


def drift_scores(series: pd.Series, signal: str, calendar: CityCalendar, first: int = 0) -> np.ndarray:
    """Return per local day the score that the night after it would have given; NaN: too short a record."""
    return window_scores(window_deviations(series, signal, calendar, len(series)), first)


def drifting(series: pd.Series, signal: str, calendar: CityCalendar, first: int = 0) -> np.ndarray:
    """Return per local day whether the night after it would have named a drift."""
    return np.abs(np.nan_to_num(drift_scores(series, signal, calendar, first))) > LIMIT


def nights_of(series: pd.Series) -> list[int]:
    """Return the positions in the record at which nights are run, after the warm-up."""
    hours = pd.DatetimeIndex(series.index).hour
    return [int(at) for at in np.flatnonzero(hours == NIGHT_HOUR) if at > WARM_UP_DAYS * 24]


def faulty(series: pd.Series, signal: str, start: int, kind: str) -> pd.Series:
    """Return the record with a fault from position `start` on, as it would stand in the lake."""
    values = series.to_numpy(np.float64, copy=True)
    if kind == "frozen":
        values[start:] = values[start - 1]
    else:
        values[start:] *= {"x10": 10.0, "x1000": 1000.0, "/1000": 0.001, "x1.3": SHIFT}[kind]
    return pd.Series(np.minimum(values, 2.0) if signal == "traffic_index" else values, series.index)


def caught_at_night(series: pd.Series, signal: str, calendar: CityCalendar) -> bool:
    """Return whether the data checks of the night at the end of the record would block promotion."""
    return level_jump(series, signal, calendar) is not None or is_frozen(series, signal)


def share_caught(
    series: pd.Series, signal: str, calendar: CityCalendar, kind: str, rng: np.random.Generator
) -> float:
    """Inject a fault into the day before each of some random nights; return the share named that night."""
    hits = []
    covered = series.notna().rolling(COVERED_HOURS).mean().to_numpy()
    fit = [night for night in nights_of(series) if covered[night - 1] > COVERED_SHARE]
    for night in rng.choice(fit, INJECTIONS):
        hours = int(rng.integers(24, 29)) if kind == "frozen" else int(rng.integers(7, 29))
        if np.isnan(series.iloc[night - hours - 1]):
            continue
        known = series.iloc[max(0, night - 150 * 24) : night]
        hits.append(caught_at_night(faulty(known, signal, len(known) - hours, kind), signal, calendar))
    return float(np.mean(hits))


def share_of_shifts(
    series: pd.Series, signal: str, calendar: CityCalendar, rng: np.random.Generator
) -> float:
    """Raise the level for good on random days; return the share named within two weeks."""
    hits = []
    scores = drift_scores(series, signal, calendar)
    fit = [night for night in nights_of(series)[:-DRIFT_NIGHTS] if np.isfinite(scores[night // 24 - 1])]
    for start in rng.choice(fit, INJECTIONS):
        known = faulty(series.iloc[: start + DRIFT_NIGHTS * 24], signal, int(start), "x1.3")
        first = len(known) // 24 - DRIFT_NIGHTS
        hits.append(drifting(known, signal, calendar, first).any())
    return float(np.mean(hits))


def measure(city: str, signal: str, series: pd.Series, calendar: CityCalendar) -> Row:
    """Replay one signal: alarms on the record as it is, then injected faults."""
    nights = nights_of(series)
    checked = [series.iloc[max(0, night - 150 * 24) : night] for night in nights]
    row = Row(
        city,
        signal,
        len(nights) / DAYS_PER_QUARTER,
        float(np.isfinite(drift_scores(series, signal, calendar)).sum()) / DAYS_PER_QUARTER,
        episodes(drifting(series, signal, calendar)),
        episodes(np.array([level_jump(known, signal, calendar) is not None for known in checked])),
        episodes(np.array([is_frozen(known, signal) for known in checked])),
    )
    rng = np.random.default_rng(0)
    for kind in ("x10", "x1000", "/1000", "frozen"):
        row.caught[kind] = share_caught(series, signal, calendar, kind, rng)
    row.caught["x1.3 in 14 nights"] = share_of_shifts(series, signal, calendar, rng)
    return row


def text(rows: list[Row]) -> str:
    """Lay the rows out as a Markdown table."""
    kinds = list(rows[0].caught)
    lines = [
        "| city | signal | quarters | drift | unit | frozen | "
        + " | ".join(f"{k} caught" for k in kinds)
        + " |",
        "|---|---|---|---|---|---|" + "---|" * len(kinds),
    ]
    for row in rows:
        shares = " | ".join(f"{row.caught[kind]:.0%}" for kind in kinds)
        lines.append(
            f"| {row.city} | {row.signal} | {row.quarters:.1f} | "
            f"{row.drift_alarms} in {row.drift_quarters:.1f} | {row.unit_alarms} | {row.frozen_alarms} | "
            f"{shares} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitoring", description=__doc__)
    parser.add_argument("--data", type=Path, default=PROJECT_ROOT.parent / "shared" / "data")
    parser.add_argument("--city", action="append", help="recorded city; repeat (default: all)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    sources: list[tuple[str, CityCalendar, Callable[[], dict[str, pd.Series]]]] = [
        (name, CITIES[name], lambda name=name: real_city(options.data, name))
        for name in options.city or CITIES
        if (options.data / f"{name}.parquet").is_file()
    ]
    if not options.city:
        sources += [
            (f"simulated {seed}", SIMULATED_CALENDAR, lambda seed=seed: simulated_city(seed))
            for seed in SIMULATED_SEEDS
        ]
    rows = [
        measure(name, signal, series, calendar)
        for name, calendar, read in sources
        for signal, series in read().items()
    ]
    sys.stdout.write((json.dumps([asdict(row) for row in rows]) if options.json else text(rows)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
