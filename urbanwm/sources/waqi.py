"""WAQI (World Air Quality Index project): the live hour of one station, its AQI sub-index turned into µg/m³.

Facts and traps (units, errors inside HTTP 200, the misleading `time.v`): docs/sources.md. The data may not be
redistributed, and both the project and the originating agency must be credited: see `Parsed.notes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import quote

import pandas as pd
from pydantic import Field

from urbanwm.clock import floor_hour
from urbanwm.contracts.signals import SIGNALS
from urbanwm.errors import RequestRefused, StaleData
from urbanwm.sources.aqi import INDEX_TOP, AqiTable, aqi_to_pm25
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, SourceConfig, Traits
from urbanwm.sources.body import own_config, read_number, required_key
from urbanwm.sources.geo import require_near
from urbanwm.sources.http import get
from urbanwm.sources.rows import parsed_rows
from urbanwm.sources.waqi_feed import (
    NAME,
    index_entry,
    is_citizen_sensor,
    position,
    reading,
    reading_time,
)

KEY = "waqi_token"
TRAITS = Traits(live=True, one_answer=True)
FEED_URL = "https://api.waqi.info/feed"
FUTURE_TOLERANCE = timedelta(hours=1)  # the agency's stamp may mark the end of the hour
WEATHER_KEYS = {"t": "temperature_c", "h": "humidity_pct", "p": "pressure_hpa", "w": "wind_speed_ms"}
SIGNALS_GIVEN = ["pm25", *WEATHER_KEYS.values()]


class Config(SourceConfig):
    """One WAQI station.

    Attributes:
        station: `"@5725"`, its number, or a name; None asks for the station nearest to the city.
        aqi_table: Break points of the index; WAQI's own readings fit the table before May 2024.
        max_age_hours: A reading older than this is refused, hours.
        max_distance_km: A station farther from the city than this is refused, great-circle km.
    """

    station: str | int | None = None
    aqi_table: AqiTable = "pre_2024"
    max_age_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3.0
    max_distance_km: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0

    @property
    def label(self) -> str:
        """Provenance, such as `waqi:@5725` or `waqi:geo`."""
        return f"{NAME}:{_station_path(self.station) or 'geo'}"


def _station_path(station: str | int | None) -> str | None:
    """Return the feed's path element for a station: a number is an uid and needs the `@`."""
    if station is None:
        return None
    text = str(station).strip()
    return f"@{text}" if text.lstrip("-").isdigit() else text


def fetch(ctx: FetchContext) -> Iterator[RawPayload]:
    """Ask once for the station's current reading; WAQI has no history.

    Raises:
        KeyMissing: `WAQI_TOKEN` is not set.
        SourceError: The request failed; see `urbanwm.sources.http.get`.
    """
    config = own_config(ctx.config, Config)
    token = required_key(
        ctx.settings, "waqi_token", source=NAME, hint="a free token from aqicn.org/data-platform"
    )
    if ctx.signal not in SIGNALS_GIVEN:
        raise RequestRefused(
            f"waqi does not give {ctx.signal}",
            source=NAME,
            field="signal",
            value=ctx.signal,
            allowed=SIGNALS_GIVEN,
        )
    place = ctx.city.location
    station = _station_path(config.station) or f"geo:{place.latitude};{place.longitude}"
    yield get(
        f"{FEED_URL}/{quote(station, safe='@:;')}/",
        source=NAME,
        clock=ctx.clock,
        secret_params={"token": token},
    )


def parse(raw: RawPayload, ctx: ParseContext) -> Parsed:
    """Turn one feed answer into at most five rows of one hour: pm25 in µg/m³ and the station's weather.

    The hour comes from `time.iso`, else from `time.s` with `time.tz`; never from `time.v`, which is local
    wall time dressed up as an epoch. `aqi` and `forecast` (daily indices) are never used as values.

    Raises:
        SourceError: `MalformedPayload`, the error that the body stands for, `StaleData` or `StationTooFar`.
    """
    config = own_config(ctx.config, Config)
    data = reading(raw)
    distance_km = require_near(
        NAME, ctx, position(data), max_distance_km=config.max_distance_km, field="city.geo"
    )
    dropped: Counter[str] = Counter()
    values = _weather(data, ctx.signal, dropped)
    flags: dict[str, list[str]] = {name: [] for name in values}
    if ctx.signal in (None, "pm25"):
        _add_pm25(data, config.aqi_table, values, flags, dropped)
    parsed = Parsed(dropped=dropped, notes=_notes(data, config, distance_km))
    moment = reading_time(data.get("time"))
    if moment is None:
        dropped["no_time"] += max(1, len(values))
        return parsed
    age = raw.fetched_at - moment
    parsed.notes["age_minutes"] = str(round(age.total_seconds() / 60))
    if age > timedelta(hours=config.max_age_hours):
        raise StaleData(
            f"waqi: the reading is {age.total_seconds() / 3600:.1f} h old",
            source=NAME,
            field="time",
            value=moment.isoformat(),
            allowed=f"at most {config.max_age_hours:g} h before {raw.fetched_at.isoformat()}",
        )
    if -age > FUTURE_TOLERANCE:
        dropped["future"] += max(1, len(values))
        return parsed
    # Nothing is observed after it is received: a stamp ahead of it marks the end of the averaging.
    hour = min(floor_hour(moment), floor_hour(raw.fetched_at))
    marks = ["stamp_ahead"] * (hour < floor_hour(moment)) + ["citizen_sensor"] * is_citizen_sensor(data)
    if values:
        parsed.rows = parsed_rows(
            pd.DatetimeIndex([hour] * len(values)),
            list(values),
            list(values.values()),
            available_at=pd.DatetimeIndex([raw.fetched_at] * len(values)),
            flags=[",".join([*flags[name], *marks]) for name in values],
        )
    return parsed


def _add_pm25(
    data: dict[str, Any],
    table: AqiTable,
    values: dict[str, float],
    flags: dict[str, list[str]],
    dropped: Counter[str],
) -> None:
    """Convert the PM2.5 sub-index, or count why there is none."""
    if "pm25" not in data.get("iaqi", {}):
        dropped["missing_pm25"] += 1
        return
    index = read_number(index_entry(data, "pm25"))
    if index is None:
        dropped["missing"] += 1
    elif index < 0:
        dropped["negative"] += 1
    else:
        overall = read_number(data.get("aqi"))
        # The overall index is the maximum of the fresh ones, `-` when none is fresh: an entry above it, or
        # beside the dash, was carried over from earlier.
        carried_over = data.get("aqi") == "-" if overall is None else index > overall
        values["pm25"] = min(aqi_to_pm25(index, table), SIGNALS["pm25"].maximum)
        flags["pm25"] = ["above_scale"] * (index > INDEX_TOP) + ["carried_over"] * carried_over


def _weather(data: dict[str, Any], signal: str | None, dropped: Counter[str]) -> dict[str, float]:
    """Return the weather values that are wanted and present, in physical units as WAQI gives them."""
    values: dict[str, float] = {}
    for key, name in WEATHER_KEYS.items():
        if signal not in (None, name) or (signal is None and key not in data.get("iaqi", {})):
            continue
        value = read_number(index_entry(data, key))
        if value is None:
            dropped["missing"] += 1
        elif not SIGNALS[name].minimum <= value <= SIGNALS[name].maximum:
            dropped["out_of_range"] += 1
        else:
            values[name] = value
    return values


def _notes(data: dict[str, Any], config: Config, distance_km: float | None) -> dict[str, str]:
    """Return what has to travel with the values: credits, the index table, and which station it was."""
    credits_given = data.get("attributions")
    names = [
        str(credit["name"]).strip()
        for credit in (credits_given if isinstance(credits_given, list) else [])
        if isinstance(credit, dict) and credit.get("name")
    ]
    city = data.get("city")
    facts = {
        "attribution": "; ".join(names) or "World Air Quality Index Project",
        "aqi_table": config.aqi_table,
        "station": str(city.get("name", "")) if isinstance(city, dict) else "",
        "station_uid": str(data.get("idx", "")),
        "distance_km": "" if distance_km is None else f"{distance_km:.1f}",
    }
    return {name: fact for name, fact in facts.items() if fact}
