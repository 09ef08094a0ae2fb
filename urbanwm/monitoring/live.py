"""Live skill: forecasts that were stored before the fact, scored against what happened since."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import pandas as pd

from urbanwm.contracts.signals import TARGETS
from urbanwm.evaluation.metrics import ALL, BUCKETS, row_scores

CHAMPION: Final = "champion"
BASELINE: Final = "baseline"
MINIMUM_HOURS_PER_DAY: Final = 12
"""Scored hours of one signal below which an origin day says nothing about it."""
SCORES: Final = ("mae", "crps", "coverage90")


@dataclass(frozen=True)
class LiveScore:
    """Scores of one forecaster in one lead bucket.

    Attributes:
        city: City.
        signal: Target.
        bucket: Leads in hours, such as "7-24", or "all".
        model: "champion" (whatever version served) or "baseline".
        mae: Mean absolute error of the median, in the signal's unit.
        crps: Continuous ranked probability score, in the signal's unit.
        coverage90: Share of observations inside the 90 % interval.
        hours: Scored forecasts.
        origins: Origin days with at least one scored forecast.
    """

    city: str
    signal: str
    bucket: str
    model: str
    mae: float
    crps: float
    coverage90: float
    hours: int
    origins: int

    def text(self) -> str:
        """Return one line for a terminal."""
        return (
            f"{self.city} {self.signal} {self.model}: MAE {self.mae:.4g}, CRPS {self.crps:.4g}, "
            f"90 % interval holds {self.coverage90:.0%} of {self.hours} hours"
        )


@dataclass(frozen=True)
class DayScore:
    """Champion against baseline on the forecasts of one origin.

    Attributes:
        city: City.
        day: Local day of the origin.
        version: Version that was champion at that origin.
        ratio: Geometric mean over the signals of CRPS ÷ the baseline's CRPS; below 1: better.
        signals: The ratio of each signal.
    """

    city: str
    day: date
    version: str
    ratio: float
    signals: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"day": self.day.isoformat(), "signals": dict(self.signals)}


def with_observed(stored: pd.DataFrame, frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Set the observations beside stored forecasts.

    Args:
        stored: Columns of DESIGN §6 without `observed`, and `model`, `version`.
        frames: City → hourly UTC frame of what is known by now.
    """
    parts = []
    for city, part in stored.groupby("city", sort=False):
        frame = frames.get(str(city))
        observed = np.full(len(part), np.nan)
        if frame is not None and len(frame):
            columns = frame.reindex(columns=list(TARGETS)).to_numpy(dtype=np.float64)
            row = frame.index.get_indexer(pd.DatetimeIndex(part["timestamp"]))
            column = part["signal"].map({name: i for i, name in enumerate(TARGETS)}).to_numpy(dtype=np.int64)
            observed = np.where(row >= 0, columns[row, column], np.nan)
        parts.append(part.assign(observed=observed))
    return pd.concat(parts) if parts else stored.assign(observed=np.nan)


def live_scores(scored: pd.DataFrame) -> pd.DataFrame:
    """Return one row per scored forecast: keys, model, version, lead and scores.

    Hours without an observation, and signals that a forecaster did not answer, drop out.

    Args:
        scored: As `with_observed` returns it.
    """
    known = scored[scored["observed"].notna() & scored["q50"].notna()].reset_index(drop=True)
    if known.empty:
        return pd.DataFrame(columns=["city", "origin", "signal", "lead_hours", "model", "version", *SCORES])
    rows = row_scores(known)
    return rows.assign(model=known["model"].to_numpy(), version=known["version"].to_numpy())


def by_bucket(rows: pd.DataFrame) -> list[LiveScore]:
    """Average the scores per city, signal, forecaster and lead bucket; "all" comes last."""
    found = []
    for bucket, (first, last) in {**BUCKETS, ALL: (1, math.inf)}.items():
        part = rows[rows["lead_hours"].between(first, last)]
        for (city, signal, model), group in part.groupby(["city", "signal", "model"]):
            means = {name: float(group[name].mean()) for name in SCORES}
            found.append(
                LiveScore(
                    city, signal, bucket, model, **means, hours=len(group), origins=group["origin"].nunique()
                )
            )
    return found


def by_day(rows: pd.DataFrame, timezones: Mapping[str, str]) -> list[DayScore]:
    """Compare champion and baseline per city and origin on the hours that both answered, oldest first.

    Args:
        rows: As `live_scores` returns them.
        timezones: City → IANA zone, for the local day of an origin.
    """
    keys = ["city", "origin", "signal", "timestamp"]
    if rows.empty:
        return []
    champion, baseline = (rows[rows["model"] == name] for name in (CHAMPION, BASELINE))
    both = champion.merge(baseline[[*keys, "crps"]], on=keys, suffixes=("", "_baseline"))
    found = []
    for (city, origin), group in both.groupby(["city", "origin"]):
        ratios = {}
        for signal, part in group.groupby("signal"):
            theirs = float(part["crps_baseline"].mean())
            if len(part) >= MINIMUM_HOURS_PER_DAY and theirs > 0:
                ratios[str(signal)] = float(part["crps"].mean()) / theirs
        if ratios:
            day = origin.tz_convert(timezones[city]).date()
            version = str(group["version"].iloc[0])
            found.append(DayScore(city, day, version, _geometric_mean(list(ratios.values())), ratios))
    return found


def days_below(days: Sequence[DayScore], version: str | None, city: str | None = None) -> int:
    """Count the origin days in a row, up to the last scored one, on which `version` lost to the baseline.

    A day of another version ends the count: a new champion is not blamed for its predecessor.

    Args:
        days: As `by_day` returns them.
        version: Which champion; None: none serves, so nothing is counted.
        city: One city; None: the geometric mean over the cities of each day.
    """
    ratios: dict[date, list[float]] = {}
    served: dict[date, set[str]] = {}
    for score in days:
        if city is None or score.city == city:
            ratios.setdefault(score.day, []).append(score.ratio)
            served.setdefault(score.day, set()).add(score.version)
    count = 0
    for day in sorted(ratios, reverse=True):
        if version is None or served[day] != {version} or _geometric_mean(ratios[day]) <= 1.0:
            break
        count += 1
    return count


def _geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean; of a perfect score (0) it is 0."""
    if min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))
