"""The merge of what was gathered: once for any number of cities, because a merge costs the same for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from urbanwm.cities import City
from urbanwm.errors import UrbanWMError
from urbanwm.ingest.report import IngestReport
from urbanwm.settings import Settings
from urbanwm.stores import forecasts_of, lake_of


@dataclass
class Gathered:
    """What one city's sources gave, not yet merged.

    Attributes:
        city: The city file.
        report: Its account so far.
        observations: Batches for `Lake.upsert`.
        forecasts: Batches for `Forecasts.add`.
        failure: What ended the gathering early; the batches hold what came before.
    """

    city: City
    report: IngestReport
    observations: list[pd.DataFrame] = field(default_factory=list)
    forecasts: list[pd.DataFrame] = field(default_factory=list)
    failure: UrbanWMError | None = None

    @property
    def retryable(self) -> bool:
        """Whether one of the failures can be over at the next attempt."""
        return self.report.retryable or (self.failure is not None and self.failure.retryable)

    def rows(self) -> int:
        """Return how many rows wait for the merge."""
        return sum(map(len, [*self.observations, *self.forecasts]))


def store(gathered: Sequence[Gathered], settings: Settings) -> None:
    """Merge what some cities gathered, observations and forecasts each in one commit, and count it per city.

    What is merged leaves `gathered`. Killed in between, the next ingest gathers the rest again.

    Raises:
        LakeConflict: Other writers kept winning; what was not merged stays in `gathered`.
    """
    observations = _together([rows for one in gathered for rows in one.observations])
    if observations is not None:
        preference = {
            (one.city.name, signal): one.city.preference(signal)
            for one in gathered
            for signal in one.city.signals
        }
        commit = lake_of(settings).upsert(observations, preference)
        for one in gathered:
            if one.city.name in commit.cities:
                one.report.inserted += commit.cities[one.city.name].inserted
                one.report.updated += commit.cities[one.city.name].updated
            one.observations.clear()
    forecasts = _together([rows for one in gathered for rows in one.forecasts])
    if forecasts is not None:
        commit = forecasts_of(settings).add(forecasts)
        for one in gathered:
            if one.city.name in commit.cities:
                one.report.forecasts += commit.cities[one.city.name].inserted
            one.forecasts.clear()


def _together(batches: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    """Return batches as one; None when there are no rows."""
    waiting = [rows for rows in batches if len(rows)]
    return pd.concat(waiting, ignore_index=True) if waiting else None
