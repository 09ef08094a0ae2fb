"""What a city is: place, time zone, and which source feeds which signal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from urbanwm.clock import floor_hour
from urbanwm.contracts.scenario import Time, parse_strict
from urbanwm.contracts.signals import SIGNALS, TARGETS, nearest_name
from urbanwm.errors import BadInput, UnknownCity
from urbanwm.settings import Settings
from urbanwm.sources import source_module
from urbanwm.sources.base import SourceConfig
from urbanwm.zones import ZoneName, country_of

DEMO_CITY = "demo"
CITY_NAME = r"^[a-z][a-z0-9_]{0,62}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Location(_Strict):
    """Where the city's centre is, degrees."""

    latitude: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
    longitude: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]


class HolidayCalendar(_Strict):
    """Whose public holidays hold: ISO country and subdivision, as the `holidays` package spells them."""

    country: Annotated[str, Field(min_length=2, max_length=3)]
    subdivision: str | None = None


class Measure(_Strict):
    """A policy measure that really came into force, for estimates from the record (never used silently).

    Attributes:
        name: What people call it.
        lever: `car_free_ratio` or `renewable_mix`.
        dose: Value of the lever while it is in force, 0-1, as far as one can say.
        start: First hour in force, with an offset.
        end: The hour after the last; None = still in force.
        note: Where, exceptions, and what else happened at the time; shown with every estimate.
    """

    name: Annotated[str, Field(min_length=1, max_length=120)]
    lever: Literal["car_free_ratio", "renewable_mix"]
    dose: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    start: Time
    end: Time | None = None
    note: Annotated[str, Field(max_length=1000)] = ""

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.end is not None and self.end <= self.start:
            raise ValueError("a measure ends after its start")
        return self


class City(_Strict):
    """One city file.

    `replay: true` makes "now" the end of the data, so that a recorded city can be driven as if live.
    `simulated: true` marks a city whose signals are generated, not observed.
    """

    name: Annotated[str, Field(pattern=CITY_NAME)]
    title: str = ""
    timezone: ZoneName
    location: Location
    holidays: HolidayCalendar | None = None
    replay: bool = False
    simulated: bool = False
    renewable_share_status_quo: Annotated[float, Field(ge=0, le=1)] | None = None
    pm25_background: Annotated[float, Field(ge=0, le=50)] = 3.0
    measures: list[Measure] = []
    notes: str = ""
    signals: dict[str, list[SerializeAsAny[SourceConfig]]]
    base_dir: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _holidays_of_the_country(self) -> Self:
        """Without `holidays`, the national ones of the time zone's country hold: knowing none costs more."""
        country = country_of(self.timezone)
        if self.holidays is None and country is not None:
            object.__setattr__(self, "holidays", HolidayCalendar(country=country))
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The city's time zone."""
        return ZoneInfo(self.timezone)

    def local_hour(self, day: date, hour: int = 0) -> datetime:
        """Return when the city's clocks show an hour (0 to 23) of a local day, UTC.

        An hour that the clock change skips is the next one; of an hour that comes twice it is the first.
        """
        return datetime.combine(day, time(hour), tzinfo=self.zone).astimezone(UTC)

    def local_day(self, moment: datetime) -> date:
        """Return the local day that an aware moment falls on."""
        return moment.astimezone(self.zone).date()

    def day_start(self, moment: datetime) -> datetime:
        """Return the start, UTC, of the local day that an aware moment falls on."""
        return self.local_hour(self.local_day(moment))

    def now(self, present: datetime, data_end: datetime | None) -> datetime:
        """Return where the city's future begins: the present hour, or the end of recorded or simulated data.

        A recorded (`replay`) or simulated city is always up to date with its own data.
        """
        if (self.replay or self.simulated) and data_end is not None:
            return data_end
        return floor_hour(present)

    def preference(self, signal: str) -> Sequence[str]:
        """Return the provenance labels that feed a signal, most trusted first."""
        return [config.label for config in self.signals.get(signal, [])]

    def targets(self) -> list[str]:
        """Return the target signals that this city has a source for."""
        return [name for name in TARGETS if name in self.signals]


def _source_configs(signals: object, base_dir: Path, origin: str) -> dict[str, list[SourceConfig]]:
    """Read the `signals:` mapping, each entry by its source's own schema."""
    if not isinstance(signals, dict) or not signals:
        raise BadInput(
            f"{origin}: 'signals' must name at least one signal", field="signals", allowed=list(SIGNALS)
        )
    read: dict[str, list[SourceConfig]] = {}
    for signal, entries in signals.items():
        if signal not in SIGNALS:
            close = nearest_name(str(signal), SIGNALS)
            hint = f"; did you mean '{close}'?" if close else ""
            raise BadInput(
                f"{origin}: unknown signal '{signal}'{hint}", field=f"signals.{signal}", allowed=list(SIGNALS)
            )
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise BadInput(
                f"{origin}: signals.{signal} must be a list of sources",
                field=f"signals.{signal}",
                allowed="[{source: …}, …]",
            )
        read[signal] = [_source_config(entry, base_dir) for entry in entries]
    return read


def _source_config(entry: dict[str, Any], base_dir: Path) -> SourceConfig:
    """Validate one source entry; a relative path is beside the city file, else in the working directory."""
    if "source" not in entry:
        raise BadInput("a source entry lacks 'source'", field="source", allowed="the name of a source")
    if isinstance(entry.get("path"), str):
        path = Path(entry["path"]).expanduser()
        beside = (base_dir / path).resolve()
        entry = {**entry, "path": str(beside if path.is_absolute() or beside.exists() else path.resolve())}
    return parse_strict(source_module(str(entry["source"])).Config, entry)


def read_city(path: Path) -> City:
    """Read one city file.

    Raises:
        BadInput: Not YAML, an unknown key (the nearest is named), an unknown signal, source or time zone.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} is not YAML: {error}", field="city file", value=path.name) from None
    if not isinstance(document, dict):
        raise BadInput(f"{path.name} must hold a mapping", field="city file", value=path.name)
    base_dir = path.resolve().parent
    signals = _source_configs(document.pop("signals", None), base_dir, path.name)
    return parse_strict(City, {**document, "signals": signals, "base_dir": base_dir})


def load_cities(settings: Settings) -> dict[str, City]:
    """Return every configured city by name.

    Raises:
        BadInput: The folder is missing or empty, a file is wrong, or two files share a name.
    """
    if not settings.cities_dir.is_dir():
        raise BadInput(
            "URBANWM_CITIES is not a folder",
            field="URBANWM_CITIES",
            value=str(settings.cities_dir),
            allowed="a folder of city YAML files",
        )
    cities: dict[str, City] = {}
    for path in sorted([*settings.cities_dir.glob("*.yaml"), *settings.cities_dir.glob("*.yml")]):
        city = read_city(path)
        if city.name in cities:
            raise BadInput(f"two city files are named '{city.name}'", field="name", value=city.name)
        cities[city.name] = city
    if not cities:
        raise BadInput(
            "URBANWM_CITIES holds no city file", field="URBANWM_CITIES", value=str(settings.cities_dir)
        )
    return cities


def load_city(name: str, settings: Settings) -> City:
    """Return one city by name; see `find_city`.

    A file that is named after its city is read alone: mistakes in other files, and the modules of their
    sources, are none of its business. Whether two files share a name is noticed where all are read.
    """
    key = city_key(name)
    path = settings.cities_dir / f"{key}.yaml"
    if re.fullmatch(CITY_NAME, key) and path.is_file():
        city = read_city(path)
        if city.name == key:
            return city
    return find_city(name, load_cities(settings))


def city_key(name: str) -> str:
    """Return the name of a city as files spell it, however a caller does."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def find_city(name: str, cities: Mapping[str, City]) -> City:
    """Return one of `cities`; the name is case-insensitive and spaces count as underscores.

    Raises:
        UnknownCity: No city file has this name; the nearest one is named.
    """
    key = city_key(name)
    if key in cities:
        return cities[key]
    close = nearest_name(key, cities)
    hint = f"; did you mean '{close}'?" if close else ""
    raise UnknownCity(f"unknown city '{name}'{hint}", field="city", value=name, allowed=sorted(cities))


def nightly_city_names(settings: Settings) -> list[str]:
    """Return the cities of the nightly run: the configured list, else `demo` if built-in, else all."""
    if settings.nightly_cities:
        return [load_city(name, settings).name for name in settings.nightly_cities]
    return [DEMO_CITY] if settings.uses_built_in_cities else sorted(load_cities(settings))
