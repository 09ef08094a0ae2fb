"""Monitoring between the nights: feeds, drift and live skill; `python -m flows.monitor` runs it once."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import Failed, State

from flows.retrying import TASK_OPTIONS
from urbanwm.cities import nightly_city_names
from urbanwm.clock import parse_time, utc_now
from urbanwm.errors import UrbanWMError
from urbanwm.logs import configure_logging
from urbanwm.monitoring import MonitorReport
from urbanwm.pipeline.monitor import run_monitor
from urbanwm.settings import load_settings


@task(name="monitor", **TASK_OPTIONS)
def monitor_task(names: list[str], as_of: str | None) -> MonitorReport:
    """Look at feeds, drift and live skill of the given cities, and tell what is wrong."""
    moment = parse_time(as_of, "as_of") if as_of else utc_now()
    return run_monitor(load_settings(), names, moment)


@flow(name="monitor", persist_result=False)
def monitor(cities: list[str] | None = None, as_of: str | None = None) -> MonitorReport | State[Any]:
    """Watch what was promised; the run fails while something forbids promotion, so that it shows red.

    Args:
        cities: City names; default: the nightly ones.
        as_of: Run as if it were this time, ISO 8601; default: now.
    """
    report = monitor_task(cities or nightly_city_names(load_settings()), as_of)
    publish_monitor(report)
    if report.blocking:
        return Failed(message="; ".join(report.blocking), data=report)
    return report


def publish_monitor(report: MonitorReport) -> None:
    """Show alerts, live skill and feeds on the run's page."""
    create_markdown_artifact(report.markdown(), key="monitor", description="What is wrong, and what to do")
    for key, rows, description in (
        ("live-skill", report.live_table(), "Stored forecasts against what happened"),
        ("feeds", report.feed_table(), "Age of each feed, and its drift"),
    ):
        if rows:
            create_table_artifact(rows, key=key, description=description)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the monitoring once and return 0, or the exit code of the error that kept it from running."""
    parser = argparse.ArgumentParser(prog="python -m flows.monitor", description=__doc__)
    parser.add_argument("--city", action="append", help="city name; repeat for several")
    parser.add_argument("--as-of", help="run as if it were this time, ISO 8601")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")
    options = parser.parse_args(arguments)
    configure_logging(load_settings().log_level)
    try:
        state: State[Any] = monitor(options.city, options.as_of, return_state=True)
        report: MonitorReport | BaseException = state.result(raise_on_failure=False)
        if isinstance(report, BaseException):
            raise report
    except UrbanWMError as error:
        sys.stderr.write(f"urbanwm: {type(error).__name__}: {error}\n")
        return error.exit_code
    sys.stdout.write((json.dumps(report.to_dict()) if options.json else report.text()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
