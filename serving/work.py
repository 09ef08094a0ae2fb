"""A bounded place for computing: one at a time, so many waiting, each with a deadline."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from serving.envelope import ClientGone, DeadlineExceeded, Overloaded

Answer = TypeVar("Answer")
Checkpoint = Callable[[], None]
"""Called by work between its steps; raises `DeadlineExceeded` when nobody waits for the answer any more."""

ADMITTED_MAX = 64
"""Requests that may be in the queue at once, the running one included."""
ADMITTED_ALWAYS = 4
"""So many are let in however long the work has been taking: one slow answer must not close the door."""
PATIENCE_SECONDS = 3.0
"""Longest wait that is promised to somebody who is let in, going by how long the work has been taking."""
SMOOTHING = 0.1
"""Weight of the newest duration in the average: the last twenty or so count."""


class WorkQueue:
    """Runs functions on one thread and refuses what would only wait.

    One thread: an answer is made in the interpreter for the most part, so that two at once finish no sooner,
    and two that compute take turns with the event loop, which then needs a second to say "busy". What takes
    long for other reasons belongs on a queue of its own.

    A place is taken when a function is admitted and given back when it has really ended, not when its caller
    stopped waiting. Python cannot stop a thread, so work asks its checkpoint between steps (a forecast, a
    scenario, a candidate of a search) and ends there. What cannot be interrupted is one step: a rollout of a
    week (tens of milliseconds), and the first reading of a city from the lake, which ends when the store's
    own timeout does.
    """

    def __init__(
        self,
        deadline_seconds: float,
        *,
        admitted_max: int = ADMITTED_MAX,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Start no thread yet; it comes with the first work."""
        self._deadline_seconds = deadline_seconds
        self._admitted_max = admitted_max
        self._patience_seconds = patience_seconds
        self._admitted = 0
        self._usual_seconds = 0.0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="urbanwm-work")

    @property
    def _expected_wait_seconds(self) -> float:
        """How long somebody who came now would wait for the thread."""
        return self._admitted * self._usual_seconds

    def check(self) -> None:
        """Say at once whether there is room.

        Raises:
            Overloaded: The queue is full, or too long for how long the work has been taking.
        """
        full = self._admitted >= self._admitted_max
        late = self._admitted >= ADMITTED_ALWAYS and self._expected_wait_seconds > self._patience_seconds
        if full or late:
            wait = max(1, math.ceil(self._expected_wait_seconds))
            raise Overloaded("the service is busy; try again shortly", headers={"Retry-After": str(wait)})

    async def run(
        self, function: Callable[[Checkpoint], Answer], gone: Awaitable[object] | None = None
    ) -> Answer:
        """Return what `function` returns; call from the event loop only.

        Args:
            function: The work; called with its checkpoint.
            gone: Ends when nobody waits for the answer any more.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: No answer within the deadline; work that had not begun is dropped, work that
                runs ends at its next checkpoint.
            ClientGone: `gone` ended first; the work is dropped or ends likewise.
        """
        self.check()
        loop = asyncio.get_running_loop()
        abandoned = threading.Event()

        def checkpoint() -> None:
            if abandoned.is_set():
                raise self._too_late()

        def timed() -> Answer:
            began = time.perf_counter()
            try:
                return function(checkpoint)
            finally:
                self._usual_seconds += SMOOTHING * (time.perf_counter() - began - self._usual_seconds)

        self._admitted += 1
        work: Future[Answer] = self._pool.submit(timed)
        work.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._release))
        answer = asyncio.wrap_future(work)
        hung_up: asyncio.Future[Any] = loop.create_future() if gone is None else asyncio.ensure_future(gone)
        first: list[asyncio.Future[Any]] = [answer, hung_up]
        try:
            await asyncio.wait(first, timeout=self._deadline_seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if hung_up.done():
                raise ClientGone("the client went away before the answer was there")
            raise self._too_late()
        finally:
            abandoned.set()
            for future in first:
                future.cancel()

    def _too_late(self) -> DeadlineExceeded:
        """Return the refusal of an answer that took too long."""
        return DeadlineExceeded(
            "the answer took too long; ask for fewer samples, hours, scenarios or evaluations",
            allowed=f"{math.ceil(self._deadline_seconds)} seconds",
        )

    def _release(self) -> None:
        """Give one place back, on the event loop."""
        self._admitted -= 1

    def close(self) -> None:
        """Drop what has not begun; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
