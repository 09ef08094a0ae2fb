"""What is known before an origin, how old it is, and what of it to name (DESIGN §7, rungs 1 and 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from urbanwm.contracts.scenario import InitialState
from urbanwm.contracts.signals import TARGETS

LATE_HOURS = 3
"""A feed this late is named: the usual hourly service publishes within two hours."""
STALE_HOURS = 72
"""A feed this late is past its limit: grid operators revise and publish with up to three days of delay."""
ENDED_HOURS = 30 * 24
"""An auxiliary input silent for this long is a record that ended, not a feed that is late."""


def known_before(
    history: pd.DataFrame | None, origin: datetime, hours: int, initial_state: InitialState | None = None
) -> pd.DataFrame | None:
    """Return the last `hours` before `origin`, with every target as a column; None where there are none.

    `initial_state` replaces the targets of the last hour: the caller's present is newer than any feed.
    """
    if history is None:
        return None
    first = pd.Timestamp(origin) - timedelta(hours=hours)
    known = history.loc[(history.index >= first) & (history.index < origin)]
    known = known.reindex(columns=known.columns.union(list(TARGETS), sort=False))
    if known[list(TARGETS)].isna().all(axis=None):
        return None
    if initial_state is not None:
        last = pd.Timestamp(origin) - pd.Timedelta(hours=1)
        known = known.reindex(known.index.union([last]))
        known.loc[last, list(TARGETS)] = [getattr(initial_state, name) for name in TARGETS]
    return known


def ages_hours(
    history: pd.DataFrame | None, origin: datetime, signals: Sequence[str] = TARGETS
) -> dict[str, float]:
    """Return per signal the hours between its last value's end and `origin`; infinity where there is none."""
    ages: dict[str, float] = {}
    for name in signals:
        column = None if history is None or name not in history else history.loc[history.index < origin, name]
        last = None if column is None else column.last_valid_index()
        age = np.inf if last is None else (pd.Timestamp(origin) - last) / pd.Timedelta(hours=1) - 1.0
        ages[name] = float(age)
    return ages


def freshness_reasons(ages: Mapping[str, float], inputs: Mapping[str, float] | None = None) -> list[str]:
    """Return one sentence per late target, and per late `inputs` whose record has not ended.

    A signal that was never observed (infinite age) is absent, not late: its caller names it.
    """
    late = {name: age for name, age in ages.items() if LATE_HOURS <= age < np.inf}
    late |= {name: age for name, age in (inputs or {}).items() if LATE_HOURS <= age < ENDED_HOURS}
    return [
        f"{name}: last value is {age:.0f} h old ({'past the limit' if is_stale(age) else 'late'})"
        for name, age in late.items()
    ]


def is_stale(age_hours: float) -> bool:
    """Return whether an age is past the limit within which a forecast counts as undegraded."""
    return age_hours >= STALE_HOURS
