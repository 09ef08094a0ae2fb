"""The one place that reads the wall clock; everything else is handed a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from urbanwm.errors import BadInput

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time, UTC and aware."""
    return datetime.now(UTC)


def floor_hour(moment: datetime) -> datetime:
    """Return the start of the hour that contains `moment` (aware)."""
    return moment.replace(minute=0, second=0, microsecond=0)


def require_utc(moment: datetime, field: str) -> datetime:
    """Return `moment` in UTC.

    Raises:
        BadInput: The time is naive; a guess of the zone would shift data silently.
    """
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise BadInput(
            f"{field} has no time zone",
            field=field,
            value=moment.isoformat(),
            allowed="an ISO 8601 time with an offset, such as 2026-01-31T08:00:00+00:00",
        )
    return moment.astimezone(UTC)


def parse_time(text: str, field: str) -> datetime:
    """Read an ISO 8601 time with an offset, or a date (midnight UTC).

    Raises:
        BadInput: The text is not a time, or has no offset.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f"{field} is not a time",
            field=field,
            value=text,
            allowed="ISO 8601, such as 2026-01-31T08:00:00Z",
        ) from None
    if len(text) == len("2026-01-31") and moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return require_utc(moment, field)
