"""How far an answer is from the place asked about: an upstream may answer for the nearest station it has."""

from __future__ import annotations

import math

from urbanwm.errors import StationTooFar
from urbanwm.sources.base import ParseContext

EARTH_RADIUS_KM = 6371.0
Place = tuple[float, float]
"""Latitude and longitude, degrees."""


def read_place(latitude: float | None, longitude: float | None) -> Place | None:
    """Return a position on Earth, degrees; None when a part is missing or impossible."""
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    return latitude, longitude


def great_circle_km(here: Place, there: Place) -> float:
    """Return the distance of two (latitude, longitude) pairs in degrees, km, by the haversine formula."""
    (lat1, lon1), (lat2, lon2) = (tuple(map(math.radians, place)) for place in (here, there))
    half_chord = (
        math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, half_chord)))


def distance_km(ctx: ParseContext, place: Place | None) -> float | None:
    """Return how far a place is from the city, great-circle km; None when either position is unknown."""
    city = read_place(ctx.latitude, ctx.longitude)
    return None if city is None or place is None else great_circle_km(city, place)


def require_near(
    source: str, ctx: ParseContext, place: Place | None, *, max_distance_km: float, field: str
) -> float | None:
    """Return the distance of a place from the city, km; None when either position is unknown.

    Raises:
        StationTooFar: The place is farther away than `max_distance_km`.
    """
    distance = distance_km(ctx, place)
    if distance is not None and place is not None and distance > max_distance_km:
        raise StationTooFar(
            f"{source}: the station is {distance:.0f} km away",
            source=source,
            field=field,
            value=f"{place[0]},{place[1]}",
            allowed=f"at most {max_distance_km:g} km from {ctx.latitude},{ctx.longitude}",
        )
    return distance
