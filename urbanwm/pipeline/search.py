"""A search for better settings within a time budget: short, optional, and continued where it was killed."""

from __future__ import annotations

import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from urbanwm.errors import TrainingDiverged, UrbanWMError
from urbanwm.model.config import ExperimentConfig, load_experiment
from urbanwm.pipeline.candidates import SEARCH
from urbanwm.pipeline.data import NightData
from urbanwm.pipeline.fit import CHECKPOINTS
from urbanwm.pipeline.plan import Candidate, Plan, plan_candidate, training_series, training_spec
from urbanwm.registry import Registry
from urbanwm.settings import Settings

if TYPE_CHECKING:
    from optuna import Study, Trial

    from urbanwm.training import TrainResult

STUDY_FILE: Final = "search.db"
STUDY: Final = "night"
OVERRIDES: Final = "overrides"
SECONDS_PER_MINUTE: Final = 60.0
VALIDATIONS_BEFORE_PRUNING: Final = 2


def search_candidate(
    settings: Settings, data: NightData, registry: Registry, parent_run_id: str, folder: Path
) -> Candidate | None:
    """Look for settings whose validation score beats the configured experiment's.

    Trials are scored on the held-out blocks of the training rows, never on the origins that the gate judges
    on. The first trial is the experiment as it is; each further one is proposed by a tree-structured Parzen
    estimator (Bergstra et al. 2011, as Optuna has it) and ended early where it lags behind. The study lies in
    the night's folder, so a killed search goes on with the time that is left.

    Args:
        settings: Names the experiment; gives the minutes.
        data: The night's data.
        registry: Where each trial is recorded, below the night's run.
        parent_run_id: The night's run.
        folder: The night's working folder.

    Returns:
        The best settings as a candidate; None where nothing beat the experiment as it is.

    Raises:
        UrbanWMError: The extra `search` is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UrbanWMError("a search needs Optuna: pip install 'urbanwm[search]'", field="search") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    overrides = {} if settings.training_steps is None else {"training.steps": settings.training_steps}
    base = load_experiment(settings.experiment, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks parts of its own API as experimental
        study = optuna.create_study(
            study_name=STUDY,
            storage=f"sqlite:///{folder / STUDY_FILE}",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=base.training.seed),
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=VALIDATIONS_BEFORE_PRUNING),
        )
        if not study.trials:
            study.enqueue_trial(_as_it_is(base))
        _run_trials(study, base, settings, data, registry, parent_run_id)
    tried = {
        trial.number: load_experiment(settings.experiment, overrides | trial.user_attrs[OVERRIDES])
        for trial in study.trials
        if OVERRIDES in trial.user_attrs
    }
    best = next((trial.number for trial in study.best_trials), 0)
    for number, experiment in tried.items():
        if number not in (0, best):
            folder_of_trial = settings.runs_dir / plan_candidate(Candidate(SEARCH, experiment), data).key
            shutil.rmtree(folder_of_trial, ignore_errors=True)
    return Candidate(SEARCH, tried[best]) if best else None


def _run_trials(
    study: Study,
    base: ExperimentConfig,
    settings: Settings,
    data: NightData,
    registry: Registry,
    parent_run_id: str,
) -> None:
    """Try one setting after the other until the time is used, earlier attempts of this night included."""
    import optuna

    budget = settings.search_minutes * SECONDS_PER_MINUTE
    used = sum(trial.duration.total_seconds() for trial in study.trials if trial.duration is not None)
    deadline = time.monotonic() + budget - used
    if study.get_trials(states=[optuna.trial.TrialState.COMPLETE]) and time.monotonic() >= deadline:
        return
    learn = _trainer(base, data)

    def objective(trial: Trial) -> float:
        changes = _proposed(trial)
        trial.set_user_attr(OVERRIDES, changes)
        overrides = dict(changes) | {"training.steps": base.training.steps}
        candidate = Candidate(SEARCH, load_experiment(settings.experiment, overrides))
        tags = {"stage": "search", "trial": trial.number}
        with registry.start_run(f"search {trial.number}", tags, parent_run_id) as run:
            run.log_params(changes)
            try:
                score = _score(learn, plan_candidate(candidate, data), settings, trial, deadline)
                run.log_metrics({"val/best_score": score})
            except optuna.TrialPruned as reason:
                # An early end is part of a search, not a failure of its run.
                run.set_tags({"ended_early": str(reason)})
                score = math.nan
        if math.isnan(score):
            raise optuna.TrialPruned
        return score

    study.optimize(
        objective,
        timeout=max(deadline - time.monotonic(), 0.0) if study.trials else budget,
        catch=(TrainingDiverged,),
        gc_after_trial=False,
    )
    logging.getLogger(__name__).info(
        "search: %d trials, %d ended early",
        len(study.trials),
        sum(trial.state == optuna.trial.TrialState.PRUNED for trial in study.trials),
    )


def _trainer(base: ExperimentConfig, data: NightData) -> Callable[..., TrainResult]:
    """Return `train` with what no proposal changes: the series, their meaning, the direct forecast."""
    from urbanwm.training import train
    from urbanwm.training.direct_fit import fit_direct

    spec = training_spec(plan_candidate(Candidate(SEARCH, base), data))
    series = training_series(data.records, spec)
    direct = fit_direct(series, spec) if base.model.kind == "urban" else None
    return partial(train, series=series, spec=spec, direct=direct)


def _score(
    learn: Callable[..., TrainResult], plan: Plan, settings: Settings, trial: Trial, deadline: float
) -> float:
    """Train one setting and return its best validation score.

    The checkpoints lie where the night's training looks for them: the winner is not trained again.
    """
    import optuna

    reports = 0

    def watch(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal reports
        if "val_score" not in metrics:
            return
        trial.report(metrics["val_score"], reports)
        reports += 1
        late = trial.number > 0 and time.monotonic() > deadline
        if late or trial.should_prune():
            raise optuna.TrialPruned("out of time" if late else f"lags behind at step {step}")

    folder = settings.runs_dir / plan.key
    try:
        result = learn(plan.experiment, out_dir=folder / CHECKPOINTS, on_metrics=watch)
    except optuna.TrialPruned:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return min(row["val_score"] for row in result.history if "val_score" in row)


def _as_it_is(base: ExperimentConfig) -> dict[str, Any]:
    """Return the experiment's own settings as a proposal."""
    return {
        "learning_rate": base.training.learning_rate,
        "weight_decay": base.training.weight_decay,
        "dropout": base.model.dropout,
        "signal_dropout": base.training.signal_dropout,
        "kl_weight": base.training.kl_weight,
    }


def _proposed(trial: Trial) -> dict[str, float]:
    """Draw one setting: a decade around what was chosen by hand."""
    return {
        "training.learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True),
        "training.weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.2, log=True),
        "model.dropout": trial.suggest_float("dropout", 0.0, 0.3),
        "training.signal_dropout": trial.suggest_float("signal_dropout", 0.0, 0.3),
        "training.kl_weight": trial.suggest_float("kl_weight", 0.003, 0.3, log=True),
    }
