"""The steps of a night as tasks of its run; their pieces run in processes of their own, or on Dask.

A piece is no task: many a piece takes less time than the account that Prefect keeps of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from prefect import get_run_logger, task
from prefect.task_runners import TaskRunner

from flows.retrying import TASK_OPTIONS
from urbanwm.errors import UpstreamUnavailable, UrbanWMError
from urbanwm.settings import Settings
from urbanwm.spread import Spread, in_cluster, local_spread


class StepIncomplete(UpstreamUnavailable):
    """Some pieces of a step failed in a way that may be over soon."""


class _Step:
    """The pieces of a step, and what has been found of each."""

    def __init__(self, name: str, work: Callable[[Any], Any], jobs: Sequence[Any], here: Spread) -> None:
        self.found: list[Any] = [None] * len(jobs)
        self._name, self._work, self._jobs, self._here = name, work, jobs, here
        self._due = list(range(len(jobs)))

    def attempt(self) -> None:
        """Do every piece, or in a later attempt those whose failure may be over.

        Raises:
            StepIncomplete: There are such pieces.
        """
        results = self._here(self._name, self._work, [self._jobs[place] for place in self._due])
        for place, result in zip(self._due, results, strict=True):
            self.found[place] = result
        failures = {place: one for place, one in enumerate(self.found) if isinstance(one, UrbanWMError)}
        for place, failure in failures.items():
            get_run_logger().warning("%s %d: %s", self._name, place + 1, failure)
        self._due = [place for place, failure in failures.items() if failure.retryable]
        if self._due:
            raise StepIncomplete("; ".join(str(failures[place]) for place in self._due))


@task(name="step", task_run_name="{name}", **TASK_OPTIONS)
def step(name: str, attempt: Callable[[], None]) -> None:  # noqa: ARG001 - the run is called so
    """Do the pieces of a step."""
    attempt()


@contextmanager
def flow_spread(settings: Settings, runner: TaskRunner[Any]) -> Iterator[Spread]:
    """Give how the settings want a night's work to be spread.

    On Dask, each worker of the started runner's cluster takes one piece at a time; otherwise `night_workers`
    pieces run at a time, in processes where there are several.
    """
    if settings.task_runner == "dask":
        yield _in_steps(_on_dask(runner))
        return
    with local_spread(settings) as here:
        yield _in_steps(here)


def _in_steps(here: Spread) -> Spread:
    """Return what shows each step as a task of the flow that it is called in; a failure stays its piece's."""

    def spread(name: str, work: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
        if not jobs:
            return []
        its = _Step(name, work, jobs, here)
        with suppress(StepIncomplete):  # when no attempt is left
            step(name, its.attempt)
        return its.found

    return spread


def _on_dask(runner: Any) -> Spread:  # noqa: ANN401 - prefect-dask is an extra
    """Return what hands pieces to the workers of a cluster."""

    def spread(name: str, work: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
        futures = [
            runner.client.submit(in_cluster, name, work, [job], key=f"{name}-{uuid4()}") for job in jobs
        ]
        return [found for future in futures for found in future.result()]

    return spread
