"""Time zones by their IANA names, from the locked `tzdata` package: one file is read, not six hundred."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated

from pydantic import AfterValidator

from urbanwm.contracts.signals import nearest_name


@cache
def zone_names() -> tuple[str, ...]:
    """Return the names of all IANA zones, from the list that `tzdata` ships.

    `zoneinfo.available_timezones` opens every file of the database to find them: seconds on a cold disk,
    and it depends on the machine.
    """
    return tuple((resources.files("tzdata") / "zones").read_text("utf-8").split())


@cache
def country_of(zone: str) -> str | None:
    """Return the ISO country code of a zone by the tz database's `zone.tab`; None if it has no calendar."""
    # `list_supported_countries` would import the calendar of every one of them: half a second.
    from holidays.registry import COUNTRIES

    table = (resources.files("tzdata") / "zoneinfo" / "zone.tab").read_text("utf-8")
    rows = [line.split("\t") for line in table.splitlines() if not line.startswith("#")]
    country = next((row[0] for row in rows if row[2] == zone), None)
    return country if country in {alpha2 for _, alpha2, *_ in COUNTRIES.values()} else None


def _known_zone(name: str) -> str:
    """Return `name` if it is a zone; the nearest one is named if it is not."""
    if name not in zone_names():
        by_key = {zone.lower(): zone for zone in zone_names()}
        close = nearest_name(name, by_key)
        hint = f"did you mean {by_key[close]!r}?" if close else "such as Europe/Madrid"
        raise ValueError(f"should be an IANA time zone; {hint}")
    return name


ZoneName = Annotated[str, AfterValidator(_known_zone)]
"""An IANA time zone in a configuration, such as Europe/Madrid; abbreviations and offsets are refused."""
