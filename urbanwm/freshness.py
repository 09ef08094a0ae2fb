"""What is known before an origin, how old it is, and what of it to name (DESIGN §7, rungs 1 and 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.contracts.scenario import InitialState
from urbanwm.contracts.signals import TARGETS
from urbanwm.features.usual import VOLUME

LATE_HOURS = 3
"""A feed this late is named: the usual hourly service publishes within two hours."""
STALE_HOURS = 72
"""A feed this late is past its limit: grid operators revise and publish with up to three days of delay."""
SEARCH_BLOCK_HOURS = 48
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
    first = rows_before(history, origin - timedelta(hours=hours))
    known = history.iloc[first : rows_before(history, origin)]
    if not set(TARGETS) <= set(known.columns):
        known = known.reindex(columns=known.columns.union(list(TARGETS), sort=False))
    if all(last_present(known[name].to_numpy(), len(known)) is None for name in TARGETS):
        return None
    if initial_state is not None:
        last = pd.Timestamp(origin) - pd.Timedelta(hours=1)
        known = known.reindex(known.index.union([last]))
        known.loc[last, list(TARGETS)] = [getattr(initial_state, name) for name in TARGETS]
        if VOLUME in known:
            known.loc[last, VOLUME] = np.nan
    return known


def rows_before(history: pd.DataFrame, moment: datetime) -> int:
    """Return how many rows of an hourly frame, in order of time, lie before `moment`."""
    return int(history.index.searchsorted(pd.Timestamp(moment)))


def last_present(values: NDArray[np.float64], rows: int) -> int | None:
    """Return the last of the first `rows` rows that holds a value, None without one.

    The newest hours are looked at first: this is asked several times per request, over thousands of hours.
    """
    stop, block = rows, SEARCH_BLOCK_HOURS
    while stop > 0:
        start = max(0, stop - block)
        missing = np.isnan(values[start:stop])
        present = np.flatnonzero(~(missing if missing.ndim == 1 else missing.all(axis=1)))
        if len(present):
            return start + int(present[-1])
        stop, block = start, block * 8
    return None


def ages_hours(
    history: pd.DataFrame | None, origin: datetime, signals: Sequence[str] = TARGETS
) -> dict[str, float]:
    """Return per signal the hours between its last value's end and `origin`; infinity where there is none."""
    ages = dict.fromkeys(signals, float(np.inf))
    if history is None:
        return ages
    rows = rows_before(history, origin)
    for name in ages:
        position = last_present(history[name].to_numpy(), rows) if name in history else None
        if position is not None:
            since = pd.Timestamp(origin) - history.index[position]
            ages[name] = float(since / pd.Timedelta(hours=1)) - 1.0
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
