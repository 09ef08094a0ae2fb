"""Paired comparison of two forecasts of the same hours: CRPS ratios with bootstrap intervals.

The statistic is the ratio of mean CRPS, own over rival, per city and signal, and the geometric mean of these.
Its interval comes from a circular block bootstrap over origin days, widened as Student's t widens a normal
interval, because 60 days in blocks of 7 are only about nine independent pieces.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.errors import BadInput
from urbanwm.evaluation.metrics import ALL, BLOCK_DAYS, BUCKETS, resampling_counts

Float = NDArray[np.float64]

PERFECT_LOG_RATIO = float(np.log(1e6))


@dataclass(frozen=True)
class Interval:
    """A CRPS ratio, below 1 = better than the rival.

    Attributes:
        ratio: Own mean score over the rival's.
        low: Lower end of the two-sided interval.
        high: Upper end.
        harm_low: One-sided lower bound at the confidence asked for harm.
    """

    ratio: float
    low: float
    high: float
    harm_low: float


@dataclass(frozen=True)
class Comparison:
    """One rival compared.

    Attributes:
        overall: Geometric mean over cities and signals.
        signals: Per "city/signal".
        buckets: Per lead bucket and "city/signal".
    """

    overall: Interval
    signals: dict[str, Interval]
    buckets: dict[str, dict[str, Interval]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class DayScores:
    """CRPS per origin day.

    Attributes:
        keys: City and signal of each column.
        sums: `(days, keys)` summed CRPS per lead bucket.
        counts: `(days, keys)` scored rows per lead bucket.
    """

    keys: list[tuple[str, str]]
    sums: dict[str, Float]
    counts: dict[str, Float]

    @property
    def days(self) -> int:
        """Return the number of origin days."""
        return int(self.sums[ALL].shape[0])

    def resampled(self, bucket: str, draws: Float) -> Float:
        """Return mean scores `(draws, keys)`; NaN where a resample holds no row."""
        number = draws @ self.counts[bucket]
        return np.where(number > 0, draws @ self.sums[bucket], np.nan) / np.maximum(number, 1.0)


def block_days(days: int) -> int:
    """Return the block length: a week, or less where a week would leave too few blocks to vary."""
    return max(1, min(BLOCK_DAYS, days // 4))


def day_scores(scores: pd.DataFrame) -> DayScores:
    """Add the CRPS up per origin day, city and signal."""
    # Cities east and west of UTC begin their day at other UTC hours: the date of the day's middle is common.
    middle = pd.Timedelta(hours=12)
    table = scores.assign(day=(scores["origin"] + middle).dt.floor("D"), rows=1.0)
    keys = sorted(set(zip(table["city"], table["signal"], strict=True)))
    days = pd.Index(sorted(table["day"].unique()), name="day")
    sums: dict[str, Float] = {}
    counts: dict[str, Float] = {}
    for bucket, (first, last) in {ALL: (1, int(table["lead_hours"].max())), **BUCKETS}.items():
        rows = table[table["lead_hours"].between(first, last)]
        if rows.empty:
            continue
        wide = rows.pivot_table(
            index="day", columns=["city", "signal"], values=["crps", "rows"], aggfunc="sum"
        )
        for target, value in ((sums, "crps"), (counts, "rows")):
            columns = wide.get(value, pd.DataFrame(index=days))
            target[bucket] = columns.reindex(index=days, columns=keys).fillna(0.0).to_numpy(dtype=np.float64)
    return DayScores(keys, sums, counts)


def compare(
    own: DayScores, rival: DayScores, *, confidence: float, harm_confidence: float, draws: int, seed: int
) -> Comparison:
    """Compare two models scored on the same rows.

    Args:
        own: The model judged.
        rival: What it is judged against; same days and keys.
        confidence: Of the two-sided intervals.
        harm_confidence: Of the one-sided `harm_low`.
        draws: Bootstrap resamples; the same resampled days for every signal and bucket.
        seed: Of the resampling.

    Raises:
        BadInput: Both models are perfect on every signal.
    """
    block = block_days(own.days)
    counts = resampling_counts(own.days, block_days=block, draws=draws, seed=seed)
    widening = student_widening(own.days / block, confidence)
    names = ["/".join(key) for key in own.keys]
    points, resampled = {}, {}
    for bucket in own.sums:
        points[bucket] = _log_ratios(own, rival, bucket, np.ones((1, own.days)))[0]
        resampled[bucket] = _log_ratios(own, rival, bucket, counts)

    def interval(point: float, draws_of_it: Float) -> Interval:
        return _interval(point, draws_of_it, widening, confidence, harm_confidence)

    def per_signal(bucket: str) -> dict[str, Interval]:
        point = points[bucket]
        return {
            name: interval(float(point[i]), resampled[bucket][:, i])
            for i, name in enumerate(names)
            if np.isfinite(point[i])
        }

    usable = np.isfinite(points[ALL])
    if not usable.any():
        raise BadInput("no signal has a score above 0 to compare", field="observed", allowed="varying values")
    overall = interval(float(points[ALL][usable].mean()), resampled[ALL][:, usable].mean(axis=1))
    buckets = {bucket: per_signal(bucket) for bucket in own.sums if bucket != ALL}
    return Comparison(overall, per_signal(ALL), buckets)


def _log_ratios(own: DayScores, rival: DayScores, bucket: str, counts: Float) -> Float:
    """Return log CRPS ratios `(draws, keys)`; NaN where nothing is scored or both models are perfect."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log(own.resampled(bucket, counts) / rival.resampled(bucket, counts))
    # One perfect model makes the ratio 0 or infinite: a finite stand-in keeps it in the verdict.
    return np.clip(ratios, -PERFECT_LOG_RATIO, PERFECT_LOG_RATIO)


def student_widening(pieces: float, confidence: float) -> float:
    """Return Student's over the normal quantile of a two-sided interval from `pieces` independent pieces.

    First two terms of the Cornish-Fisher expansion (Abramowitz & Stegun 26.7.5).
    """
    z = NormalDist().inv_cdf((1.0 + confidence) / 2.0)
    freedom = max(pieces - 1.0, 1.0)
    return 1.0 + (z**2 + 1.0) / (4.0 * freedom) + (5.0 * z**4 + 16.0 * z**2 + 3.0) / (96.0 * freedom**2)


def _interval(
    point: float, resampled: Float, widening: float, confidence: float, harm_confidence: float
) -> Interval:
    """Return the interval of a log ratio, as ratios."""
    finite = resampled[np.isfinite(resampled)]
    tail = (1.0 - confidence) / 2.0
    bounds = np.quantile(finite, [tail, 1.0 - tail, 1.0 - harm_confidence])
    low, high, harm_low = np.exp(point + widening * (bounds - point))
    return Interval(float(np.exp(point)), float(low), float(high), float(harm_low))
