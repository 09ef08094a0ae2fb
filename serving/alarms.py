"""Alarms on absence: what should have come and has not, said by the service itself.

A scheduler that is dead reports nothing; the service is what still runs when it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import structlog

from serving.metrics import LAST_NIGHT
from urbanwm.clock import Clock
from urbanwm.contracts.signals import TARGETS
from urbanwm.freshness import STALE_HOURS, is_stale
from urbanwm.last_night import LastNight

NIGHT_LIMIT_HOURS = 30
"""A night every 24 h, and some hours for one that begins late or takes long; as in the Prometheus rules."""
Ages = Mapping[str, Mapping[str, float]]
"""Age of the newest value, hours, by city and signal; infinity where there is none."""

log = structlog.get_logger("urbanwm.alarms")


class Alarms:
    """Looks every few seconds at what is overdue; warns once when something becomes so, not at every look."""

    def __init__(self, read_night: Callable[[], LastNight | None], clock: Clock) -> None:
        """Remember how to read the record of the last night; nothing is read yet."""
        self._read_night = read_night
        self._clock = clock
        self._night: LastNight | None = None
        self._ages: Ages = {}
        self._standing: dict[str, str] = {}

    def look(self, ages: Ages) -> None:
        """Take up the ages of the feeds and the record of the last night, publish and warn."""
        self._night, self._ages = self._read_night(), ages
        if self._night is not None and self._night.succeeded_at is not None:
            LAST_NIGHT.set(self._night.succeeded_at.timestamp())
        found = dict(self._overdue())
        for name in found.keys() - self._standing.keys():
            log.warning("overdue", alarm=name, says=found[name])
        for name in self._standing.keys() - found.keys():
            log.info("no_longer_overdue", alarm=name)
        self._standing = found

    def describe(self) -> dict[str, Any]:
        """Return the fields of `/api/health` about absence; `alarms` has one sentence per overdue thing."""
        night = self._night
        return {
            "alarms": [self._standing[name] for name in sorted(self._standing)],
            "last_night": None
            if night is None
            else {
                "as_of": night.as_of,
                "finished_at": night.finished_at,
                "status": night.status,
                "succeeded_at": night.succeeded_at,
            },
            "data_age_hours": {
                city: {signal: age if age < float("inf") else None for signal, age in signals.items()}
                for city, signals in self._ages.items()
            },
        }

    def _overdue(self) -> list[tuple[str, str]]:
        """Return name and sentence of everything that is overdue."""
        found = []
        succeeded = self._night.succeeded_at if self._night else None
        if succeeded is None:
            found.append(("night", "no night is known to have succeeded"))
        elif self._clock() - succeeded > timedelta(hours=NIGHT_LIMIT_HOURS):
            since = succeeded.isoformat()
            found.append(("night", f"no night has succeeded since {since}, over {NIGHT_LIMIT_HOURS} h ago"))
        for city, signals in sorted(self._ages.items()):
            late = [name for name in TARGETS if is_stale(signals.get(name, 0.0))]
            if late:
                names = ", ".join(late)
                found.append((f"data of {city}", f"{city}: {names} older than {STALE_HOURS} h"))
        return found
