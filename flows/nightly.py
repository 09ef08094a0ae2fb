"""The night: ingest, train, judge, promote; `python -m flows.nightly` runs it once."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

from prefect import flow
from prefect.states import Failed, State

from flows.ingest import ingest_all, started_runner
from flows.page import ProgressPage, publish
from flows.promote import promote_task
from flows.spread import flow_spread
from urbanwm.cities import load_city
from urbanwm.clock import parse_time
from urbanwm.errors import UrbanWMError
from urbanwm.logs import configure_logging
from urbanwm.pipeline import NightReport, Steps, run_nightly
from urbanwm.settings import load_settings


@flow(name="nightly", persist_result=False)
def nightly(cities: list[str] | None = None, as_of: str | None = None) -> NightReport | State[Any]:
    """Pull data, train the candidates, let the gate decide, watch what was promised.

    Args:
        cities: City names; default: the nightly ones.
        as_of: Run as if it were this time, ISO 8601; default: now.
    """
    moment = parse_time(as_of, "as_of") if as_of else None
    settings = load_settings()
    # One runner for the whole night: a cluster's workers import everything once.
    with (
        closing(ProgressPage()) as page,
        started_runner(settings) as runner,
        flow_spread(settings, runner) as spread,
    ):
        ingest = partial(ingest_all, runner=runner)
        steps = Steps(ingest=ingest, spread=spread, promote=promote_task)
        report = run_nightly(settings, cities, as_of=moment, say=page.say, steps=steps)
    publish(report, settings)
    if report.exit_code:
        return Failed(message="; ".join(report.errors or report.notes), data=report)
    return report


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
