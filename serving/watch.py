"""A thread that does the same small thing every few seconds, whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from serving.metrics import WATCH_FAILURES

STOP_WAIT_SECONDS = 2.0

log = structlog.get_logger("urbanwm.watch")


class Watch:
    """Calls a function at once and then every `seconds`; a failure is counted, logged and survived."""

    def __init__(self, name: str, seconds: float, look: Callable[[], None]) -> None:
        """Start nothing yet."""
        self._seconds = seconds
        self._look = look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; waits briefly, the thread is a daemon."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_WAIT_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                self._look()
            except Exception as failure:  # noqa: BLE001 - a dead watch would freeze the data for good, so it counts and goes on
                WATCH_FAILURES.inc()
                log.warning("watch_failed", error=type(failure).__name__)
            if self._stop.wait(self._seconds):
                return
