"""The promotion gate: a challenger replaces the champion only with proof, judged on the same hours.

Pure: tables of forecasts in, a verdict with its evidence out. The statistics are in `comparison`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from urbanwm.errors import BadInput
from urbanwm.evaluation.comparison import Comparison, Interval, block_days, compare, day_scores
from urbanwm.evaluation.forecasts import check_forecasts, read_forecasts, require_same_rows
from urbanwm.evaluation.metrics import DRAWS, row_scores

__all__ = ["GateDecision", "GateLimits", "decide", "read_forecasts"]


@dataclass(frozen=True)
class GateLimits:
    """What the gate tolerates.

    Attributes:
        margin: Relative loss on one signal that still counts as not worse.
        confidence: Of the two-sided interval that must lie below 1 for "better"; of 200 pairs of equal models
            about 3.5 % pass at 0.95. A gain of 3 % passes in 94 % of cases where two seeds of one model
            differ by 0.7 %, and in 69 % where they differ by 1.2 % (60 origin days).
        harm_confidence: One-sided confidence at which a loss beyond the margin counts as real. Lower than
            `confidence` on purpose: a harm needs less proof than a gain.
        bucket_margin: The same as `margin` for one signal in one lead bucket, against the champion only:
            the noise is larger there, and what the champion lacks already is no reason to keep it.
        minimum_gain: Smallest overall gain worth a change of model.
        coverage_low: Least share of observations inside the 90 % interval, per signal.
        coverage_high: Largest.
        coverage_slack: A challenger outside those limits passes if it is no further from 90 % than its rival
            by more than this.
        minimum_days: Origin days without which nothing is decided.
    """

    margin: float = 0.02
    confidence: float = 0.95
    harm_confidence: float = 0.75
    bucket_margin: float = 0.10
    minimum_gain: float = 0.005
    coverage_low: float = 0.80
    coverage_high: float = 0.98
    coverage_slack: float = 0.02
    minimum_days: int = 7


@dataclass(frozen=True)
class GateDecision:
    """The verdict.

    Attributes:
        promote: Whether the challenger may serve.
        reasons: One sentence each: why not, or what was proven.
        evidence: Ratios with intervals per rival, signal and lead bucket; coverage; the limits. JSON-ready.
    """

    promote: bool
    reasons: list[str]
    evidence: dict[str, Any] = field(default_factory=dict)


def decide(
    challenger_df: pd.DataFrame,
    champion_df: pd.DataFrame | None,
    baseline_df: pd.DataFrame,
    *,
    margin: float = GateLimits.margin,
    confidence: float = GateLimits.confidence,
    draws: int = DRAWS,
    seed: int = 0,
    behaviour_failures: Sequence[str] = (),
) -> GateDecision:
    """Decide whether the challenger may replace the champion.

    Promoted only if, against the champion (on the first night there is none) and against the baseline, the
    overall CRPS ratio lies below 1 with the stated confidence, no signal is worse beyond the margin, the 90 %
    intervals are calibrated, and no behaviour check failed.

    Args:
        challenger_df: Forecasts of the challenger, columns of DESIGN §6.
        champion_df: Forecasts of the model in service on the same rows; None on the first night.
        baseline_df: Forecasts of the deterministic baseline on the same rows.
        margin: Relative loss on one signal that still counts as not worse.
        confidence: Of the two-sided interval, 0.5 to 1.
        draws: Bootstrap resamples.
        seed: Of the resampling.
        behaviour_failures: Names of failed behaviour checks.

    Raises:
        BadInput: A table is empty or malformed, or the tables do not cover the same rows; names the column.
    """
    limits = _limits(margin, confidence)
    challenger = check_forecasts(challenger_df, "challenger")
    rivals = {"baseline": check_forecasts(baseline_df, "baseline")}
    if champion_df is not None:
        rivals = {"champion": check_forecasts(champion_df, "champion"), **rivals}
    for name, rival in rivals.items():
        require_same_rows(challenger, rival, ("challenger", name))
    scores = row_scores(challenger)
    rival_scores = {name: row_scores(rival) for name, rival in rivals.items()}
    own = day_scores(scores)
    refusals = [f"behaviour check failed: {failure}" for failure in behaviour_failures]
    if own.days < limits.minimum_days:
        refusals.append(f"only {own.days} origin days; {limits.minimum_days} are needed to decide")
    compared: dict[str, Comparison] = {}
    for name, rival in rival_scores.items():
        compared[name] = compare(
            own,
            day_scores(rival),
            confidence=limits.confidence,
            harm_confidence=limits.harm_confidence,
            draws=draws,
            seed=seed,
        )
        refusals += comparison_refusals(compared[name], name, limits)
    coverage = {name: _coverage(table) for name, table in {"challenger": scores, **rival_scores}.items()}
    nearest_rival = next(iter(rivals))
    refusals += _miscalibrated(coverage["challenger"], coverage[nearest_rival], nearest_rival, limits)
    evidence = {
        "origin_days": own.days,
        "first_origin": challenger["origin"].min().isoformat(),
        "last_origin": challenger["origin"].max().isoformat(),
        "against": {name: comparison.to_dict() for name, comparison in compared.items()},
        "coverage90": coverage,
        "behaviour_failures": list(behaviour_failures),
        "limits": vars(limits),
        "bootstrap": {"draws": draws, "block_days": block_days(own.days), "seed": seed},
    }
    reasons = refusals or [_gain(compared[name], name, limits) for name in rivals]
    return GateDecision(promote=not refusals, reasons=reasons, evidence=evidence)


def _limits(margin: float, confidence: float) -> GateLimits:
    """Return the limits, refusing settings that mean nothing."""
    if not 0.0 <= margin <= 1.0:
        raise BadInput("the margin is not a share", field="margin", value=margin, allowed="0 to 1")
    if not 0.5 < confidence < 1.0:
        raise BadInput("not a confidence", field="confidence", value=confidence, allowed="above 0.5, below 1")
    return GateLimits(margin=margin, confidence=confidence)


def comparison_refusals(compared: Comparison, rival: str, limits: GateLimits) -> list[str]:
    """Say why a comparison with the "champion" or the "baseline" forbids promotion; empty: it does not."""
    overall = compared.overall
    reasons = []
    if overall.high >= 1.0:
        reasons.append(
            f"not proven better than the {rival}: CRPS ratio {overall.ratio:.3f}, upper bound "
            f"{overall.high:.3f} at {limits.confidence:.0%} confidence"
        )
    elif rival == "champion" and overall.ratio > 1.0 - limits.minimum_gain:
        reasons.append(
            f"better than the {rival} by only {1.0 - overall.ratio:.2%}; a change of model needs "
            f"{limits.minimum_gain:.2%}"
        )
    reasons += _harms(compared.signals.items(), rival, limits.margin, "")
    if rival == "champion":
        for bucket, signals in compared.buckets.items():
            reasons += _harms(signals.items(), rival, limits.bucket_margin, f" at {bucket} h")
    return reasons


def _harms(signals: Iterable[tuple[str, Interval]], rival: str, margin: float, where: str) -> list[str]:
    """Name the signals whose loss against the rival is beyond the margin and not noise."""
    return [
        f"worse than the {rival} on {name}{where}: CRPS ratio {interval.ratio:.3f}, "
        f"allowed {1.0 + margin:.2f}"
        for name, interval in signals
        if interval.ratio > 1.0 + margin and interval.harm_low > 1.0
    ]


def _coverage(scores: pd.DataFrame) -> dict[str, float]:
    """Return the share of observations inside the 90 % interval per city and signal."""
    shares = scores.groupby(["city", "signal"], observed=True)["coverage90"].mean()
    return {f"{city}/{signal}": float(share) for (city, signal), share in shares.items()}


def _miscalibrated(
    own: dict[str, float], rival: dict[str, float], rival_name: str, limits: GateLimits
) -> list[str]:
    """Name the signals whose 90 % interval covers too little or too much, and worse so than the rival's."""
    aim = 0.90
    return [
        f"the 90 % interval of {name} covers {share:.1%} (allowed {limits.coverage_low:.0%} to "
        f"{limits.coverage_high:.0%}, or as near to 90 % as the {rival_name}'s {rival[name]:.1%})"
        for name, share in own.items()
        if not limits.coverage_low <= share <= limits.coverage_high
        and abs(share - aim) > abs(rival[name] - aim) + limits.coverage_slack
    ]


def _gain(compared: Comparison, rival: str, limits: GateLimits) -> str:
    """Say what was proven against one rival."""
    overall = compared.overall
    return (
        f"better than the {rival}: CRPS ratio {overall.ratio:.3f}, upper bound {overall.high:.3f} "
        f"at {limits.confidence:.0%} confidence"
    )
