"""What the service knows about each city: its recent rows, in memory until the lake has newer ones."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import pandas as pd
import structlog

from urbanwm.baseline import HISTORY_HOURS
from urbanwm.cities import City, city_key
from urbanwm.clock import Clock
from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import DataUnavailable

log = structlog.get_logger("urbanwm.history")

NO_TABLE = -1


class LakeReader(Protocol):
    """What is asked of `urbanwm.lake.Lake`."""

    def version(self) -> int:
        """Return the newest version, -1 where there is no table."""
        ...

    def read(self, city: str, *, start: datetime | None = None, version: int | None = None) -> pd.DataFrame:
        """Return the city's hourly grid."""
        ...

    def last_timestamp(self, city: str) -> datetime | None:
        """Return the city's last hour."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """A city's data at one version of the lake.

    Attributes:
        frame: Hourly grid, `(hours, signals)`, NaN = missing; None where nothing is known.
        version: Version of the lake it was read from; None where there is no lake.
        data_end: End of the last hour in which any target was observed, UTC; None where none was.
        serial: Number of the reading; no two readings of this process share one.
        trouble: Why this may be out of date, else None.
    """

    frame: pd.DataFrame | None = None
    version: int | None = None
    data_end: datetime | None = None
    serial: int = 0
    trouble: str | None = None


class Histories:
    """One snapshot per city, read again when the lake has a new version.

    Requests use what is held; only a city that was never read is read for them. `refresh`, called every few
    seconds from a thread of its own, looks for new versions: a slow or silent store delays no answer. A lake
    that goes away leaves the last snapshot in use, with `trouble` saying so.
    """

    def __init__(self, lake: LakeReader, clock: Clock) -> None:
        """Remember the lake; nothing is read yet."""
        self._lake = lake
        self._clock = clock
        self._lock = threading.Lock()
        self._snapshots: dict[str, Snapshot] = {}
        self._version: int | None = None
        self._trouble: str | None = None
        self._checked = False
        self._serials = itertools.count(1)

    def snapshot(self, city: City) -> Snapshot:
        """Return the city's rows as they are held; a city that is new here is read by one thread."""
        held = self._snapshots.get(city.name)
        if held is None:
            with self._lock:
                if not self._checked:
                    self._check_version()
                held = self._bring_up_to_date(city)
        return replace(held, trouble=self._trouble or held.trouble)

    def holds(self, name: object) -> bool:
        """Return whether the rows of the city that a caller calls `name` are in memory."""
        return isinstance(name, str) and city_key(name) in self._snapshots

    @property
    def has_rows(self) -> bool:
        """Whether any city has rows in memory."""
        return any(snapshot.frame is not None for snapshot in list(self._snapshots.values()))

    def refresh(self, cities: Iterable[City]) -> None:
        """Look for a new version of the lake, and read again what it may have changed."""
        with self._lock:
            self._check_version()
        for city in cities:
            with self._lock:
                self._bring_up_to_date(city)

    def _bring_up_to_date(self, city: City) -> Snapshot:
        """Return the city's rows at the version that was checked; read them if they are not held."""
        held = self._snapshots.get(city.name)
        if held is not None and (self._trouble is not None or held.version == self._version):
            return held
        fresh = self._read(city, held)
        self._snapshots[city.name] = fresh
        return fresh

    def _check_version(self) -> None:
        """Ask the lake for its version."""
        try:
            version = self._lake.version()
        except Exception as failure:  # noqa: BLE001 - whatever a store raises, the rows in memory still answer
            self._trouble = f"the lake is out of reach ({type(failure).__name__})"
        else:
            gone = version == NO_TABLE
            self._trouble = "the lake is gone" if gone and self.has_rows else None
            self._version = None if gone else version
        finally:
            self._checked = True

    def _read(self, city: City, held: Snapshot | None) -> Snapshot:
        """Read a city's recent rows at the version that was checked."""
        if self._version is None:
            return Snapshot(trouble=self._trouble)
        try:
            last = self._lake.last_timestamp(city.name)
            if last is None:
                return Snapshot(version=self._version)
            frame = self._lake.read(
                city.name, start=last - timedelta(hours=HISTORY_HOURS), version=self._version
            )
        except DataUnavailable:
            return Snapshot(version=self._version)
        except Exception as failure:  # noqa: BLE001 - whatever a store raises, the rows in memory still answer
            log.warning("lake_read_failed", city=city.name, error=type(failure).__name__)
            trouble = f"the lake could not be read ({type(failure).__name__})"
            return replace(held, trouble=trouble) if held else Snapshot(trouble=trouble)
        return Snapshot(
            frame=frame, version=self._version, data_end=_data_end(frame), serial=next(self._serials)
        )

    def now(self, city: City, snapshot: Snapshot) -> datetime:
        """Return the hour that a simulation of this city starts from unless it says otherwise.

        The present hour; for a recorded (`replay`) or simulated city the end of its data, which makes it
        always up to date.
        """
        return city.now(self._clock(), snapshot.data_end)


def _data_end(frame: pd.DataFrame) -> datetime | None:
    """Return the end of the last hour with a target; weather may be known further ahead."""
    observed = frame.reindex(columns=list(TARGETS)).dropna(how="all")
    if observed.empty:
        return None
    last: datetime = observed.index[-1].to_pydatetime()
    return last + timedelta(hours=1)
