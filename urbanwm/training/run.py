"""One training run: from series to the best weights, resumable at any moment."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from urbanwm.features import CitySeries, FeatureSpec
from urbanwm.memory import keep_freed_memory
from urbanwm.model.config import ExperimentConfig, ModelDims
from urbanwm.model.world_model import UrbanWorldModel
from urbanwm.training.checkpoint import (
    BEST,
    latest_checkpoint,
    read_checkpoint,
)
from urbanwm.training.direct_error import DirectFit
from urbanwm.training.optimisation import (
    load_weights,
)
from urbanwm.training.parallel import joined
from urbanwm.training.state import Run, TrainResult
from urbanwm.training.team import SOLO, Team

_LOG = logging.getLogger(__name__)

OnMetrics = Callable[[int, dict[str, float]], None]


def train(
    experiment: ExperimentConfig,
    series: Mapping[str, CitySeries],
    spec: FeatureSpec,
    out_dir: Path,
    *,
    on_metrics: OnMetrics | None = None,
    resume: bool = True,
    progress: bool | None = None,
    initial_weights: Mapping[str, torch.Tensor] | None = None,
    direct: DirectFit | None = None,
    team: Team = SOLO,
) -> TrainResult:
    """Train the experiment's model on the series and return its best weights.

    Under torchrun every process calls this and gets the same result; the first one alone writes checkpoints
    and reports metrics (`parallel`). The same seed, data and thread count give the same bits on a CPU; a run
    that was killed continues from its last periodic checkpoint as if it had not been.

    Args:
        experiment: What to train and how.
        series: Training rows per city; a part is held out for validation and calibration.
        spec: What the series' columns mean.
        out_dir: Folder for checkpoints.
        on_metrics: Called with the step and its metrics (losses by part, validation scores).
        resume: Continue from the checkpoints in `out_dir`; otherwise they are overwritten as they come up.
        progress: Show a bar; None = when stderr is a terminal and no other process trains beside this one.
            Without a bar, each validation is a line of the log.
        initial_weights: Start from these parameters, by name, in place of random ones (a warm start).
        direct: What `fit_direct` returned for these series and this spec; None: it is asked now.
        team: Computes what can be divided (`assistance`); on a GPU this process does.

    Raises:
        DataUnavailable: A record is too short.
        BadInput: `out_dir` holds a run of another experiment, other data or another start; or the initial
            weights have other names or shapes than the model's.
        TrainingDiverged: A loss or gradient stopped being finite; the last checkpoint stays.
    """
    started = time.perf_counter()
    recipe, who = experiment.training, f"{experiment.name}@{experiment.training.seed}"
    with _reproducible(recipe.seed, recipe.threads), joined() as workers:
        show = workers.leads and (_has_the_terminal() if progress is None else progress)
        run = Run(experiment, series, spec, out_dir, initial_weights, direct, workers, team)
        keep_freed_memory()  # from here on: what fitting the direct forecast took is handed back
        checkpoint = latest_checkpoint(out_dir) if resume else None
        if checkpoint is not None:
            run.restore(checkpoint)
        with tqdm(total=recipe.steps, initial=run.step, disable=not show, unit="step", leave=False) as bar:
            while not run.finished:
                metrics = run.advance()
                bar.update()
                if metrics is None or not workers.leads:
                    continue
                run.history.append({"step": float(run.step), **metrics})
                bar.set_postfix({"loss": f"{metrics['loss']:.4f}", "best": f"{run.best_score:.4f}"})
                if not show and "val_score" in metrics:
                    _LOG.info("%s: step %d/%d %s", who, run.step, recipe.steps, _line(metrics))
                if on_metrics is not None:
                    on_metrics(run.step, metrics)
                run.save_if_due()
        return run.result(time.perf_counter() - started)


def load_best(experiment: ExperimentConfig, spec: FeatureSpec, out_dir: Path) -> UrbanWorldModel:
    """Return the model of a finished run with its best weights, strictly loaded, in evaluation mode."""
    model = UrbanWorldModel(experiment.model, ModelDims.of(spec))
    load_weights(model, read_checkpoint(out_dir / BEST).group("model"))
    return model.eval()


@contextmanager
def _reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seed torch and fix its threads, and those of numpy's products, for a run; leave all as they were."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(), threadpool_limits(threads, user_api="blas"):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads_before)


def _has_the_terminal() -> bool:
    """Return whether a bar has a terminal to itself: a spawned worker shares it with its siblings."""
    return sys.stderr.isatty() and multiprocessing.parent_process() is None


def _line(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name}={metrics[name]:.4g}" for name in ("loss", "gradient_norm", "val_score"))
