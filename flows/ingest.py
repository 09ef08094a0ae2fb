"""Ingest: one task per city, tried again where an upstream may be back in a minute."""

from __future__ import annotations

from datetime import datetime

from prefect import flow, task
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.retrying import TASK_OPTIONS
from urbanwm.cities import nightly_city_names
from urbanwm.clock import parse_time, utc_now
from urbanwm.errors import UpstreamUnavailable
from urbanwm.pipeline import CityIngest, ingest_one
from urbanwm.settings import load_settings

CITIES_AT_ONCE = 4


class IngestIncomplete(UpstreamUnavailable):
    """Some sources failed in a way that may be over soon; what the others gave is stored already."""

    def __init__(self, outcome: CityIngest) -> None:
        """Carry the outcome, for when no attempt is left."""
        super().__init__("; ".join(outcome.errors), source=outcome.city)
        self.outcome = outcome


@task(name="ingest city", task_run_name="ingest {name}", **TASK_OPTIONS)
def ingest_city_task(name: str, as_of: datetime) -> CityIngest:
    """Ingest one city as if it were `as_of`.

    Raises:
        IngestIncomplete: A source failed in a way that another attempt can cure.
    """
    outcome = ingest_one(name, load_settings(), lambda: as_of)
    if outcome.retryable:
        raise IngestIncomplete(outcome)
    return outcome


def ingest_all(names: list[str], moment: datetime) -> list[CityIngest]:
    """Ingest the cities at the same time; one that fails is reported and the others go on."""
    futures = [ingest_city_task.submit(name, moment) for name in names]
    return [_outcome(future) for future in futures]


def _outcome(future: PrefectFuture[CityIngest]) -> CityIngest:
    """Return what a city's task brought, also when its last attempt was incomplete."""
    try:
        return future.result()
    except IngestIncomplete as error:
        return error.outcome


@flow(name="ingest", task_runner=ThreadPoolTaskRunner(max_workers=CITIES_AT_ONCE), persist_result=False)
def ingest(cities: list[str] | None = None, as_of: str | None = None) -> list[CityIngest]:
    """Pull new data for the given cities, or for the nightly ones.

    Args:
        cities: City names.
        as_of: Run as if it were this time, ISO 8601; default: now.
    """
    moment = parse_time(as_of, "as_of") if as_of else utc_now()
    return ingest_all(cities or nightly_city_names(load_settings()), moment)
