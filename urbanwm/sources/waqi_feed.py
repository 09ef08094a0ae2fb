"""The body of a WAQI feed answer: a reading or an error in disguise, and when and where it was measured."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np

from urbanwm.errors import (
    KeyRefused,
    MalformedPayload,
    RateLimited,
    RequestRefused,
    SourceError,
    StationUnknown,
    UpstreamUnavailable,
)
from urbanwm.sources.http import excerpt

NAME = "waqi"
EARTH_RADIUS_KM = 6371.0
CITIZEN_ADDRESS = re.compile(r"(?:^|[/@])A\d{4,}/?$")
OFFSET = re.compile(r"^([+-])(\d{2}):?(\d{2})$")
# The texts WAQI answers with, most telling first; none of them is documented as a closed list.
ERROR_TEXTS: tuple[tuple[tuple[str, ...], type[SourceError]], ...] = (
    (("quota", "rate limit", "too many"), RateLimited),
    (("key", "token"), KeyRefused),
    (
        ("unknown station", "no such station", "unknown id", "unknown city", "station not found"),
        StationUnknown,
    ),
    (("invalid", "bad request", "missing", "not allowed", "parameter"), RequestRefused),
)


def reading(body: bytes) -> dict[str, Any]:
    """Return the `data` object of a successful answer; every other answer is a named error."""
    try:
        document = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        error = MalformedPayload(
            f"waqi: the body is not JSON: {excerpt(body) or '(empty)'}", source=NAME, field="body"
        )
        error.retryable = (
            True  # a cut-off transfer or a maintenance page; a changed format would still be JSON
        )
        raise error from None
    if not isinstance(document, dict):
        raise MalformedPayload(
            "waqi: the body is not an object", source=NAME, field="body", value=excerpt(body)
        )
    data = document.get("data")
    if document.get("status") != "ok":
        raise _named_error(data if data is not None else document.get("message", document.get("msg")))
    if isinstance(data, dict) and data.get("status", "ok") != "ok":
        raise _named_error(data.get("msg", data.get("message", data.get("data"))))
    if not isinstance(data, dict) or not isinstance(data.get("iaqi", {}), dict):
        raise MalformedPayload(
            "waqi: status is ok but there is no reading", source=NAME, field="data", value=excerpt(body)
        )
    return data


def _named_error(text: object) -> SourceError:
    """Return the error that WAQI's own words stand for; unknown words count as an outage and are kept."""
    words = excerpt((text if isinstance(text, str) else json.dumps(text)).encode())
    kind = next(
        (kind for marks, kind in ERROR_TEXTS if any(mark in words.lower() for mark in marks)),
        UpstreamUnavailable,
    )
    return kind(f"waqi: {words}", source=NAME, field="data", value=words)


def number(value: object) -> float | None:
    """Return a finite number, also from numeric text; None for `-`, null, NaN and the like."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        parsed = float(value)
    except (ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) else None


def index_entry(data: dict[str, Any], key: str) -> object:
    """Return `iaqi.<key>.v`, or None when a level is missing."""
    entry = data.get("iaqi", {}).get(key)
    return entry.get("v") if isinstance(entry, dict) else None


def reading_time(time: object) -> datetime | None:
    """Return when the reading was made, UTC; None when it cannot be told for certain."""
    if not isinstance(time, dict):
        return None
    zone = _offset(time.get("tz"))
    for key in ("iso", "s"):
        try:
            moment = datetime.fromisoformat(str(time.get(key)).strip())
        except ValueError:
            continue
        if moment.tzinfo is None and zone is None:
            continue
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)).astimezone(UTC)
    return None


def _offset(text: object) -> timezone | None:
    """Read `+02:00`."""
    match = OFFSET.match(text.strip()) if isinstance(text, str) else None
    if match is None:
        return None
    sign = -1 if match[1] == "-" else 1
    offset = sign * timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(offset) if abs(offset) < timedelta(days=1) else None


def position(data: dict[str, Any]) -> tuple[float, float] | None:
    """Return the station's latitude and longitude, degrees; None when absent or impossible."""
    city = data.get("city")
    geo = city.get("geo") if isinstance(city, dict) else None
    if not isinstance(geo, list) or len(geo) < 2:
        return None
    latitude, longitude = number(geo[0]), number(geo[1])
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    return latitude, longitude


def great_circle_km(here: tuple[float, float], there: tuple[float, float]) -> float:
    """Return the distance of two (latitude, longitude) pairs in degrees, km, by the haversine formula."""
    (lat1, lon1), (lat2, lon2) = np.radians(here), np.radians(there)
    half_chord = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return float(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(min(1.0, half_chord))))


def is_citizen_sensor(data: dict[str, Any]) -> bool:
    """Whether the station is a citizen's low-cost sensor: a negative uid, or an address such as `A12345`."""
    uid = number(data.get("idx"))
    city = data.get("city")
    address = str(city.get("url", "")) if isinstance(city, dict) else ""
    return (uid is not None and uid < 0) or CITIZEN_ADDRESS.search(address) is not None
