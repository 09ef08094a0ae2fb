"""Scores side by side: one Markdown table per target, ratios with block-bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from urbanwm.evaluation.forecasts import check_forecasts, require_same_rows
from urbanwm.evaluation.metrics import ALL
from urbanwm.evaluation.verification import verify
from urbanwm.markdown import table

COLUMNS = ("mae", "rmse", "crps", "coverage_90", "width_90")
BUCKETS = ("1-6", "7-24", "25-48")
OURS = "ours"


def scores(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one row per target and forecaster, best CRPS first.

    `ours ÷ this` is the ratio of the CRPS over common hours, with its 95 % interval by circular block
    bootstrap over origin days; NaN without our own table.

    Args:
        tables: Forecasts per name, on the same hours.

    Raises:
        BadInput: Two tables do not score the same hours against the same truth.
    """
    checked = {name: check_forecasts(_known(frame), name) for name, frame in tables.items()}
    first = next(iter(checked))
    for name, frame in checked.items():
        require_same_rows(checked[first], frame, (first, name))
    own = checked.get(OURS)
    ratios = None if own is None else verify(own, {k: v for k, v in checked.items() if k != OURS}).ratios
    rows: list[dict[str, Any]] = []
    for name, frame in checked.items():
        wide = verify(frame).scores
        for signal, part in wide.groupby("signal", observed=True):
            by_bucket = part.set_index("bucket")
            row = {"signal": signal, "forecaster": name} | by_bucket.loc[ALL, list(COLUMNS)].to_dict()
            row |= {f"crps {bucket}": by_bucket["crps"].get(bucket, float("nan")) for bucket in BUCKETS}
            rows.append(row | _ratio(ratios, str(signal), name))
    return pd.DataFrame(rows).sort_values(["signal", "crps"], ignore_index=True)


def _known(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out targets that the record does not have."""
    seen = frame.groupby("signal", observed=True)["observed"].transform("count")
    return frame[seen > 0]


def _ratio(ratios: pd.DataFrame | None, signal: str, name: str) -> dict[str, float]:
    """Return our CRPS over this forecaster's with its interval."""
    if ratios is None or name == OURS:
        return dict.fromkeys(("ratio", "low", "high"), float("nan"))
    keys = {"signal": signal, "reference": name, "metric": "crps", "bucket": ALL}
    found = ratios[(ratios[list(keys)] == pd.Series(keys)).all(axis=1)].iloc[0]
    return {end: float(found[end]) for end in ("ratio", "low", "high")}


def markdown(rows: pd.DataFrame) -> str:
    """Return the scores as Markdown, one table per target."""
    lines: list[str] = []
    columns = {"forecaster": "{forecaster}"} | {name: f"{{{name}}}" for name in COLUMNS}
    columns |= {f"crps {bucket}": f"{{crps {bucket}}}" for bucket in BUCKETS}
    columns |= {"ours ÷ this (CRPS)": "{ratio} [{low}, {high}]"}
    for signal, part in rows.groupby("signal", observed=True):
        lines += [f"### {signal}", "", *table(part.to_dict("records"), columns), ""]
    return "\n".join(lines)
