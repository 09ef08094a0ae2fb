"""The same work on many pieces: one after the other, in processes of their own, or by an orchestrator."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from urbanwm.errors import UrbanWMError
from urbanwm.logs import configure_logging
from urbanwm.memory import keep_freed_memory
from urbanwm.settings import Settings

Job = TypeVar("Job")
Result = TypeVar("Result")


class Spread(Protocol):
    """Runs `work` on each of `jobs` and returns the results in the same order.

    Work and jobs can be pickled and name files, versions and times, never tables: a worker on another machine
    reads them from the same lake. A named failure is returned in its result's place, so that one piece does
    not take the others with it; any other exception is raised.
    """

    def __call__(
        self, name: str, work: Callable[[Job], Result], jobs: Sequence[Job]
    ) -> list[Result | UrbanWMError]:
        """Run them; `name` is shown where progress is."""
        ...


def caught(work: Callable[[Job], Result], job: Job) -> Result | UrbanWMError:
    """Run one piece; a named failure becomes its result."""
    try:
        return work(job)
    except UrbanWMError as error:
        return error


def serial(
    name: str,  # noqa: ARG001 - shown by orchestrators
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
) -> list[Result | UrbanWMError]:
    """Run one after the other, here."""
    return [caught(work, job) for job in jobs]


def in_cluster(
    name: str,
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
) -> list[Result | UrbanWMError]:
    """Run one after the other in this worker of a cluster, where memory is kept as in workers of our own."""
    keep_freed_memory()
    return serial(name, work, jobs)


@contextmanager
def local_spread(settings: Settings) -> Iterator[Spread]:
    """Give what the settings ask for: this process, or others that begin with the first piece and end here.

    Threads would not help: a training step holds the interpreter for most of its time. The workers are
    spawned, not forked, because torch and onnxruntime keep threads that do not survive a fork.
    """
    if settings.night_workers == 1:
        yield serial
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        settings.night_workers, context, initializer=_begin_worker, initargs=(settings.log_level,)
    ) as pool:

        def in_processes(
            name: str,  # noqa: ARG001
            work: Callable[[Job], Result],
            jobs: Sequence[Job],
        ) -> list[Result | UrbanWMError]:
            futures: list[Any] = [pool.submit(caught, work, job) for job in jobs]
            return [future.result() for future in futures]

        yield in_processes


def _begin_worker(log_level: str) -> None:
    """Log as the night does, and end with it: a worker waits for work for ever when its night was killed."""
    configure_logging(log_level)
    keep_freed_memory()
    threading.Thread(target=_end_with_the_night, daemon=True).start()


def _end_with_the_night() -> None:
    night = multiprocessing.parent_process()
    if night is not None:
        night.join()
    os._exit(1)


def require_all(results: Sequence[Result | UrbanWMError]) -> list[Result]:
    """Return the results where none is missing.

    Raises:
        UrbanWMError: The first failure.
    """
    done: list[Result] = []
    for result in results:
        if isinstance(result, UrbanWMError):
            raise result
        done.append(result)
    return done
