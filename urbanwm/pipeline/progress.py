"""Saying what begins, and how long each step took."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str], None]
"""Told in one line what begins now."""


def silent(line: str) -> None:
    """Tell nobody."""


class Stopwatch:
    """Wall time by step, in seconds."""

    def __init__(self) -> None:
        """Start counting the first step."""
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, step: str) -> None:
        """Book the time since the last lap on `step`."""
        now = time.perf_counter()
        self.seconds[step] = round(now - self._since, 2)
        self._since = now
