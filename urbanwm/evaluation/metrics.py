"""Scores of probabilistic forecasts, as the comparison protocol of the project defines them.

CRPS is twice the mean pinball loss over the seven quantiles (the quantile form of Gneiting & Raftery 2007
on a finite set of levels). Ratios come with an interval by circular block bootstrap over origin days (Politis
& Romano 1992): neighbouring origins share weather and target hours, so they are not independent.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.contracts.signals import QUANTILE_LEVELS
from urbanwm.errors import BadInput
from urbanwm.evaluation.forecasts import KEY_COLUMNS, QUANTILE_COLUMNS

Float = NDArray[np.float64]

# Lead buckets (first and last lead, hours). Leads beyond 48 h only occur in longer backtests.
BUCKETS: dict[str, tuple[int, int]] = {"1-6": (1, 6), "7-24": (7, 24), "25-48": (25, 48), "49-168": (49, 168)}
ALL = "all"
# Central intervals: name, lower and upper quantile column.
INTERVALS = (("50", "q25", "q75"), ("80", "q10", "q90"), ("90", "q05", "q95"))
BLOCK_DAYS = 7
DRAWS = 1000
CONFIDENCE = 0.95
# PM2.5 24 h means: WHO 2021 guideline and interim target 4 (µg/m³).
EXCEEDANCE_PM25 = (15.0, 25.0)
HOURS_PER_DAY = 24
PIT_BINS = 10


def crps(observed: Float, quantiles: Float) -> Float:
    """Return the CRPS `(...)`, in the signal's unit, of quantiles `(..., 7)` at the standard levels."""
    levels = np.asarray(QUANTILE_LEVELS)
    error = np.asarray(observed)[..., None] - np.asarray(quantiles)
    loss: Float = 2.0 * np.maximum(levels * error, (levels - 1.0) * error).mean(axis=-1)
    return loss


def row_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per scored forecast: keys and scores; rows without an observation drop out.

    Args:
        frame: A table as `check_forecasts` returns it.
    """
    scored = frame[frame["observed"].notna()]
    observed, quantiles = scored["observed"].to_numpy(), scored[list(QUANTILE_COLUMNS)].to_numpy()
    error = observed - scored["mean"].to_numpy()
    scores = scored[[*KEY_COLUMNS, "lead_hours"]].copy()
    scores["crps"] = crps(observed, quantiles)
    scores["mae"] = np.abs(observed - scored["q50"].to_numpy())
    scores["square"] = error**2
    scores["bias"] = -error
    for name, low, high in INTERVALS:
        inside = (observed >= scored[low].to_numpy()) & (observed <= scored[high].to_numpy())
        scores[f"coverage{name}"] = inside.astype(np.float64)
        scores[f"width{name}"] = scored[high].to_numpy() - scored[low].to_numpy()
    return scores


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a tidy table of scores: city, signal, bucket, metric, value, and the number of scored rows.

    Metrics: crps, mae (of the median), rmse and bias (of the mean; forecast minus observed), coverage and
    width of the central 50, 80 and 90 % intervals. Buckets: those of `BUCKETS` that occur, and "all".
    """
    scores = row_scores(frame)
    parts = [_means(scores, ALL)]
    parts += [
        _means(scores[scores["lead_hours"].between(first, last)], bucket)
        for bucket, (first, last) in BUCKETS.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _means(scores: pd.DataFrame, bucket: str) -> pd.DataFrame:
    """Return the mean scores of one bucket in long form."""
    columns = [column for column in scores.columns if column not in (*KEY_COLUMNS, "lead_hours")]
    groups = scores.groupby(["city", "signal"], observed=True)
    means = groups[columns].mean()
    means["rmse"] = np.sqrt(means.pop("square"))
    long = means.rename_axis(columns="metric").stack().rename("value").reset_index()
    rows = groups.size().rename("rows").reset_index()
    return long.merge(rows, on=["city", "signal"]).assign(bucket=bucket)[
        ["city", "signal", "bucket", "metric", "value", "rows"]
    ]


def skill(frame: pd.DataFrame, references: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return 1 - score / score of each reference, tidy, for crps and mae on the rows that both have.

    Args:
        frame: The forecasts judged.
        references: Reference forecasts per name, tables of the same contract.
    """
    own = row_scores(frame)
    parts = []
    for name, reference in references.items():
        # A rule that knows nothing of an hour forecasts NaN: such an hour compares nobody.
        known = row_scores(reference).dropna()
        both = own.merge(known, on=[*KEY_COLUMNS, "lead_hours"], suffixes=("", "_reference"))
        for bucket, (first, last) in {ALL: (1, int(own["lead_hours"].max())), **BUCKETS}.items():
            rows = both[both["lead_hours"].between(first, last)]
            means = rows.groupby(["city", "signal"], observed=True)[
                ["crps", "mae", "crps_reference", "mae_reference"]
            ].mean()
            for metric in ("crps", "mae"):
                values = 1.0 - means[metric] / means[f"{metric}_reference"]
                parts.append(
                    values.rename("value").reset_index().assign(bucket=bucket, metric=metric, reference=name)
                )
    return pd.concat(parts, ignore_index=True)[["city", "signal", "bucket", "metric", "reference", "value"]]


def pit(observed: Float, quantiles: Float) -> Float:
    """Return probability integral transforms `(...)`: the forecast probability of less than was observed.

    Between quantiles the distribution function is linear; outside them the value is the middle of the tail.
    Uniform on (0, 1) when the forecast is calibrated.
    """
    levels = np.asarray(QUANTILE_LEVELS)
    flat, value = np.asarray(quantiles).reshape(-1, len(levels)), np.asarray(observed).reshape(-1)
    position = (value[:, None] >= flat).sum(axis=1)
    inner = np.clip(position, 1, len(levels) - 1)
    rows = np.arange(len(value))
    low, high = flat[rows, inner - 1], flat[rows, inner]
    share = np.clip((value - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    inside = levels[inner - 1] + share * (levels[inner] - levels[inner - 1])
    middle_of_tail = np.where(position == 0, levels[0] / 2, (1.0 + levels[-1]) / 2)
    transformed = np.where((position == 0) | (position == len(levels)), middle_of_tail, inside)
    shaped: Float = transformed.reshape(np.shape(observed))
    return shaped


def pit_histogram(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of observations between neighbouring quantiles, beside the share expected.

    Columns: city, signal, interval ("<q05", "q05-q10", ..., ">q95"), share, expected.
    """
    scored = frame[frame["observed"].notna()]
    rank = (scored["observed"].to_numpy()[:, None] > scored[list(QUANTILE_COLUMNS)].to_numpy()).sum(axis=1)
    inner = itertools.pairwise(QUANTILE_COLUMNS)
    names = [f"<{QUANTILE_COLUMNS[0]}", *(f"{low}-{high}" for low, high in inner), f">{QUANTILE_COLUMNS[-1]}"]
    expected = np.diff([0.0, *QUANTILE_LEVELS, 1.0])
    groups = pd.Series(rank).groupby([scored["city"].to_numpy(), scored["signal"].to_numpy()])
    return pd.DataFrame(
        [
            {"city": city, "signal": signal, "interval": names[i], "share": share, "expected": expected[i]}
            for (city, signal), ranks in groups
            for i, share in enumerate(np.bincount(ranks, minlength=len(names)) / len(ranks))
        ]
    )


def exceedance_brier(frame: pd.DataFrame, signal: str = "pm25") -> pd.DataFrame:
    """Return Brier scores of "the 24 h mean exceeds a threshold", per city, forecast day and threshold.

    The quantiles of a 24 h mean are taken as the means of the hourly quantiles, which treats the hours of a
    day as moving together: the widest that the marginals allow. Days with a missing hour drop out.

    Returns:
        Columns city, day (1 = leads 1-24), threshold, brier, climatological (the score of always forecasting
        the observed frequency), days (number scored).
    """
    rows = frame[frame["signal"] == signal]
    day = (rows["lead_hours"] - 1) // HOURS_PER_DAY + 1
    groups = rows.groupby(["city", "origin", day.rename("day")], observed=True)
    columns = ["observed", *QUANTILE_COLUMNS]
    complete = (groups[columns].count() == HOURS_PER_DAY).all(axis=1)
    days = groups[columns].mean()[complete].reset_index()
    scores = []
    for threshold in EXCEEDANCE_PM25:
        below = pit(np.full(len(days), threshold), days[list(QUANTILE_COLUMNS)].to_numpy())
        happened = (days["observed"].to_numpy() > threshold).astype(np.float64)
        squares = pd.DataFrame(
            {
                "city": days["city"],
                "day": days["day"],
                "brier": (1.0 - below - happened) ** 2,
                "happened": happened,
            }
        )
        table = squares.groupby(["city", "day"]).agg(
            brier=("brier", "mean"), frequency=("happened", "mean"), days=("happened", "size")
        )
        table["climatological"] = table["frequency"] * (1.0 - table.pop("frequency"))
        scores.append(table.reset_index().assign(threshold=threshold))
    return pd.concat(scores, ignore_index=True)[
        ["city", "day", "threshold", "brier", "climatological", "days"]
    ]


@dataclass(frozen=True)
class Ratio:
    """A ratio of mean scores with its bootstrap interval.

    Attributes:
        ratio: Mean score of the first over that of the second; below 1 = the first is better.
        low: Lower end of the interval.
        high: Upper end.
        origins: Origin days behind it.
    """

    ratio: float
    low: float
    high: float
    origins: int


def resampling_counts(days: int, *, block_days: int, draws: int, seed: int) -> Float:
    """Return how often each of `days` days occurs in each circular block resample, `(draws, days)`."""
    generator = np.random.default_rng(seed)
    block = max(1, min(block_days, days))
    starts = generator.integers(0, days, size=(draws, -(-days // block)))
    chosen = ((starts[:, :, None] + np.arange(block)) % days).reshape(draws, -1)[:, :days]
    counts = np.zeros((draws, days))
    np.add.at(counts, (np.arange(draws)[:, None], chosen), 1.0)
    return counts


def block_bootstrap_ratio(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    metric: str = "crps",
    block_days: int = BLOCK_DAYS,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Ratio:
    """Compare two tables of row scores on their common rows.

    Args:
        first: `row_scores` of the model judged, one signal.
        second: `row_scores` of the model it is judged against.
        metric: Column to compare.
        block_days: Consecutive origins per block.
        draws: Resamples.
        confidence: Of the two-sided interval.
        seed: Of the resampling.

    Raises:
        BadInput: The tables have no row in common.
    """
    both = first.merge(second, on=[*KEY_COLUMNS, "lead_hours"], suffixes=("_a", "_b"))
    if both.empty:
        raise BadInput("the forecasts have no hour in common", field="timestamp", allowed="common rows")
    sums = both.groupby("origin")[[f"{metric}_a", f"{metric}_b"]].sum().to_numpy()
    counts = resampling_counts(len(sums), block_days=block_days, draws=draws, seed=seed)
    totals = counts @ sums
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [tail, 1.0 - tail])
    point = sums[:, 0].sum() / sums[:, 1].sum()
    return Ratio(float(point), float(low), float(high), len(sums))
