"""Every rule applied to one batch."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from urbanwm.quality.points import check_points
from urbanwm.quality.rules import Checked
from urbanwm.quality.series import check_series


def check(
    batch: pd.DataFrame,
    *,
    timezone: str = "UTC",
    now: datetime | None = None,
    history: pd.DataFrame | None = None,
) -> Checked:
    """Apply every rule to the rows of one source and one city.

    Args:
        batch: At least `timestamp` (UTC, hour start), `signal`, `value`, `flags`.
        timezone: The city's IANA zone, for the rules that know day from night.
        now: When the answer was received; None skips the rule against future hours.
        history: Earlier rows of the same source (`timestamp`, `signal`, `value`), context only.

    Raises:
        InternalContractBroken: A time is naive.
    """
    points = check_points(batch, timezone=timezone, now=now)
    series = check_series(points.rows, timezone=timezone, history=history)
    return Checked(series.rows, points.dropped + series.dropped, points.flagged + series.flagged)
