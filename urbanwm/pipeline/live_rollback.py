"""Taking a champion out of service that keeps losing to the baseline on what really happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from urbanwm.clock import Clock, utc_now
from urbanwm.errors import GateRefused
from urbanwm.monitoring.live import DayScore, days_below
from urbanwm.pipeline.promote import run_rollback
from urbanwm.registry import DECISION_TAG, ROLLED_BACK, Registry, predecessor
from urbanwm.settings import Settings


@dataclass(frozen=True)
class LiveRollback:
    """What became of a champion that lost for too many days.

    Attributes:
        left: The version that was in service.
        serving: The version in service afterwards.
        days: Origin days in a row on which it was worse than the baseline.
        done: Whether it was taken out.
        reason: One sentence.
    """

    left: str
    serving: str
    days: int
    done: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def rollback_if_worse(
    settings: Settings, scores: Sequence[DayScore], clock: Clock = utc_now
) -> LiveRollback | None:
    """Put the previous champion back where the present one lost to the baseline day after day.

    The days are counted over all cities, each with the same weight, and only for the version that serves: a
    new champion is not blamed for its predecessor. A version that was itself taken out does not come back by
    itself; then the champion stays and the answer says so.

    Args:
        settings: Gives the number of days; 0 switches this off.
        scores: Champion against baseline by city and origin day, oldest first.
        clock: Stamps what is logged.

    Returns:
        What was done; None where there is nothing to do.

    Raises:
        BundleInvalid: The previous bundle cannot serve; the champion stays.
        UpstreamUnavailable: The registry cannot be asked.
    """
    registry = Registry(settings, clock)
    champion = registry.champion() if settings.rollback_after_days and registry.exists else None
    if champion is None:
        return None
    days = days_below(scores, champion.version)
    if days < settings.rollback_after_days:
        return None
    sentence = (
        f"live forecasts of version {champion.version} were worse than the baseline's {days} days in a row"
    )
    before = predecessor(registry, champion)
    if before is None or before.tags.get(DECISION_TAG, "").startswith(ROLLED_BACK):
        why = "there is no previous champion" if before is None else f"version {before.version} failed before"
        return LiveRollback(champion.version, champion.version, days, False, f"{sentence}; {why}, it stays")
    try:
        after = run_rollback(settings, reason=sentence, expected_champion=champion.version, clock=clock)
    except GateRefused as error:
        return LiveRollback(champion.version, champion.version, days, False, f"{sentence}; {error}")
    return LiveRollback(champion.version, after["champion"], days, True, sentence)
