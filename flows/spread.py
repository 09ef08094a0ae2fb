"""The pieces of a night as tasks: candidates and forecasts, on threads, processes or a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import task
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.retrying import TASK_OPTIONS
from urbanwm.pipeline.spread import Spread, caught, in_cluster, local_spread, require_all
from urbanwm.settings import Settings


@task(name="piece", task_run_name="{label}", **TASK_OPTIONS)
def piece(label: str, work: Callable[[Any], Any], job: Any, here: Callable[..., list[Any]]) -> Any:  # noqa: ANN401
    """Do one piece of a night's work, in this process or in one that `here` hands it to."""
    (found,) = require_all(here(label, work, [job]))
    return found


@contextmanager
def flow_spread(settings: Settings, runner: TaskRunner[Any]) -> Iterator[Spread]:
    """Give how the settings want a night's work to be spread.

    On Dask, each worker of the started runner's cluster takes one piece at a time; otherwise `night_workers`
    pieces run at a time, in processes where there are several.
    """
    if settings.task_runner == "dask":
        yield _spread(runner, in_cluster)
        return
    with local_spread(settings) as here, ThreadPoolTaskRunner(settings.night_workers) as threads:
        yield _spread(threads, here)


def _spread(runner: TaskRunner[Any], here: Spread) -> Spread:
    """Return what runs pieces as tasks of the flow that it is called in; a failure stays its own."""

    def spread(name: str, work: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
        futures = [
            runner.submit(piece, {"label": f"{name} {number}", "work": work, "job": job, "here": here})
            for number, job in enumerate(jobs, start=1)
        ]
        return [caught(lambda future: future.result(), future) for future in futures]

    return spread
