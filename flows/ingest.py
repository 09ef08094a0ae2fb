"""Ingest: one task per city, tried again where an upstream may be back in a minute, and one merge for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from prefect import flow, task
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.retrying import TASK_OPTIONS
from urbanwm.cities import load_city, nightly_city_names
from urbanwm.clock import parse_time, utc_now
from urbanwm.errors import BadInput, UpstreamUnavailable
from urbanwm.ingest import Gathered, gather_city, merge_cities
from urbanwm.pipeline import CityIngest, city_ingest
from urbanwm.settings import Settings, load_settings

HERE: Final = ("127.0.0.1", "localhost", None)
UNPROFILED: Final = {"distributed.worker.profile.enabled": False}
"""Dask's workers look at their stack a hundred times a second, which costs a training a sixth of its time."""


class GatheringIncomplete(UpstreamUnavailable):
    """Some sources failed in a way that may be over soon; what the others gave comes along."""

    def __init__(self, gathered: Gathered) -> None:
        """Carry what there is, for when no attempt is left."""
        account = city_ingest(gathered.report)
        super().__init__("; ".join(account.errors), source=account.city)
        self.gathered = gathered

    def __reduce__(self) -> tuple[type[GatheringIncomplete], tuple[Gathered]]:
        """Travel between processes."""
        return type(self), (self.gathered,)


@task(name="gather city", task_run_name="gather {name}", **TASK_OPTIONS)
def gather_city_task(name: str, as_of: datetime) -> Gathered:
    """Fetch, archive and read one city as if it were `as_of`.

    Raises:
        GatheringIncomplete: A source failed in a way that another attempt can cure.
    """
    settings = load_settings()
    gathered = gather_city(load_city(name, settings), settings, clock=lambda: as_of)
    if gathered.retryable:
        raise GatheringIncomplete(gathered)
    return gathered


def _gathered(future: PrefectFuture[Gathered]) -> Gathered:
    """Return what a city's task brought, also when its last attempt was incomplete."""
    try:
        return future.result()
    except GatheringIncomplete as error:
        return error.gathered


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """Return what tasks run on: threads, or a Dask cluster, local or by its address.

    Raises:
        BadInput: `dask` is set and its packages are not installed.
    """
    if settings.task_runner == "threads":
        return ThreadPoolTaskRunner(max_workers=settings.workers)
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise BadInput(
            "the Dask task runner is not installed",
            field="URBANWM_TASK_RUNNER",
            value="dask",
            allowed="threads, or install the extra: pip install 'urbanwm[dask]'",
        ) from error
    if settings.dask_scheduler is not None:
        return DaskTaskRunner(address=settings.dask_scheduler)
    size = {"n_workers": settings.workers, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=size | {"config": UNPROFILED})


@contextmanager
def started_runner(settings: Settings) -> Iterator[TaskRunner[Any]]:
    """Start what the tasks of the present flow run on, and tell workers on this machine where its server is.

    Without an address each worker would start a server of its own. Workers elsewhere need `PREFECT_API_URL`.

    Raises:
        BadInput: As `task_runner`.
    """
    context, told = FlowRunContext.get(), {}
    if context is not None and urlsplit(settings.dask_scheduler or "").hostname in HERE:
        told = {PREFECT_API_URL: str(context.client.api_url)}
    with temporary_settings(told), task_runner(settings) as runner:
        yield runner


def ingest_all(names: list[str], moment: datetime, runner: TaskRunner[Any]) -> list[CityIngest]:
    """Gather the cities, as many at a time as the started runner has room for, and merge them once.

    One that fails is reported and the others go on.
    """
    settings = load_settings()
    futures = [runner.submit(gather_city_task, {"name": name, "as_of": moment}) for name in names]
    gathered = [_gathered(future) for future in futures]
    return [city_ingest(report) for report in merge_cities(gathered, settings, lambda: moment)]


@flow(name="ingest", persist_result=False)
def ingest(cities: list[str] | None = None, as_of: str | None = None) -> list[CityIngest]:
    """Pull new data for the given cities, or for the nightly ones.

    Args:
        cities: City names.
        as_of: Run as if it were this time, ISO 8601; default: now.
    """
    moment = parse_time(as_of, "as_of") if as_of else utc_now()
    settings = load_settings()
    with started_runner(settings) as runner:
        return ingest_all(cities or nightly_city_names(settings), moment, runner)
