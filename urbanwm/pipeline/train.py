"""A candidate from data to registered version: train, export, judge on held-out origins, log, register."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from urbanwm.clock import Clock, utc_now
from urbanwm.figures import training_curves
from urbanwm.pipeline.behaviour_jobs import check_candidates
from urbanwm.pipeline.evaluation import CHALLENGER
from urbanwm.pipeline.explain import ExplainJob, explain
from urbanwm.pipeline.fit import fit
from urbanwm.pipeline.forecasts import YARDSTICKS, held_out_tables
from urbanwm.pipeline.judge import score_metrics
from urbanwm.pipeline.outcome import Trained, TrainOutcome
from urbanwm.pipeline.plan import (
    KEY_TAG,
    Plan,
    already_trained,
    count_parameters,
    make_plan,
)
from urbanwm.pipeline.progress import Progress, Stopwatch, silent
from urbanwm.pipeline.train_job import VALIDATION_TAG, AssistJob, TrainJob, reused_outcome
from urbanwm.pipeline.training_log import BatchedMetrics, log_inputs
from urbanwm.provenance import collect_provenance
from urbanwm.registry import FINISHED, ModelVersion, Registry, RunLog, directory_digest
from urbanwm.settings import Settings, apply_environment
from urbanwm.spread import serial

if TYPE_CHECKING:
    from urbanwm.training.team import Team

ASSUMPTIONS: Final = "literature"


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
    plan = make_plan(names, settings, experiment_name, until=until, steps=steps, clock=clock)
    job = TrainJob.of(settings, plan)
    registry = Registry(settings, clock)
    say(f"training {plan.experiment.name} on {', '.join(plan.data.records)}")
    trained = train_candidate(job)
    if isinstance(trained, TrainOutcome):
        return trained
    say("forecasting from held-out origins")
    models = {CHALLENGER: str(trained.bundle), **{name: name for name in YARDSTICKS}}
    settings.runs_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.runs_dir, prefix=".tables-") as scratch:
        folder, window = Path(scratch), plan.data.window()
        tables = held_out_tables(settings, window, models, folder, serial)
        bundles = {CHALLENGER: trained.bundle}
        failures = check_candidates(settings, window, bundles, folder / "behaviour", serial)[CHALLENGER]
        explain([ExplainJob(job, trained, folder, {name: name for name in models}, failures)], serial)
    return finish_candidate(job, plan, trained, tables, registry)


def train_candidate(job: TrainJob) -> Trained | TrainOutcome:
    """Train and export where that is not done yet; the run stays open for its scores.

    Returns:
        The bundle's record; or, where the same work was registered before, its outcome.

    Raises:
        TrainingDiverged: The loss or a gradient stopped being finite; the run is marked failed.
        UpstreamUnavailable: The registry cannot be written.
    """
    apply_environment(job.settings)
    registry = Registry(job.settings)
    with _asking_for_help(job) as team, job.lock:
        done = already_trained(registry, job.key)
        if done is not None:
            return _reused(job, registry, done)
        found = Trained.load(job.folder)
        if found is not None:
            return found
        registry.end_abandoned_runs({KEY_TAG: job.key})
        plan = job.plan()
        tags = plan.tags | collect_provenance().tags() | dict(job.tags)
        run = registry.start_run(f"train {job.candidate.label}", tags, job.parent_run_id)
        with run.ended_by_failure():
            return _train(job, plan, registry, run, team)


def train_or_assist(job: TrainJob | AssistJob) -> Trained | TrainOutcome | None:
    """Do `train_candidate`; or help another worker that does, until it needs no more help."""
    if isinstance(job, TrainJob):
        return train_candidate(job)
    from urbanwm.training.assistance import assist

    assist(job.word)
    return None


@contextmanager
def _asking_for_help(job: TrainJob) -> Iterator[Team | None]:
    """Give who computes for the job, with idle workers where it may ask them."""
    if job.word is None:
        yield None
        return
    from urbanwm.training.assistance import LOOPBACK, open_to_assistants, own_address

    host = LOOPBACK if job.settings.task_runner == "threads" else own_address()
    with open_to_assistants(job.word, host) as assistants:
        yield assistants


def _train(job: TrainJob, plan: Plan, registry: Registry, run: RunLog, team: Team | None) -> Trained:
    """Do the work of `train_candidate` inside its run."""
    watch = Stopwatch()
    log_inputs(plan, run)
    reports = BatchedMetrics(run)
    fitted = fit(
        plan,
        job.folder,
        registry,
        run.run_id,
        direct=job.direct,
        team=team,
        on_metrics=reports,
        watch=watch,
    )
    result = fitted.result
    reports.complete(result.history)
    run.log_folder(fitted.bundle, "bundle")
    run.log_figure(training_curves(result.history), "figures/training_curves.png")
    validation = min((row["val_score"] for row in result.history if "val_score" in row), default=None)
    best = {} if validation is None else {"val/best_score": validation}
    steps = {"train/best_step": result.best_step, "train/steps": result.steps}
    run.log_metrics(result.validation | best | steps)
    watch.lap("log training")
    trained = Trained(
        label=plan.candidate.label,
        experiment=plan.experiment.name,
        key=plan.key,
        run_id=run.run_id,
        folder=job.folder,
        parameters=count_parameters(result.model),
        validation=validation,
        start=plan.candidate.start,
        seconds=watch.seconds,
    )
    trained.save()
    return trained


def finish_candidate(
    job: TrainJob,
    plan: Plan,
    trained: Trained,
    tables: Mapping[str, pd.DataFrame],
    registry: Registry,
) -> TrainOutcome:
    """Score a trained candidate, register it, and end its run.

    Args:
        job: What was trained.
        plan: On which data.
        trained: As `train_candidate` left it.
        tables: Forecasts by "challenger", "baseline" and the yardsticks, and "champion" where there is one.
        registry: Where it is registered.
    """
    watch = Stopwatch()
    with job.lock:
        done = already_trained(registry, job.key)
        if done is not None:
            return _reused(job, registry, done)
        with registry.run_log(trained.run_id) as run:
            metrics = score_metrics(tables)
            run.log_metrics(metrics)
            noted = {
                "bundle_digest": directory_digest(trained.bundle),
                "parameters": trained.parameters,
                **({} if trained.validation is None else {VALIDATION_TAG: trained.validation}),
            }
            kept = {name: value for name, value in metrics.items() if name.startswith(("test/", "skill/"))}
            tags = plan.tags | {"git_sha": collect_provenance().git_sha} | dict(job.tags) | noted
            version = registry.register(run.run_id, tags, kept)
            watch.lap("log")
            seconds = trained.seconds | watch.seconds
            run.log_metrics({f"seconds/{step}": value for step, value in seconds.items()})
        # The run has everything now; the folder only served to continue a killed training.
        shutil.rmtree(job.folder)
    return TrainOutcome(
        run_id=trained.run_id,
        version=version.version,
        experiment=trained.experiment,
        parameters=trained.parameters,
        dataset_version=plan.data.lake_version,
        metrics=metrics,
        cities=list(plan.data.records),
        left_out=dict(plan.data.left_out),
        seconds=seconds,
        label=trained.label,
        validation=trained.validation,
        start=trained.start,
    )


def _reused(job: TrainJob, registry: Registry, version: ModelVersion) -> TrainOutcome:
    """Describe a version that an earlier call made, and tidy up after it where it was killed."""
    registry.end_abandoned_runs({KEY_TAG: job.key}, FINISHED)
    shutil.rmtree(job.folder, ignore_errors=True)
    return reused_outcome(version, job.window, job.left_out)
