"""The night: ingest, train, judge, promote; `python -m flows.nightly` runs it once."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.ingest import CITIES_AT_ONCE, ingest_all
from flows.promote import promote_task
from flows.train import train_task
from urbanwm.cities import load_city
from urbanwm.clock import parse_time
from urbanwm.errors import UrbanWMError
from urbanwm.logs import configure_logging
from urbanwm.pipeline import NightReport, Steps, run_nightly
from urbanwm.settings import load_settings

STEPS = Steps(
    ingest=ingest_all,
    train=lambda names, moment: train_task(names, None, moment, load_settings().training_steps),
    promote=promote_task,
)


@flow(name="nightly", task_runner=ThreadPoolTaskRunner(max_workers=CITIES_AT_ONCE), persist_result=False)
def nightly(cities: list[str] | None = None, as_of: str | None = None) -> NightReport | State[Any]:
    """Pull data, train what is new, and let the gate decide.

    Args:
        cities: City names; default: the nightly ones.
        as_of: Run as if it were this time, ISO 8601; default: now.
    """
    moment = parse_time(as_of, "as_of") if as_of else None
    report = run_nightly(load_settings(), cities, as_of=moment, say=get_run_logger().info, steps=STEPS)
    publish(report)
    if report.status == "failed":
        return Failed(message="; ".join(report.errors), data=report)
    return report


def publish(report: NightReport) -> None:
    """Show the report on the run's page: the text, and the scores as a table."""
    create_markdown_artifact(report.markdown(), key="night-report", description="What this night did")
    if report.training is not None:
        rows = [{"score": name, "value": value} for name, value in sorted(report.training.metrics.items())]
        create_table_artifact(
            rows, key="scores", description=f"Held-out scores of version {report.training.version}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one night and return the exit code: 0 also when the gate refuses, which is a normal night."""
    parser = argparse.ArgumentParser(prog="python -m flows.nightly", description=__doc__)
    parser.add_argument(
        "--city", action="append", help="city name; repeat for several (default: the nightly cities)"
    )
    parser.add_argument("--as-of", help="run as if it were this time, ISO 8601")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")
    options = parser.parse_args(arguments)
    settings = load_settings()
    configure_logging(settings.log_level)
    try:
        names = [load_city(name, settings).name for name in options.city] if options.city else None
        state: State[Any] = nightly(names, options.as_of, return_state=True)
        report: NightReport | BaseException = state.result(raise_on_failure=False)
        if isinstance(report, BaseException):
            raise report
    except UrbanWMError as error:
        sys.stderr.write(f"urbanwm: {type(error).__name__}: {error}\n")
        if options.json:
            sys.stdout.write(json.dumps(error.envelope(), default=str) + "\n")
        return error.exit_code
    sys.stdout.write((json.dumps(report.to_dict()) if options.json else report.text()) + "\n")
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
