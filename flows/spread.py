"""The pieces of a night as tasks: candidates and forecasts, on threads, processes or a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from flows.ingest import task_runner
from flows.retrying import TASK_OPTIONS
from urbanwm.errors import UrbanWMError
from urbanwm.pipeline.spread import Spread, caught, local_spread
from urbanwm.settings import Settings, load_settings


@task(name="piece", task_run_name="{label}", **TASK_OPTIONS)
def piece(label: str, work: Callable[[Any], Any], job: Any, own_process: bool) -> Any:  # noqa: ANN401
    """Do one piece of a night's work, in this process or in one of its own."""
    if not own_process:
        return work(job)
    # Two trainings in one process would share torch's threads and random numbers.
    found = local_spread(load_settings())(label, work, [job])[0]
    if isinstance(found, UrbanWMError):
        raise found
    return found


@flow(name="pieces", flow_run_name="{label}", validate_parameters=False, persist_result=False)
def pieces(label: str, work: Callable[[Any], Any], jobs: Sequence[Any], own_process: bool) -> list[Any]:
    """Do many pieces at the same time, as far as the task runner has room; a failure stays its own."""
    futures = [
        piece.submit(f"{label} {number}", work, job, own_process) for number, job in enumerate(jobs, start=1)
    ]
    return [caught(lambda future: future.result(), future) for future in futures]


def flow_spread(settings: Settings) -> Spread:
    """Return how the settings want a night's work to be spread.

    On threads, `night_workers` pieces run at a time, each in a process of its own where there are several; on
    Dask, each of the cluster's workers takes one.
    """

    def spread(name: str, work: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
        if not jobs:
            return []
        if settings.task_runner == "threads":
            runner: Any = ThreadPoolTaskRunner(max_workers=settings.night_workers)
            own_process = settings.night_workers > 1 and len(jobs) > 1
        else:
            runner, own_process = task_runner(settings), False
        found: list[Any] = pieces.with_options(task_runner=runner)(name, work, jobs, own_process)
        return found

    return spread
