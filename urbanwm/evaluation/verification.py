"""Forecast verification: everything that one table of forecasts says about a model, in one document.

The model card, `urbanwm backtest` and a training run's artifacts all show these figures; they are worked out
here once, on the rows that every table scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from urbanwm.cities import City
from urbanwm.errors import DataUnavailable
from urbanwm.evaluation.forecasts import KEY_COLUMNS
from urbanwm.evaluation.metrics import (
    ALL,
    BLOCK_DAYS,
    BUCKETS,
    CONFIDENCE,
    DRAWS,
    exceedance_brier,
    pit_histogram,
    resampling_counts,
    row_scores,
    summarise,
)
from urbanwm.evaluation.references import REFERENCES

RATIO_METRICS = ("crps", "mae")
_RATIO_COLUMNS = [*RATIO_METRICS, *(f"{metric}_reference" for metric in RATIO_METRICS)]
_ROW_KEYS = [*KEY_COLUMNS, "lead_hours"]
SIGNAL_OF_BRIER = "pm25"


@dataclass(frozen=True)
class Verification:
    """What the forecasts of one model were worth.

    Attributes:
        scores: city, signal, bucket, rows, and one column per metric (`coverage_90`, `width_90`, …).
        pit: Share of observations between neighbouring quantiles; see `metrics.pit_histogram`.
        brier: Scores of "the 24 h mean of PM2.5 exceeds 15 / 25 µg/m³"; see `metrics.exceedance_brier`.
        ratios: Score ÷ reference's score by city, signal, bucket, reference and metric, with a 95 %
            block-bootstrap interval, and the skill, 1 − ratio.
        left_out: Why a reference is not among them.
    """

    scores: pd.DataFrame
    pit: pd.DataFrame
    brier: pd.DataFrame
    ratios: pd.DataFrame
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; a figure that could not be worked out is null."""
        tables = {name: _records(getattr(self, name)) for name in ("scores", "pit", "brier", "ratios")}
        return tables | {"references_left_out": self.left_out}


def verify(table: pd.DataFrame, references: Mapping[str, pd.DataFrame] | None = None) -> Verification:
    """Score one table of forecasts, alone and against references.

    Args:
        table: Forecasts as `urbanwm backtest` writes them, one or more cities.
        references: Name → forecasts of the same hours. See `reference_tables`.
    """
    rivals = {} if references is None else dict(references)
    long = summarise(table)
    scores = long.pivot_table(
        index=["city", "signal", "bucket", "rows"], columns="metric", values="value", sort=False
    ).reset_index()
    scores.columns.name = None
    renamed = {c: f"{c[:-2]}_{c[-2:]}" for c in scores.columns if c.startswith(("coverage", "width"))}
    has_pm25 = bool((table["signal"] == SIGNAL_OF_BRIER).any())
    return Verification(
        scores=scores.rename(columns=renamed),
        pit=pit_histogram(table),
        brier=exceedance_brier(table) if has_pm25 else pd.DataFrame(),
        ratios=_ratios(table, rivals),
        left_out={},
    )


def verify_against_references(city: City, frame: pd.DataFrame, table: pd.DataFrame) -> Verification:
    """Verify one city's forecasts beside every seasonal reference from the same origins.

    Args:
        city: The city.
        frame: Its hourly record (UTC), from well before the first origin on.
        table: Forecasts as `urbanwm backtest` writes them.
    """
    origins = [moment.to_pydatetime() for moment in table["origin"].drop_duplicates().sort_values()]
    references, left_out = reference_tables(city, frame, origins, int(table["lead_hours"].max()))
    return replace(verify(table, references), left_out=left_out)


def reference_tables(
    city: City, frame: pd.DataFrame, origins: Sequence[datetime], horizon_hours: int
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Return every seasonal reference's forecasts of one city, and why one could not be made."""
    tables: dict[str, pd.DataFrame] = {}
    left_out: dict[str, str] = {}
    for name, reference in REFERENCES.items():
        try:
            tables[name] = reference(city, frame, origins, horizon_hours)
        except DataUnavailable as failure:
            left_out[name] = failure.message
    return tables, left_out


def _ratios(table: pd.DataFrame, references: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return score ratios by city, signal, lead bucket, reference and metric, with their intervals."""
    own = row_scores(table)[[*_ROW_KEYS, *RATIO_METRICS]]
    draw = cache(lambda days: resampling_counts(days, block_days=BLOCK_DAYS, draws=DRAWS, seed=0))
    tail = (1.0 - CONFIDENCE) / 2.0
    rows = []
    for name, reference in references.items():
        rival = row_scores(reference)[[*_ROW_KEYS, *RATIO_METRICS]].dropna()
        both = own.merge(rival, on=_ROW_KEYS, suffixes=("", "_reference"))
        for bucket, (first, last) in {ALL: (1, int(own["lead_hours"].max())), **BUCKETS}.items():
            part = both[both["lead_hours"].between(first, last)]
            for (city, signal), group in part.groupby(["city", "signal"], observed=True):
                daily = group.groupby("origin")[_RATIO_COLUMNS].sum().to_numpy()
                totals = np.vstack([daily.sum(axis=0), draw(len(daily)) @ daily])
                for i, metric in enumerate(RATIO_METRICS):
                    ratio = totals[:, i] / totals[:, i + len(RATIO_METRICS)]
                    low, high = np.quantile(ratio[1:], [tail, 1.0 - tail])
                    key = {"city": city, "signal": signal, "bucket": bucket, "reference": name}
                    found = {"ratio": float(ratio[0]), "low": float(low), "high": float(high)}
                    more = {"skill": 1.0 - found["ratio"], "origins": len(daily)}
                    rows.append(key | {"metric": metric} | found | more)
    return pd.DataFrame(rows)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON-ready mappings."""
    rows: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                row[name] = None
    return rows
