"""OpenAQ's stations: which sensor of which station speaks for a city."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from urbanwm.errors import NoData, StationTooFar
from urbanwm.sources.base import ParseContext, Parsed
from urbanwm.sources.body import read_number
from urbanwm.sources.waqi_feed import great_circle_km

SOURCE = "openaq"


def pick_sensor(stations: list[Any], ctx: ParseContext, *, max_distance_km: float) -> Parsed:
    """Return the notes that name the nearest station's sensor for the signal; stations give no rows.

    Of several sensors at the same distance the lowest number counts, so that the choice is stable.

    Raises:
        NoData: No station measures the signal.
        StationTooFar: The nearest one is too far from the city.
    """
    wanted = ctx.signal or "pm25"
    candidates = [
        (_distance_km(station, ctx), sensor_id, station)
        for station in stations
        if isinstance(station, dict)
        for sensor_id in _sensor_ids(station, wanted)
    ]
    if not candidates:
        raise NoData(f"openaq: no station here measures {wanted}", source=SOURCE, field="parameters_id")
    distance_km, sensor_id, station = min(candidates, key=lambda candidate: candidate[:2])
    if distance_km > max_distance_km:
        raise StationTooFar(
            f"openaq: the nearest station is {distance_km:.0f} km away",
            source=SOURCE,
            field="distance_km",
            value=round(distance_km, 1),
            allowed=f"at most {max_distance_km:g} km",
        )
    provider = station.get("provider")
    return Parsed(
        notes={
            "sensor_id": str(sensor_id),
            "location_id": str(station.get("id")),
            "station": str(station.get("name")),
            "distance_km": f"{distance_km:.1f}",
            "provider": str(provider.get("name")) if isinstance(provider, dict) else "",
        }
    )


def _sensor_ids(station: Mapping[str, Any], parameter_name: str) -> Iterator[int]:
    """Yield the sensors of a station that measure a parameter; a sensor has exactly one."""
    sensors = station.get("sensors")
    for sensor in sensors if isinstance(sensors, list) else []:
        parameter = sensor.get("parameter") if isinstance(sensor, dict) else None
        if not isinstance(parameter, dict) or parameter.get("name") != parameter_name:
            continue
        if isinstance(sensor.get("id"), int):
            yield sensor["id"]


def _distance_km(station: Mapping[str, Any], ctx: ParseContext) -> float:
    """Return how far a station is from the city, km; 0 when either place is unknown."""
    place = station.get("coordinates")
    if ctx.latitude is None or ctx.longitude is None or not isinstance(place, dict):
        return 0.0
    latitude, longitude = read_number(place.get("latitude")), read_number(place.get("longitude"))
    if latitude is None or longitude is None:
        return 0.0
    return great_circle_km((ctx.latitude, ctx.longitude), (latitude, longitude))
