"""Commands about nights: run one, replay many, do a recorded training again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from urbanwm.cli.app import CityNames, Json, city_names, emit, prepare
from urbanwm.clock import parse_time
from urbanwm.errors import BadInput, GateRefused

if TYPE_CHECKING:
    from urbanwm.pipeline.replay import ReplayedNight

MISMATCH_EXIT_CODE = GateRefused.exit_code


def nightly(
    city: CityNames = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Run as if it were this time, ISO 8601.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="prefect (recorded by the orchestrator) or local (no server).")
    ] = "prefect",
    as_json: Json = False,
) -> None:
    """One night: ingest, train, gate, promote, watch. What is already done is skipped.

    Exit code 0 also where the gate refuses, where there is nothing new, and where another night is at work; 3
    where the data must not be learnt from, or a source, the disk or the registry is not available.
    """
    if engine not in ("prefect", "local"):
        raise BadInput("unknown engine", field="--engine", value=engine, allowed=["prefect", "local"])
    settings = prepare()
    names = city_names(city, settings)
    if engine == "prefect":
        raise typer.Exit(_through_prefect(names, as_of, as_json=as_json))
    from urbanwm import pipeline

    moment = parse_time(as_of, "--as-of") if as_of else None
    report = pipeline.run_nightly(settings, names, as_of=moment)
    emit(report.to_dict(), as_json=as_json, text=report.text())
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _through_prefect(names: list[str], as_of: str | None, *, as_json: bool) -> int:
    """Run the flow in a process of its own: the library does not import the orchestrator."""
    arguments = [sys.executable, "-m", "flows.nightly", *(f"--city={name}" for name in names)]
    arguments += [f"--as-of={as_of}"] if as_of else []
    arguments += ["--json"] if as_json else []
    return subprocess.run(arguments, check=False).returncode


def replay(
    start: Annotated[str, typer.Option("--from", help="First night, a local date such as 2019-03-01.")],
    nights: Annotated[int, typer.Option(min=1, max=3660, help="How many nights.")],
    city: CityNames = None,
    home: Annotated[
        Path | None,
        typer.Option(help="State of the replay; default: a folder of its own below URBANWM_HOME/replay."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps of a training.")] = None,
    retrain_every: Annotated[int | None, typer.Option(min=1, help="Nights between two trainings.")] = None,
    candidates: Annotated[
        str | None, typer.Option(help="What a night trains, such as urban,warm; see URBANWM_CANDIDATES.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Drive the nightly loop over past dates as if live; a night that was replayed changes nothing."""
    settings = prepare()
    from urbanwm import pipeline

    names = city_names(city, settings)
    changes: dict[str, object] = {}
    if steps is not None:
        changes["training_steps"] = steps
    if retrain_every is not None:
        changes["retrain_every_nights"] = retrain_every
    if candidates is not None:
        changes["candidates"] = [name.strip() for name in candidates.split(",") if name.strip()]
    first = parse_time(start, "--from").date()
    settings = pipeline.replay_settings(settings, names, first, home).model_copy(update=changes)
    result = pipeline.run_replay(
        settings,
        names,
        first,
        nights,
        told=None if as_json else _tell,
    )
    document = result.to_dict()
    counts = ", ".join(
        f"{document[name]} {name.replace('_', ' ')}"
        for name in ("promotions", "refusals", "rollbacks", "drift_alarms", "failed")
    )
    emit(
        document,
        as_json=as_json,
        text=f"{len(result.nights)} nights in {result.seconds:.0f} s: {counts}\nstate: {result.home}",
    )


def _tell(night: ReplayedNight) -> None:
    """Show a replayed night as soon as it is over; the document follows at the end."""
    sys.stderr.write(night.text() + "\n")


def reproduce(
    run: Annotated[str, typer.Argument(help="Run id, runs:/ID, or a version's number.")],
    tolerance: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Relative difference of a score that is allowed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Do a recorded training again and say whether its scores agree; exit code 4 when they do not."""
    settings = prepare()
    from urbanwm import pipeline
    from urbanwm.pipeline.reproduce import TOLERANCE

    result = pipeline.reproduce(settings, run, tolerance=TOLERANCE if tolerance is None else tolerance)
    verdict = "agrees" if result.agrees else "does not agree"
    worst = "" if result.worst is None else f"; largest relative difference of a score {result.worst:.2g}"
    same = ", the same weights to the bit" if result.identical_weights else ""
    text = f"run {result.run_id} {verdict} (tolerance {result.tolerance:g}){worst}{same}"
    emit(
        result.to_dict(),
        as_json=as_json,
        text="\n".join([text, *(f"  {reason}" for reason in result.reasons)]),
    )
    if not result.agrees:
        raise typer.Exit(MISMATCH_EXIT_CODE)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for function in (nightly, replay, reproduce):
        app.command()(function)
