"""Who answers a request, and what must be said about it: the ladder of degradation (DESIGN §7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from serving.champion import Champion, Standing
from serving.history import Snapshot
from urbanwm.contracts.scenario import Forecast
from urbanwm.forecaster import MAX_DATA_AGE_HOURS
from urbanwm.freshness import ages_hours

FRESH = 0
LATE_FEED = 1
STALE_FEED = 2
NO_CHAMPION = 3
NO_RECENT_DATA = 4


@dataclass(frozen=True)
class Footing:
    """What an answer stands on; rung 5 (nothing left) is an error and never an answer.

    Attributes:
        rung: 0 all fresh, 1 a late feed, 2 a stale feed or an unconfirmed champion, 3 not the champion,
            4 no recent data.
        champion: The model that answers; None: the baseline does.
        reasons: One sentence per thing that is not as it should be, the forecast's own apart.
    """

    rung: int
    champion: Champion | None
    reasons: tuple[str, ...]

    @property
    def degraded(self) -> bool:
        """Whether the answer is worse than it should be; a late feed only widens the interval."""
        return self.rung >= STALE_FEED


def choose(snapshot: Snapshot, standing: Standing, start: datetime, *, has_state: bool) -> Footing:
    """Return the best that is left for a simulation that begins at `start`.

    A state that the caller sends (`has_state`) counts as an observation of the last hour.
    """
    youngest = _youngest_hours(snapshot, start)
    recent = youngest <= MAX_DATA_AGE_HOURS or (has_state and math.isfinite(youngest))
    trouble = (snapshot.trouble,) if snapshot.trouble else ()
    if not recent:
        sentence = "no observation is recent enough for the world model"
        return Footing(NO_RECENT_DATA, None, (sentence, *trouble))
    reasons = (*trouble, *standing.reasons)
    if standing.refused or standing.champion is None:
        return Footing(NO_CHAMPION, standing.champion, reasons)
    if not standing.confirmed or trouble:
        return Footing(STALE_FEED, standing.champion, reasons)
    return Footing(FRESH, standing.champion, reasons)


def _youngest_hours(snapshot: Snapshot, start: datetime) -> float:
    """Return the age (h) at `start` of the newest target value before it; infinity where there is none."""
    if snapshot.data_end is None:
        return math.inf
    if start >= snapshot.data_end:
        return (start - snapshot.data_end) / timedelta(hours=1)
    return min(ages_hours(snapshot.frame, start).values())


def settle(footing: Footing, forecast: Forecast, *, lacked_data: bool) -> Footing:
    """Return the footing after the fact: what the forecast itself had to say can only lead further down.

    Args:
        footing: What was chosen.
        forecast: What came of it.
        lacked_data: The world model declined because it had too little to start from.
    """
    if footing.champion is not None and forecast.served_by == "baseline":
        return Footing(NO_RECENT_DATA if lacked_data else NO_CHAMPION, None, footing.reasons)
    if forecast.degraded:
        return Footing(max(footing.rung, STALE_FEED), footing.champion, footing.reasons)
    if forecast.reasons:
        return Footing(max(footing.rung, LATE_FEED), footing.champion, footing.reasons)
    return footing
