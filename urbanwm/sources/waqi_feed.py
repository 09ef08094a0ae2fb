"""The body of a WAQI feed answer: a reading or an error in disguise, and when and where it was measured."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from urbanwm.errors import (
    KeyRefused,
    RateLimited,
    RequestRefused,
    SourceError,
    StationUnknown,
    UpstreamUnavailable,
)
from urbanwm.sources.base import RawPayload
from urbanwm.sources.body import FIRST_YEAR, LAST_YEAR, malformed, read_json, read_number
from urbanwm.sources.geo import Place, read_place
from urbanwm.sources.http import check_status, excerpt

NAME = "waqi"
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


def reading(raw: RawPayload) -> dict[str, Any]:
    """Return the `data` object of a successful feed answer; every other answer is a named error.

    Raises:
        SourceError: What WAQI's words or the status stand for; `MalformedPayload` for another document.
    """
    document = read_json(raw)
    if not isinstance(document, dict):
        check_status(raw)
        raise malformed(NAME, "the body is not an object", "body", excerpt(raw.body))
    data = document.get("data")
    if document.get("status") != "ok":
        if raw.status >= 400 and not isinstance(data, str):
            check_status(raw)
        raise _named_error(data if data is not None else document.get("message", document.get("msg")))
    check_status(raw)
    if isinstance(data, str):
        raise _named_error(data)
    if isinstance(data, dict) and data.get("status", "ok") != "ok":
        raise _named_error(data.get("msg", data.get("message", data.get("data"))))
    if isinstance(data, list) and data:
        # A search or a map: overall indices of many stations, from which no concentration can be told.
        raise RequestRefused(
            "waqi: a list of stations holds no PM2.5; ask for the feed of one of them",
            source=NAME,
            field="data",
        )
    if not isinstance(data, dict) or not isinstance(data.get("iaqi", {}), dict):
        raise malformed(NAME, "status is ok but there is no reading", "data", excerpt(raw.body))
    return data


def _named_error(text: object) -> SourceError:
    """Return the error that WAQI's own words stand for; unknown words count as an outage and are kept."""
    words = excerpt((text if isinstance(text, str) else json.dumps(text)).encode())
    kind = next(
        (kind for marks, kind in ERROR_TEXTS if any(mark in words.lower() for mark in marks)),
        UpstreamUnavailable,
    )
    return kind(f"waqi: {words}", source=NAME, field="data", value=words)


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
        if FIRST_YEAR <= moment.year <= LAST_YEAR:
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


def position(data: dict[str, Any]) -> Place | None:
    """Return the station's latitude and longitude, degrees; None when absent or impossible."""
    city = data.get("city")
    geo = city.get("geo") if isinstance(city, dict) else None
    if not isinstance(geo, list) or len(geo) < 2:
        return None
    return read_place(read_number(geo[0]), read_number(geo[1]))


def is_citizen_sensor(data: dict[str, Any]) -> bool:
    """Whether the station is a citizen's low-cost sensor: a negative uid, or an address such as `A12345`."""
    uid = read_number(data.get("idx"))
    city = data.get("city")
    address = str(city.get("url", "")) if isinstance(city, dict) else ""
    return (uid is not None and uid < 0) or CITIZEN_ADDRESS.search(address) is not None
