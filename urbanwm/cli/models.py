"""Commands about models: train, backtest, gate, promote, rollback, models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from urbanwm.cli.app import CityName, CityNames, Json, city_names, emit, prepare
from urbanwm.errors import BadInput, GateRefused

Experiment = Annotated[
    str | None, typer.Option("--experiment", "-e", help="Name under urbanwm/configs, or a YAML file.")
]
Until = Annotated[str | None, typer.Option("--until", help="Use hours before this time only, ISO 8601.")]
Forecasts = Annotated[Path, typer.Option(help="Parquet file as `urbanwm backtest --out` writes it.")]


def _time(text: str | None, field: str) -> Any:  # noqa: ANN401 - datetime, imported lazily
    """Read a time option."""
    from urbanwm.clock import parse_time

    return parse_time(text, field) if text else None


def train(
    city: CityNames = None,
    experiment: Experiment = None,
    until: Until = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, in place of the experiment's.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build the model and the data, train nothing, record nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a candidate on the lake, score it on held-out origins, and register it as challenger."""
    settings = prepare()
    from urbanwm import pipeline

    names = city_names(city, settings)
    name = experiment or settings.experiment
    if dry_run:
        plan = pipeline.plan_training(names, settings, name, until=_time(until, "--until"))
        emit(plan, as_json=as_json, text="\n".join(f"{key}: {value}" for key, value in plan.items()))
        return
    outcome = pipeline.run_train(
        names, settings, name, until=_time(until, "--until"), steps=steps or settings.training_steps
    ).to_dict()
    text = f"run {outcome['run_id']}: version {outcome['version']}, {outcome['parameters']:,} parameters"
    scores = "\n".join(f"  {key}: {value:.4g}" for key, value in sorted(outcome["metrics"].items()))
    emit(outcome, as_json=as_json, text=f"{text}\n{scores}")


def backtest(
    city: CityName,
    start: Annotated[str, typer.Option(help="First origin, ISO 8601 or date.")],
    end: Annotated[str, typer.Option(help="End of the origins, exclusive.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    model: Annotated[
        str, typer.Option(help="champion, baseline, a bundle folder, or runs:/RUN_ID/bundle.")
    ] = "champion",
    every: Annotated[int, typer.Option(min=1, max=168, help="Hours between origins.")] = 24,
    horizon: Annotated[int, typer.Option(min=1, max=168, help="Hours ahead.")] = 48,
    samples: Annotated[int, typer.Option(min=7, max=1000, help="Ensemble members.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the ensemble.")] = 0,
    as_json: Json = False,
) -> None:
    """Forecast from past origins with only what was known then, and score the forecasts."""
    settings = prepare()
    from urbanwm import pipeline

    scores = pipeline.run_backtest(
        city,
        settings,
        model=model,
        start=_time(start, "--start"),
        end=_time(end, "--end"),
        every_hours=every,
        horizon_hours=horizon,
        samples=samples,
        seed=seed,
        out=out,
    )
    lines = [
        f"{row['signal']:<14} {row['bucket']:<6} MAE {row['mae']:.4g}  CRPS {row['crps']:.4g}  "
        f"90 % interval covers {row['coverage_90']:.1%}"
        for row in scores["scores"]
    ]
    emit(scores, as_json=as_json, text="\n".join([*lines, f"written: {out}"]))


def gate(
    challenger: Forecasts,
    baseline: Forecasts,
    champion: Annotated[
        Path | None, typer.Option(help="The champion's forecasts; leave out when there is none.")
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="Confidence that it is better, 0.5 to 1.")] = None,
    margin: Annotated[float | None, typer.Option(help="Relative loss that counts as not worse.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Decide from stored forecasts whether the challenger may be promoted; exit code 4 when not."""
    settings = prepare()
    from urbanwm.evaluation.gate import decide, read_forecasts

    decision = decide(
        read_forecasts(challenger, "--challenger"),
        read_forecasts(champion, "--champion") if champion else None,
        read_forecasts(baseline, "--baseline"),
        margin=settings.gate_margin if margin is None else margin,
        confidence=settings.gate_confidence if confidence is None else confidence,
        seed=seed,
    )
    document = {"promote": decision.promote, "reasons": decision.reasons, "evidence": decision.evidence}
    verdict = "promote" if decision.promote else "refuse"
    emit(
        document, as_json=as_json, text="\n".join([verdict, *(f"  {reason}" for reason in decision.reasons)])
    )
    if not decision.promote:
        raise typer.Exit(GateRefused.exit_code)


def promote(
    version: Annotated[str | None, typer.Option(help="Model version; default: the challenger.")] = None,
    override_by: Annotated[str | None, typer.Option(help="Your name: promote against the gate.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why the gate is overridden; recorded.")] = None,
    as_json: Json = False,
) -> None:
    """Put the challenger in service if the gate lets it; exit code 4 when it does not."""
    settings = prepare()
    from urbanwm import pipeline

    if bool(override_by) != bool(reason):
        raise BadInput(
            "an override needs a name and a reason", field="--override-by/--reason", allowed="both"
        )
    result = pipeline.run_promote(settings, version=version, override_by=override_by, reason=reason).to_dict()
    lines = [f"version {result['version']}: {'promoted' if result['promoted'] else 'refused'}"]
    emit(result, as_json=as_json, text="\n".join([*lines, *(f"  {line}" for line in result["reasons"])]))
    if not result["promoted"]:
        raise typer.Exit(GateRefused.exit_code)


def rollback(
    reason: Annotated[
        str, typer.Option(help="Why; recorded on the version that leaves.")
    ] = "rolled back by hand",
    as_json: Json = False,
) -> None:
    """Put the previous champion back in service."""
    settings = prepare()
    from urbanwm import pipeline

    result = pipeline.run_rollback(settings, reason=reason)
    emit(result, as_json=as_json, text=f"champion is version {result['champion']} again")


def models(as_json: Json = False) -> None:
    """Show the leaderboard and lineage: the registered versions, newest first."""
    settings = prepare()
    from urbanwm import pipeline

    versions = pipeline.list_models(settings)
    emit({"models": versions}, as_json=as_json, text=_leaderboard(versions) or "no model is registered")


def _leaderboard(versions: list[dict[str, Any]]) -> str:
    """Return two lines per version: what it is worth, and where it comes from."""
    lines = []
    for item in versions:
        scores = ", ".join(
            f"{name.removeprefix('test/').removesuffix('/mae')} {value:.4g}"
            for name, value in sorted(item["scores"].items())
            if name.startswith("test/") and name.endswith("/mae")
        )
        start = f"started from version {item['start']}, " if item["start"] else ""
        night = f"night of {item['night_of']}, " if item["night_of"] else ""
        lines.append(
            f"version {item['version']:<4} {','.join(item['aliases']) or '-':<20} "
            f"{item['decision'] or 'not decided':<24} MAE {scores}"
        )
        origin = f"data v{item['dataset_version']}, code {item['git_sha'][:8] or 'unknown'}"
        lines.append(
            f"    {item['candidate'] or item['experiment']}: {start}{night}{item['cities']} {origin}, "
            f"run {item['run_id'][:8]}"
        )
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for function in (train, backtest, gate, promote, rollback, models):
        app.command()(function)
