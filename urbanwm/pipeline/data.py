"""From the lake to what a night works on: each city's record, cut into training rows and held-out origins."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd

from urbanwm.cities import City, load_city
from urbanwm.clock import Clock, require_utc
from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import DataUnavailable
from urbanwm.ingest import city_now
from urbanwm.lake import Records
from urbanwm.settings import Settings
from urbanwm.stores import records_of

HORIZON_HOURS: Final = 48
"""Lead up to which candidates are judged, hours."""
TEST_DAYS: Final = 60
"""Held-out origins, one per local midnight, where the record is long enough."""
TEST_DAYS_MIN: Final = 7
TEST_SHARE: Final = 0.2
"""Largest share of a record that is held out."""
TRAINING_DAYS_MIN: Final = 21


@dataclass(frozen=True)
class CityRecord:
    """One city's hours, cut so that no held-out hour is trained on.

    Attributes:
        city: The city file.
        frame: Hourly UTC frame up to the last local midnight; columns are the signals that have values.
        origins: Held-out origins: local midnights, UTC, at least 48 h before the end of `frame`.
    """

    city: City
    frame: pd.DataFrame
    origins: tuple[datetime, ...]

    @property
    def training(self) -> pd.DataFrame:
        """Return the hours before the first held-out origin."""
        return self.frame[self.frame.index < self.origins[0]]

    @property
    def digest(self) -> str:
        """Return a hash of every hour and value: unlike a table version, it changes only when the data do."""
        content = hashlib.sha256(",".join(self.frame.columns).encode())
        content.update(self.frame.index.as_unit("us").asi8.tobytes())
        content.update(np.ascontiguousarray(self.frame.to_numpy(dtype=np.float64)).tobytes())
        return content.hexdigest()[:16]


@dataclass(frozen=True)
class NightData:
    """All cities of one night, read from one version of the lake.

    Attributes:
        lake_uri: Which table.
        lake_version: Which version of it.
        records: City by name.
        left_out: Why a city that was asked for is not there.
    """

    lake_uri: str
    lake_version: int
    records: Mapping[str, CityRecord]
    left_out: Mapping[str, str]

    @property
    def digests(self) -> dict[str, str]:
        """Return the hash of each city's data."""
        return {name: record.digest for name, record in self.records.items()}

    def window(self) -> dict[str, Any]:
        """Return what a later evaluation needs to judge another model on exactly the same hours."""
        return {
            "lake_version": self.lake_version,
            "horizon_hours": HORIZON_HOURS,
            "cities": {
                name: {
                    "end": (record.frame.index[-1] + pd.Timedelta(hours=1)).isoformat(),
                    "origins": [origin.isoformat() for origin in record.origins],
                }
                for name, record in self.records.items()
            },
        }


def read_night(
    names: Sequence[str], settings: Settings, *, until: datetime | None, clock: Clock
) -> NightData:
    """Read each city up to the last local midnight before `until` (or its "now").

    The cut at midnight makes a night repeatable: hours that arrive during the day do not change it.

    Raises:
        DataUnavailable: No city has enough data.
        BadInput: `until` has no time zone, or a city is unknown.
    """
    lake = records_of(settings)
    version = lake.version()
    records: dict[str, CityRecord] = {}
    left_out: dict[str, str] = {}
    for name in names:
        city = load_city(name, settings)
        try:
            now = city_now(city, lake, clock)
            end = now if until is None else min(now, require_utc(until, "until"))
            records[city.name] = _cut(city, lake, version, end)
        except DataUnavailable as error:
            left_out[city.name] = str(error)
    if not records:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise DataUnavailable(f"no city has enough data to train on: {reasons}")
    return NightData(lake.uri, version, records, left_out)


def read_window(
    window: Mapping[str, Any], settings: Settings, cities: Collection[str] | None = None
) -> dict[str, CityRecord]:
    """Read again exactly the hours that `NightData.window` describes, of some of its cities or of all.

    Raises:
        DataUnavailable: That version of the lake is gone (vacuumed).
    """
    lake = records_of(settings)
    records = {}
    for name, part in window["cities"].items():
        if cities is not None and name not in cities:
            continue
        end = datetime.fromisoformat(part["end"])
        frame = lake.read(name, end=end, version=window["lake_version"])
        origins = tuple(datetime.fromisoformat(origin) for origin in part["origins"])
        records[name] = CityRecord(load_city(name, settings), _present(frame), origins)
    return records


def _cut(city: City, lake: Records, version: int, end: datetime) -> CityRecord:
    """Read a city and choose its held-out origins.

    Raises:
        DataUnavailable: There are no targets, or too few days.
    """
    frame = lake.read(city.name, end=end, version=version)
    targets = frame[[name for name in TARGETS if name in frame]].dropna(how="all")
    if targets.empty:
        raise DataUnavailable(f"{city.name} has no value of any target", field="city", value=city.name)
    last_day = city.local_day(min(end, targets.index[-1] + timedelta(hours=1)))
    first_day = city.local_day(targets.index[0]) + timedelta(days=1)
    days = (last_day - first_day).days
    held_out = min(TEST_DAYS, int(days * TEST_SHARE))
    horizon_days = HORIZON_HOURS // 24
    if held_out < TEST_DAYS_MIN or days - held_out - horizon_days < TRAINING_DAYS_MIN:
        raise DataUnavailable(
            f"{city.name} has {max(days, 0)} whole days of data, too few to train and to judge a model",
            field="city",
            value=city.name,
            allowed=f"{int(TEST_DAYS_MIN / TEST_SHARE)} days or more",
        )
    last_origin = last_day - timedelta(days=horizon_days)
    origins = tuple(city.local_hour(last_origin - timedelta(days=back)) for back in reversed(range(held_out)))
    known = frame[frame.index < city.local_hour(last_day)]
    return CityRecord(city, _present(known), origins)


def _present(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out the signals that the city does not have."""
    return frame.dropna(axis="columns", how="all")
