"""A bounded place for computing: so many at once, so many waiting, each with a deadline."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from serving.envelope import DeadlineExceeded, Overloaded

Answer = TypeVar("Answer")
Checkpoint = Callable[[], None]
"""Called by work between its steps; raises `DeadlineExceeded` when nobody waits for the answer any more."""

WORKER_THREADS = 2
"""Rollouts at once; ONNX Runtime and numpy leave the interpreter lock while they compute."""
WAITING_LIMIT = 64
"""Requests that may wait for a thread: at a few milliseconds each, well under a second of queue."""
RETRY_AFTER_SECONDS = 1


class WorkQueue:
    """Runs functions on a few threads and refuses what would only wait.

    A slot is taken when a function is admitted and given back when it has really ended, not when its caller
    stopped waiting: a slow answer cannot lead to more work than there are threads. Python cannot stop a
    thread, so work asks its checkpoint between steps (a forecast, a scenario, a candidate of a search) and
    ends there. What cannot be interrupted is one step: a rollout of a week (tens of milliseconds), and the
    first reading of a city from the lake, which ends when the store's own timeout does.
    """

    def __init__(
        self, deadline_seconds: float, *, threads: int = WORKER_THREADS, waiting: int = WAITING_LIMIT
    ) -> None:
        """Start no thread yet; they come with the first work."""
        self._deadline_seconds = deadline_seconds
        self._limit = threads + waiting
        self._admitted = 0
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="urbanwm-work")

    async def run(self, function: Callable[[Checkpoint], Answer]) -> Answer:
        """Return what `function` returns; call from the event loop only.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: No answer within the deadline; work that had not begun is dropped, work that
                runs ends at its next checkpoint.
        """
        if self._admitted >= self._limit:
            raise Overloaded(
                "the service is busy; try again shortly", headers={"Retry-After": str(RETRY_AFTER_SECONDS)}
            )
        loop = asyncio.get_running_loop()
        abandoned = threading.Event()

        def checkpoint() -> None:
            if abandoned.is_set():
                raise self._too_late()

        self._admitted += 1
        work: Future[Answer] = self._pool.submit(function, checkpoint)
        work.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._release))
        try:
            async with asyncio.timeout(self._deadline_seconds) as deadline:
                return await asyncio.wrap_future(work)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise self._too_late() from None
        finally:
            abandoned.set()

    def _too_late(self) -> DeadlineExceeded:
        """Return the refusal of an answer that took too long."""
        return DeadlineExceeded(
            "the answer took too long; ask for fewer samples, hours, scenarios or evaluations",
            allowed=f"{math.ceil(self._deadline_seconds)} seconds",
        )

    def _release(self) -> None:
        """Give one slot back, on the event loop."""
        self._admitted -= 1

    def close(self) -> None:
        """Drop what has not begun; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
