"""What is known of upstreams beside their answers: who wants to be left alone, and who is out of reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock

PREFIXES = ("x-ratelimit-", "ratelimit-")
SILENCE_SECONDS = 60.0
"""How long a host that could not be reached gets one attempt per question in place of several: a city asks a
host for many signals, and waiting out the same outage for each would take the night."""
EPOCH_ABOVE = 1e9
"""A reset beyond this is seconds since 1970, below it seconds from now: services write either."""


def rest_seconds(headers: Mapping[str, str], now: datetime) -> float:
    """Return how long an upstream wants to be left alone, seconds; 0 while it has requests left.

    Args:
        headers: Response headers, names in lower case; `…ratelimit-remaining` and `…ratelimit-reset` count.
        now: When they were received, UTC.
    """
    for prefix in PREFIXES:
        remaining, reset = (_number(headers.get(f"{prefix}{name}")) for name in ("remaining", "reset"))
        if remaining is not None and reset is not None and remaining < 1:
            return max(0.0, reset - now.timestamp() if reset > EPOCH_ABOVE else reset)
    return 0.0


def _number(text: str | None) -> float | None:
    """Read a header; the draft standard allows parameters after the number."""
    digits = (text or "").partition(";")[0].partition(",")[0].strip()
    return float(digits) if digits.isdecimal() else None


@dataclass
class Quotas:
    """Until when each source is left alone, and which hosts are out of reach; safe to share between threads.

    Attributes:
        monotonic: Seconds of a clock that never goes back.
    """

    monotonic: Callable[[], float] = time.monotonic
    _until: dict[str, float] = field(default_factory=dict)
    _silent_until: dict[str, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def wait_seconds(self, source: str) -> float:
        """Return how long to wait before asking a source."""
        with self._lock:
            return max(0.0, self._until.get(source, 0.0) - self.monotonic())

    def note(self, source: str, headers: Mapping[str, str], now: datetime) -> None:
        """Remember what an answer's headers say; an answer without such headers changes nothing."""
        rest = rest_seconds(headers, now)
        with self._lock:
            if rest > 0:
                self._until[source] = self.monotonic() + rest
            elif any(f"{prefix}remaining" in headers for prefix in PREFIXES):
                self._until.pop(source, None)

    def note_silence(self, host: str, *, silent: bool) -> None:
        """Remember whether a host gave any answer; an error is one too."""
        with self._lock:
            self._silent_until.pop(host, None)
            if silent:
                self._silent_until[host] = self.monotonic() + SILENCE_SECONDS

    def is_silent(self, host: str) -> bool:
        """Return whether a host could not be reached a moment ago."""
        with self._lock:
            return self._silent_until.get(host, 0.0) > self.monotonic()


QUOTAS = Quotas()
"""Of this process."""
