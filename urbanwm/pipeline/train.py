"""A candidate from data to registered version: train, export, judge on held-out origins, log, register."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd
from filelock import FileLock

from urbanwm.assumptions import load_assumptions
from urbanwm.baseline import BaselineForecaster
from urbanwm.clock import Clock, utc_now
from urbanwm.contracts.signals import TARGETS
from urbanwm.features import build_series
from urbanwm.figures import error_by_lead, forecast_fan, training_curves
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline.judge import forecast_origins, score_metrics, yardsticks
from urbanwm.pipeline.plan import KEY_TAG, Plan, already_trained, count_parameters, make_plan, training_spec
from urbanwm.pipeline.progress import Progress, Stopwatch, silent
from urbanwm.provenance import collect_provenance
from urbanwm.registry import ModelVersion, Registry, RunLog, directory_digest
from urbanwm.settings import Settings

ASSUMPTIONS: Final = "literature"
WINDOW_FILE: Final = "evaluation/window.json"
CHALLENGER_TABLE: Final = "evaluation/challenger.parquet"
BASELINE_TABLE: Final = "evaluation/baseline.parquet"
FANS_PER_CITY: Final = 2


@dataclass(frozen=True)
class TrainOutcome:
    """What a training run left.

    Attributes:
        run_id: MLflow run.
        version: Registered model version, as text.
        experiment: Name of the configuration.
        parameters: Number of trained weights.
        dataset_version: Lake version that was read.
        metrics: Held-out scores: `test/<signal>/mae` in the signal's unit, `skill/<signal>/h48` as a share.
        cities: Cities trained on.
        left_out: Why a city that was asked for was not trained on.
        reused: Whether the same data and configuration had been trained before, so that nothing was done.
        seconds: Wall time by step.
    """

    run_id: str
    version: str
    experiment: str
    parameters: int
    dataset_version: int
    metrics: dict[str, float]
    cities: list[str]
    left_out: dict[str, str]
    reused: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def run_train(
    names: Sequence[str],
    settings: Settings,
    experiment_name: str | None = None,
    *,
    until: datetime | None = None,
    steps: int | None = None,
    clock: Clock = utc_now,
    say: Progress = silent,
) -> TrainOutcome:
    """Train one world model over all named cities, judge it, and register it as challenger.

    Done once per data and configuration: a second call returns the first call's version. A call that was
    killed is continued from its last checkpoint.

    Args:
        names: Cities.
        settings: Where everything is.
        experiment_name: Name under `urbanwm/configs` or YAML path; None: the one in the settings.
        until: Use hours before this time only.
        steps: Optimiser steps, in place of the experiment's.
        clock: What time it is.
        say: Told each step as it begins.

    Raises:
        DataUnavailable: No city has enough data.
        TrainingDiverged: The loss or a gradient stopped being finite; nothing is registered.
        UpstreamUnavailable: The registry cannot be written.
    """
    watch = Stopwatch()
    plan = make_plan(names, settings, experiment_name, until=until, steps=steps, clock=clock)
    registry = Registry(settings, clock)
    folder = settings.runs_dir / plan.key
    settings.locks_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.locks_dir / f"train-{plan.key}.lock"):
        done = already_trained(registry, plan.key)
        if done is not None:
            return _reused(plan, done)
        registry.end_abandoned_runs({KEY_TAG: plan.key})
        watch.lap("read")
        provenance = collect_provenance()
        with registry.start_run(f"train {plan.experiment.name}", plan.tags | provenance.tags()) as run:
            outcome = _train_and_register(plan, registry, run, folder, watch, say)
        # The run has everything now; the folder only served to continue a killed training.
        shutil.rmtree(folder)
        return outcome


def _train_and_register(
    plan: Plan, registry: Registry, run: RunLog, folder: Path, watch: Stopwatch, say: Progress
) -> TrainOutcome:
    """Do the work of `run_train` inside its MLflow run."""
    from urbanwm.model.export import export_bundle
    from urbanwm.training import train

    _log_inputs(plan, run)
    spec = training_spec(plan)
    series = {name: build_series(record.training, name, spec) for name, record in plan.data.records.items()}
    watch.lap("features")
    say(f"training {plan.experiment.name} on {', '.join(series)}")
    result = train(plan.experiment, series, spec, folder / "checkpoints", on_metrics=_Batched(run))
    watch.lap("train")
    bundle_dir = export_bundle(
        result.model,
        plan.experiment,
        spec,
        result.calibration,
        load_assumptions(ASSUMPTIONS).model_dump(mode="json"),
        collect_provenance().to_dict() | {"run_id": run.run_id} | {k: str(v) for k, v in plan.tags.items()},
        folder / "bundle",
    )
    watch.lap("export")
    say("forecasting from held-out origins")
    tables = _held_out_tables(plan, bundle_dir)
    watch.lap("backtest")
    metrics = score_metrics(tables)
    run.log_metrics(metrics | {"train/best_step": result.best_step, "train/steps": result.steps})
    run.log_folder(bundle_dir, "bundle")
    _log_evaluation(plan, run, tables, result.history)
    parameters = count_parameters(result.model)
    version = registry.register(
        run.run_id,
        plan.tags | {"bundle_digest": directory_digest(bundle_dir), "parameters": parameters},
        {name: value for name, value in metrics.items() if name.startswith(("test/", "skill/"))},
    )
    watch.lap("log")
    run.log_metrics({f"seconds/{step}": seconds for step, seconds in watch.seconds.items()})
    return TrainOutcome(
        run_id=run.run_id,
        version=version.version,
        experiment=plan.experiment.name,
        parameters=parameters,
        dataset_version=plan.data.lake_version,
        metrics=metrics,
        cities=list(plan.data.records),
        left_out=dict(plan.data.left_out),
        seconds=watch.seconds,
    )


class _Batched:
    """Sends training metrics to the run in one call per validation instead of one per report."""

    def __init__(self, run: RunLog) -> None:
        self._run = run
        self._waiting: list[tuple[int, dict[str, float]]] = []

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take one report."""
        renamed = {_metric_name(name): value for name, value in metrics.items()}
        self._waiting.append((step, renamed))
        if "val/score" in renamed:
            self._run.log_history(self._waiting)
            self._waiting = []


def _metric_name(reported: str) -> str:
    """Return the run's name of a training metric: `val_mae_pm25` → `val/pm25/mae`, `kl` → `train/kl`."""
    stage = "val" if reported.startswith("val_") else "train"
    name = reported.removeprefix("val_")
    for signal in TARGETS:
        if name.endswith(f"_{signal}"):
            return f"{stage}/{signal}/{name.removesuffix(f'_{signal}')}"
    return f"{stage}/{name}"


def _log_inputs(plan: Plan, run: RunLog) -> None:
    """Log configuration, lineage and the hours on which every model of this night is judged."""
    run.log_params(plan.experiment.flatten() | {"cities": ",".join(plan.data.records)})
    run.log_json(plan.experiment.to_dict(), "config/experiment.json")
    run.log_json(plan.data.window(), WINDOW_FILE)
    for name, record in plan.data.records.items():
        run.log_dataset(
            record.training,
            name=f"{name}-observations",
            uri=plan.data.lake_uri,
            version=plan.data.lake_version,
            digest=record.digest,
        )


def _held_out_tables(plan: Plan, bundle_dir: Path) -> dict[str, pd.DataFrame]:
    """Forecast from the held-out origins by the candidate, the baseline and the two yardsticks."""
    records = plan.data.records
    candidate = WorldModelForecaster(Bundle.load(bundle_dir))
    return {
        "challenger": forecast_origins(records, candidate),
        "baseline": forecast_origins(records, BaselineForecaster()),
        **yardsticks(records),
    }


def _log_evaluation(
    plan: Plan, run: RunLog, tables: Mapping[str, pd.DataFrame], history: Sequence[Mapping[str, float]]
) -> None:
    """Store the forecasts and the pictures that explain the scores."""
    run.log_frame(tables["challenger"], CHALLENGER_TABLE)
    run.log_frame(tables["baseline"], BASELINE_TABLE)
    run.log_figure(training_curves(history), "figures/training_curves.png")
    for name, record in plan.data.records.items():
        of_city = {label: table[table["city"] == name] for label, table in tables.items()}
        run.log_figure(error_by_lead(of_city), f"figures/{name}/error_by_lead.png")
        for origin in record.origins[:: max(1, len(record.origins) // FANS_PER_CITY)][:FANS_PER_CITY]:
            figure = forecast_fan(tables["challenger"], name, pd.Timestamp(origin), plan.experiment.name)
            run.log_figure(figure, f"figures/{name}/forecast_{origin:%Y-%m-%d}.png")


def _reused(plan: Plan, version: ModelVersion) -> TrainOutcome:
    """Describe a version that an earlier call made."""
    return TrainOutcome(
        run_id=version.run_id,
        version=version.version,
        experiment=plan.experiment.name,
        parameters=int(version.tags.get("parameters", "0")),
        dataset_version=plan.data.lake_version,
        metrics=version.scores,
        cities=list(plan.data.records),
        left_out=dict(plan.data.left_out),
        reused=True,
    )
