"""The schedules of night and monitoring: `python -m flows.deployments` serves both in the foreground."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron, Schedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.monitor import monitor
from flows.nightly import nightly
from urbanwm.cities import load_city, nightly_city_names
from urbanwm.errors import UpstreamUnavailable
from urbanwm.settings import Settings, child_environment, load_settings

NIGHTLY_CRON = "30 4 * * *"
"""Half past four, local: away from the hours that clock changes skip or repeat."""
MONITOR_CRON = "30 12 * * *"
"""Half past twelve: what the night could not know yet is told while people are at work."""
LOCAL_SERVER = ("127.0.0.1", 4200)
SERVER_START_S = 120.0
SERVER_STOP_S = 20.0
POLL_S = 1.0

# Two nights at once would do the same work twice: the second one is cancelled, not queued.
NO_OVERLAP = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


def local_schedule(settings: Settings, cron: str) -> Schedule:
    """Return a daily time in the time zone of the first nightly city."""
    city = load_city(nightly_city_names(settings)[0], settings)
    return Cron(cron, timezone=city.timezone)


def deployments(settings: Settings) -> list[RunnerDeployment]:
    """Return what is served, each under its flow's name: the night and the monitoring between two nights."""
    return [
        flow.to_deployment(flow.name, schedule=local_schedule(settings, cron), concurrency_limit=NO_OVERLAP)
        for flow, cron in ((nightly, NIGHTLY_CRON), (monitor, MONITOR_CRON))
    ]


def is_healthy(api: str) -> bool:
    """Return whether a Prefect server answers at `api`."""
    try:
        return requests.get(f"{api}/health", timeout=POLL_S).ok
    except requests.RequestException:
        return False


@contextmanager
def server(settings: Settings) -> Iterator[str]:
    """Yield the address of the configured server, or of the one on this machine, started here if need be.

    A schedule needs a server that lives as long as it does; the ephemeral one of a flow schedules nothing.

    Raises:
        UpstreamUnavailable: The server does not answer in time.
    """
    host, port = LOCAL_SERVER
    api = settings.prefect_api_url or f"http://{host}:{port}/api"
    if settings.prefect_api_url or is_healthy(api):
        yield api
        return
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    process = subprocess.Popen(command, env=child_environment(), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SERVER_START_S
        while not is_healthy(api):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UpstreamUnavailable(f"the Prefect server at {api} did not start", source="prefect")
            time.sleep(POLL_S)
        yield api
    finally:
        process.terminate()
        process.wait(SERVER_STOP_S)


def main() -> int:
    """Serve the deployments until interrupted."""
    settings = load_settings()
    zone = local_schedule(settings, NIGHTLY_CRON).timezone
    with server(settings) as api, temporary_settings({PREFECT_API_URL: api}):
        served = deployments(settings)
        sys.stdout.write(
            f"nightly at {NIGHTLY_CRON}, monitor at {MONITOR_CRON} ({zone}), server {api}; Ctrl-C ends it\n"
        )
        sys.stdout.flush()
        serve(*served, limit=len(served), print_starting_message=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
