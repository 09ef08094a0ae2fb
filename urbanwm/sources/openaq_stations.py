"""OpenAQ's stations: which sensor of which station speaks for a city."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from urbanwm.errors import NoData, StationTooFar
from urbanwm.sources.base import ParseContext, Parsed
from urbanwm.sources.body import read_number, read_utc
from urbanwm.sources.geo import Place, distance_km, read_place

SOURCE = "openaq"
STOPPED_AFTER = timedelta(days=30)
"""A station that was silent for so long comes after those that still report, however near it is."""


def pick_sensor(stations: list[Any], ctx: ParseContext, *, max_distance_km: float, now: datetime) -> Parsed:
    """Return the notes that name the nearest station's sensor for the signal; stations give no rows.

    A station within reach that still reports wins over a nearer one that stopped. Of several sensors at the
    same distance the lowest number counts, so that the choice is stable.

    Args:
        stations: The entries of `results`.
        ctx: Signal wanted (pm25 when none is named) and where the city is.
        max_distance_km: Farthest station allowed, great-circle km.
        now: When the answer was received, UTC.

    Raises:
        NoData: No station measures the signal; not retryable.
        StationTooFar: The nearest one is too far from the city.
    """
    wanted = ctx.signal or "pm25"
    candidates = [
        (distance_km(ctx, _place(station)) or 0.0, sensor_id, station)
        for station in stations
        if isinstance(station, dict)
        for sensor_id in _sensor_ids(station, wanted)
    ]
    if not candidates:
        nobody = NoData(f"openaq: no station here measures {wanted}", source=SOURCE, field="parameters_id")
        nobody.retryable = False  # a station is built in years
        raise nobody
    near = [candidate for candidate in candidates if candidate[0] <= max_distance_km]
    if not near:
        nearest = min(candidate[0] for candidate in candidates)
        raise StationTooFar(
            f"openaq: the nearest station is {nearest:.0f} km away",
            source=SOURCE,
            field="distance_km",
            value=round(nearest, 1),
            allowed=f"at most {max_distance_km:g} km",
        )
    distance, sensor_id, station = min(near, key=lambda one: (_stopped(one[2], now), *one[:2]))
    provider = station.get("provider")
    facts = {
        "sensor_id": str(sensor_id),
        "location_id": str(station.get("id")),
        "station": str(station.get("name")),
        "distance_km": "" if distance_km(ctx, _place(station)) is None else f"{distance:.1f}",
        "provider": str(provider.get("name")) if isinstance(provider, dict) else "",
    }
    last = _last_report(station)
    return Parsed(notes=facts if last is None else {**facts, "last_report": last.isoformat()})


def _sensor_ids(station: Mapping[str, Any], parameter_name: str) -> Iterator[int]:
    """Yield the sensors of a station that measure a parameter; a sensor has exactly one."""
    sensors = station.get("sensors")
    for sensor in sensors if isinstance(sensors, list) else []:
        parameter = sensor.get("parameter") if isinstance(sensor, dict) else None
        if not isinstance(parameter, dict) or parameter.get("name") != parameter_name:
            continue
        if isinstance(sensor.get("id"), int):
            yield sensor["id"]


def _place(station: Mapping[str, Any]) -> Place | None:
    """Return where a station is."""
    return coordinates_of(station.get("coordinates"))


def coordinates_of(coordinates: object) -> Place | None:
    """Read OpenAQ's `{"latitude", "longitude"}`."""
    if not isinstance(coordinates, dict):
        return None
    return read_place(read_number(coordinates.get("latitude")), read_number(coordinates.get("longitude")))


def _last_report(station: Mapping[str, Any]) -> datetime | None:
    """Return the end of the station's last hour, as far as it is known."""
    last = station.get("datetimeLast")
    return read_utc(last.get("utc")) if isinstance(last, dict) else None


def _stopped(station: Mapping[str, Any], now: datetime) -> bool:
    """Return whether a station is known to have been silent for long."""
    last = _last_report(station)
    return last is not None and now - last > STOPPED_AFTER
