"""A candidate from data to registered version: train, export, judge on held-out origins, log, register."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd
from filelock import FileLock

from urbanwm.assumptions import load_assumptions
from urbanwm.baseline import BaselineForecaster
from urbanwm.clock import Clock, utc_now
from urbanwm.features import FeatureSpec, build_series, build_spec
from urbanwm.figures import error_by_lead, forecast_fan, training_curves
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle
from urbanwm.model.config import ExperimentConfig, load_experiment
from urbanwm.pipeline.data import NightData, read_night
from urbanwm.pipeline.judge import forecast_origins, score_metrics, yardsticks
from urbanwm.provenance import collect_provenance, document_hash
from urbanwm.registry import ModelVersion, Registry, RunLog, directory_digest
from urbanwm.settings import Settings

Progress = Callable[[str], None]
"""Told in one line what begins now."""

ASSUMPTIONS: Final = "literature"
KEY_TAG: Final = "night_key"
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


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first optimiser step."""

    experiment: ExperimentConfig
    data: NightData
    key: str

    @property
    def tags(self) -> dict[str, object]:
        """Return what identifies the run: data, configuration, code."""
        return {
            "stage": "train",
            KEY_TAG: self.key,
            "experiment": self.experiment.name,
            "config_hash": self.experiment.config_hash(),
            "seed": self.experiment.training.seed,
            "cities": ",".join(self.data.records),
            "dataset_version": self.data.lake_version,
            "data_digest": document_hash(self.data.digests),
        }


def silent(line: str) -> None:
    """Tell nobody."""


class Stopwatch:
    """Wall time by step, in seconds."""

    def __init__(self) -> None:
        """Start counting the first step."""
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, step: str) -> None:
        """Book the time since the last lap on `step`."""
        now = time.perf_counter()
        self.seconds[step] = round(now - self._since, 2)
        self._since = now


def make_plan(
    names: Sequence[str],
    settings: Settings,
    experiment_name: str | None = None,
    *,
    until: datetime | None = None,
    steps: int | None = None,
    clock: Clock = utc_now,
) -> Plan:
    """Read experiment and data, and derive the key under which the work is done once.

    The key holds the data's digest and the configuration, not the table's version: a compaction of the lake,
    or another city's rows, ask for no new training.
    """
    overrides = {} if steps is None else {"training.steps": steps}
    experiment = load_experiment(experiment_name or settings.experiment, overrides)
    data = read_night(names, settings, until=until, clock=clock)
    judged = {name: [record.origins[0], record.origins[-1]] for name, record in data.records.items()}
    key = document_hash({"config": experiment.config_hash(), "data": data.digests, "judged": judged})
    return Plan(experiment, data, key)


def plan_training(
    names: Sequence[str],
    settings: Settings,
    experiment_name: str | None = None,
    *,
    until: datetime | None = None,
    clock: Clock = utc_now,
) -> dict[str, Any]:
    """Build data, features and model, train and record nothing, and say what a run would do."""
    from urbanwm.model.config import ModelDims
    from urbanwm.model.world_model import UrbanWorldModel

    plan = make_plan(names, settings, experiment_name, until=until, clock=clock)
    spec = _spec(plan)
    model = UrbanWorldModel(plan.experiment.model, ModelDims.of(spec))
    return {
        "run_id": None,
        "dry_run": True,
        "experiment": plan.experiment.name,
        "parameters": _count_parameters(model),
        "inputs": {"observed": spec.observed_dim, "known": spec.known_dim, "skip": spec.skip_dim},
        "steps": plan.experiment.training.steps,
        "dataset_version": plan.data.lake_version,
        "cities": {
            name: {
                "training_from": record.frame.index[0].isoformat(),
                "held_out_from": record.origins[0].isoformat(),
                "held_out_origins": len(record.origins),
            }
            for name, record in plan.data.records.items()
        },
        "left_out": dict(plan.data.left_out),
        "already_trained": _done(Registry(settings, clock), plan.key) is not None,
    }


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
        done = _done(registry, plan.key)
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
    spec = _spec(plan)
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
    parameters = _count_parameters(result.model)
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
        """Take one report; the names become `train/…`, and `val/…` for what starts with `val_`."""
        renamed = {
            f"val/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}": value
            for name, value in metrics.items()
        }
        self._waiting.append((step, renamed))
        if "val/score" in renamed:
            self._run.log_history(self._waiting)
            self._waiting = []


def _spec(plan: Plan) -> FeatureSpec:
    """Build the feature spec from the training rows alone."""
    records = plan.data.records
    return build_spec(
        plan.experiment.model.kind,
        {name: record.training for name, record in records.items()},
        {name: record.city for name, record in records.items()},
        None,
        plan.experiment.training.context_hours,
        plan.experiment.training.horizon_hours,
    )


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


def _done(registry: Registry, key: str) -> ModelVersion | None:
    """Return the version that was registered for this key."""
    if not registry.exists:
        return None
    return next((item for item in registry.list_versions() if item.tags.get(KEY_TAG) == key), None)


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


def _count_parameters(model: Any) -> int:  # noqa: ANN401 - a torch module; this file does not import torch
    """Return the number of trained weights."""
    return sum(int(parameter.numel()) for parameter in model.parameters())
