"""Open-Meteo's stamps: wall times without an offset, epochs, and what happens where the clocks change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from urbanwm.errors import MalformedPayload
from urbanwm.sources.body import FIRST_YEAR, LAST_YEAR, malformed, read_epoch, read_number, read_utc
from urbanwm.sources.collect import HOUR

SOURCE = "open_meteo"
TIME_FIELD = "hourly.time"
OFFSET_MAX = timedelta(hours=24)


def read_moments(document: Mapping[str, Any], stamps: Sequence[Any]) -> list[datetime]:
    """Return `hourly.time` as UTC moments.

    The service shifts the whole answer by the one offset that is valid on the day of the request, even across
    a clock change. An answer whose hours do follow the zone's clock changes is read in the zone.

    Raises:
        MalformedPayload: A stamp is not a time, or nothing says which zone it is in.
    """
    if all(isinstance(stamp, int) for stamp in stamps):
        return _complete([read_epoch(stamp) for stamp in stamps])  # timeformat=unixtime is always UTC
    walls = [_wall_time(stamp) for stamp in stamps]
    if any(wall.tzinfo is not None for wall in walls):
        return _complete([read_utc(stamp) for stamp in stamps])
    zone = _zone(document.get("timezone"))
    offset_seconds = read_number(document.get("utc_offset_seconds"))
    if zone is not None and (offset_seconds is None or _follows_clock_changes(walls, zone)):
        return _in_zone(walls, zone)
    if offset_seconds is None or abs(offset_seconds) >= OFFSET_MAX.total_seconds():
        raise malformed(SOURCE, "neither a known time zone nor utc_offset_seconds is given", "timezone")
    fixed = timezone(timedelta(seconds=offset_seconds))
    return [wall.replace(tzinfo=fixed).astimezone(UTC) for wall in walls]


def _not_a_time() -> MalformedPayload:
    return malformed(SOURCE, "a stamp is not a time", TIME_FIELD)


def _complete(moments: Sequence[datetime | None]) -> list[datetime]:
    """Return the moments if all of them could be read."""
    known = [moment for moment in moments if moment is not None]
    if len(known) < len(moments):
        raise _not_a_time()
    return known


def _wall_time(stamp: object) -> datetime:
    """Return a stamp as it is written, usually without an offset."""
    try:
        wall = datetime.fromisoformat(str(stamp))
    except ValueError:
        raise _not_a_time() from None
    if not FIRST_YEAR <= wall.year <= LAST_YEAR:
        raise _not_a_time()
    return wall


def _zone(name: object) -> ZoneInfo | None:
    """Return the named zone, if it is one."""
    try:
        return ZoneInfo(name) if isinstance(name, str) else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _follows_clock_changes(walls: Sequence[datetime], zone: ZoneInfo) -> bool:
    """Return whether an hour repeats or is left out exactly where the zone's clocks change."""
    for earlier, later in pairwise(walls):
        step = later - earlier
        if step <= timedelta(0) and _is_ambiguous(later, zone):
            return True
        if step == 2 * HOUR and _is_skipped(earlier + HOUR, zone):
            return True
    return False


def _is_ambiguous(wall: datetime, zone: ZoneInfo) -> bool:
    """Return whether a wall time occurs twice."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    return first is not None and second is not None and first > second


def _is_skipped(wall: datetime, zone: ZoneInfo) -> bool:
    """Return whether a wall time does not occur."""
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) != wall


def _in_zone(walls: Sequence[datetime], zone: ZoneInfo) -> list[datetime]:
    """Return wall times in order as UTC moments; the second of two equal ones is the later one."""
    seen: set[datetime] = set()
    moments = []
    for wall in walls:
        moments.append(wall.replace(tzinfo=zone, fold=int(wall in seen)).astimezone(UTC))
        seen.add(wall)
    return moments
