"""The pieces of a night as tasks: candidates and forecasts, on threads, processes or a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import flow, task
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.ingest import task_runner
from flows.retrying import TASK_OPTIONS
from urbanwm.pipeline.spread import Spread, caught, local_spread, require_all, serial
from urbanwm.settings import Settings


@task(name="piece", task_run_name="{label}", **TASK_OPTIONS)
def piece(label: str, work: Callable[[Any], Any], job: Any, here: Callable[..., list[Any]]) -> Any:  # noqa: ANN401
    """Do one piece of a night's work, in this process or in one that `here` hands it to."""
    (found,) = require_all(here(label, work, [job]))
    return found


@flow(name="pieces", flow_run_name="{label}", validate_parameters=False, persist_result=False)
def pieces(
    label: str, work: Callable[[Any], Any], jobs: Sequence[Any], here: Callable[..., list[Any]]
) -> list[Any]:
    """Do many pieces at the same time, as far as the task runner has room; a failure stays its own."""
    futures = [piece.submit(f"{label} {number}", work, job, here) for number, job in enumerate(jobs, start=1)]
    return [caught(lambda future: future.result(), future) for future in futures]


@contextmanager
def flow_spread(settings: Settings) -> Iterator[Spread]:
    """Give how the settings want a night's work to be spread.

    On threads, `night_workers` pieces run at a time, in processes where there are several; on Dask, each of
    the cluster's workers takes one.
    """
    if settings.task_runner == "dask":
        yield _spread(lambda: task_runner(settings), serial)
        return
    with local_spread(settings) as here:
        yield _spread(lambda: ThreadPoolTaskRunner(max_workers=settings.night_workers), here)


def _spread(runner: Callable[[], TaskRunner[Any]], here: Spread) -> Spread:
    """Return what runs pieces as tasks, each set of them on a runner of its own."""

    def spread(name: str, work: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
        if not jobs:
            return []
        found: list[Any] = pieces.with_options(task_runner=runner())(name, work, jobs, here)
        return found

    return spread
