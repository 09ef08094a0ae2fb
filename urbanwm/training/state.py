"""The state of a training run, one optimiser step at a time: everything that a checkpoint holds."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from urbanwm.calibration import USUAL_ERRORS
from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.errors import BadInput, InternalContractBroken, TrainingDiverged
from urbanwm.features import CitySeries, FeatureSpec
from urbanwm.features.recent_errors import UsualErrors
from urbanwm.model.config import ExperimentConfig, ModelDims
from urbanwm.model.predictor import QuantilePredictor
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training.checkpoint import (
    BEST,
    FINAL,
    Checkpoint,
    periodic_path,
    prune_periodic,
    write_checkpoint,
)
from urbanwm.training.direct_error import DirectFit
from urbanwm.training.direct_fit import fit_direct
from urbanwm.training.lead_scores import errors_by_lead
from urbanwm.training.optimisation import (
    AdamW,
    AveragedWeights,
    load_weights,
)
from urbanwm.training.parallel import ALONE, Workers
from urbanwm.training.pieces import loss_function
from urbanwm.training.sampling import Sampler, split_origins
from urbanwm.training.step import take_step
from urbanwm.training.team import SOLO, Team
from urbanwm.training.validation import (
    SCORED_WINDOWS,
    HeldOut,
    best_shares,
    calibrate,
    forecast_held_out,
    scores,
)
from urbanwm.training.warm_start import start_from, weights_digest

PERIODIC_KEPT = 2
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves.

    Attributes:
        model: The best weights by open-loop validation, on the CPU, in evaluation mode.
        best_step: Optimiser steps after which they were taken.
        steps: Steps done in all (early stopping may end before the recipe's).
        seconds: Wall time of this call.
        history: One entry per report: `step` and the metrics of that step.
        calibration: Fitted on the held-out windows (`urbanwm.calibration`).
        validation: Errors of the best weights on them by signal and lead (`urbanwm.training.lead_scores`).
        checkpoints: Paths by name: `best`, `final`, and the newest periodic ones by step.
        stopped_early: Whether patience ran out.
        spec: The feature spec with the fitted direct forecast: what the bundle needs.
        series: The series with the left-out direct forecasts that the model was trained and validated on.
    """

    model: UrbanWorldModel
    best_step: int
    steps: int
    seconds: float
    history: list[dict[str, float]]
    calibration: dict[str, Any]
    validation: dict[str, float]
    checkpoints: dict[str, Path]
    stopped_early: bool
    spec: FeatureSpec
    series: dict[str, CitySeries]


class Run:
    """The state of a run: model, optimiser, averages, sampler, and what validation said so far."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        series: Mapping[str, CitySeries],
        spec: FeatureSpec,
        out_dir: Path,
        initial_weights: Mapping[str, torch.Tensor] | None = None,
        direct: DirectFit | None = None,
        workers: Workers = ALONE,
        team: Team = SOLO,
    ) -> None:
        self.recipe, self.out_dir, self.workers = experiment.training, out_dir, workers
        dims = ModelDims.of(spec)
        if tuple(spec.observed_names[: dims.targets]) != tuple(spec.targets):
            raise InternalContractBroken(
                "the observed inputs do not begin with the targets", field="observed_names"
            )
        self.identity = {"config_hash": experiment.config_hash(), "data": fingerprint(series)}
        self.device = _device(self.recipe.device)
        self.spec, self.series = spec, dict(series)
        start, self.usual_errors = None, dict[str, UsualErrors]()
        if experiment.model.kind == "urban":
            fit = direct or fit_direct(series, spec)
            self.spec, start = replace(spec, direct=fit.direct), fit.errors
            self.usual_errors = {
                name: UsualErrors.measured(city.index[-1].to_pydatetime(), fit.errors[name])
                for name, city in series.items()
            }
            self.series = {name: replace(city, by_fold=fit.by_fold[name]) for name, city in series.items()}
        splits = {name: split_origins(city, self.recipe) for name, city in self.series.items()}
        self.held_out = HeldOut.cut(self.series, splits, self.recipe)
        self.scored = HeldOut.cut(self.series, splits, self.recipe, SCORED_WINDOWS)
        drawn = {"batch_size": self.recipe.batch_size * workers.count}
        self.sampler = Sampler(splits, spec, self.recipe.model_copy(update=drawn))
        self.model = UrbanWorldModel(experiment.model, dims)
        if initial_weights is not None:
            start_from(self.model, initial_weights)
            self.identity["start"] = weights_digest(initial_weights)
        elif start is not None:
            _start_at_errors(self.model, np.concatenate(list(start.values()), axis=1))
        self.model.to(self.device).train()
        self.loss = loss_function(self.model, self.recipe)
        self.team = team if self.device.type == "cpu" else SOLO
        self.optimizer = AdamW(self.model, self.recipe)
        self.average = AveragedWeights(self.model, self.recipe.ema_decay)
        self.best = {name: value.clone() for name, value in self.average.values.items()}
        self.step, self.best_step, self.best_score, self.stale = 0, 0, math.inf, 0
        self.history: list[dict[str, float]] = []

    @property
    def finished(self) -> bool:
        """Whether all steps are done or patience ran out."""
        return self.step >= self.recipe.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether the last validations brought nothing."""
        return self.stale >= self.recipe.patience

    def advance(self) -> dict[str, float] | None:
        """Take one optimiser step; return its metrics when they are due."""
        recipe, windows = self.recipe, self.sampler.next()
        shape = (len(windows), windows.observed.shape[1], self.model.config.latent_dim)
        # Drawn on the CPU wherever the model is, so that a GPU run sees the same noise.
        noise = self.workers.share_noise(torch.randn(shape)).to(self.device)
        batch = Batch.of(self.workers.share(windows), self.device)
        outcome = take_step(
            self.loss,
            self.model,
            self.optimizer,
            batch,
            noise,
            recipe,
            self.step,
            self.workers,
            self.team,
            self.sampler.draw_ahead,
        )
        self.average.update(self.model, self.step)
        self.step += 1
        last = self.step == recipe.steps
        validated = self._validate() if last or self.step % recipe.validate_every == 0 else {}
        due = (
            validated or last or self.step % recipe.log_every == 0 or self.step % recipe.checkpoint_every == 0
        )
        if not due:
            return None
        step = {"gradient_norm": outcome.gradient_norm, "learning_rate": outcome.learning_rate}
        return {"loss": outcome.loss, **outcome.parts, **step, **validated}

    def _validate(self) -> dict[str, float]:
        """Score the averaged weights open loop, shrunk as far as that helps; keep the best so far."""
        if len(self.scored) == 0:
            self.best, self.best_step = {k: v.clone() for k, v in self.average.values.items()}, self.step
            return {}
        with self._averaged():
            forecasts = forecast_held_out(self.model, self.scored, self.team)
            shares = [1.0] * len(TARGETS)
            if isinstance(self.model.predictor, QuantilePredictor):
                shares = best_shares(forecasts)
                forecasts = forecasts.keeping(shares)
                self.model.predictor.keep(shares)
            candidate = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        result = scores(forecasts)
        result |= {f"val_share_{name}": share for name, share in zip(TARGETS, shares, strict=True)}
        score = result["val_score"]
        if not math.isfinite(score):
            raise TrainingDiverged("the validation score is not finite", field="val_score", value=score)
        self.stale = 0 if score < self.best_score else self.stale + 1
        if score <= self.best_score:  # of equals, as where no departure is kept, the best trained
            self.best_score, self.best_step, self.best = score, self.step, candidate
        return result

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Run with the averaged weights in the model."""
        present = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        load_weights(self.model, self.average.values)
        try:
            yield
        finally:
            load_weights(self.model, present)

    def save_if_due(self) -> None:
        """Write the periodic checkpoint when its step has come."""
        if self.workers.leads and self.step % self.recipe.checkpoint_every == 0:
            self._save(periodic_path(self.out_dir, self.step))
            prune_periodic(self.out_dir, PERIODIC_KEPT)

    def _save(self, path: Path) -> None:
        groups: dict[str, Mapping[str, torch.Tensor]] = {
            "model": dict(self.model.named_parameters()),
            "average": self.average.values,
            "best": self.best,
            "first_moment": self.optimizer.first,
            "second_moment": self.optimizer.second,
            "random": {"torch": torch.get_rng_state()},
        }
        write_checkpoint(path, groups, self._document() | {"sampler": self.sampler.state})

    def _document(self) -> dict[str, Any]:
        best_score = self.best_score if math.isfinite(self.best_score) else None
        return {
            "identity": self.identity,
            "step": self.step,
            "best_step": self.best_step,
            "best_score": best_score,
            "stale": self.stale,
            "history": self.history,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue where a checkpoint was written.

        Raises:
            BadInput: It belongs to another experiment or other data.
        """
        document = checkpoint.document
        for key, value in self.identity.items():
            if document["identity"].get(key) != value:
                raise BadInput(
                    "the folder holds checkpoints of another run: choose another folder or resume=False",
                    field=key,
                    value=document["identity"].get(key),
                    allowed=value,
                )
        load_weights(self.model, checkpoint.group("model"))
        self.optimizer.first = self._on_device(checkpoint.group("first_moment"))
        self.optimizer.second = self._on_device(checkpoint.group("second_moment"))
        self.average.values = self._on_device(checkpoint.group("average"))
        self.best = self._on_device(checkpoint.group("best"))
        torch.set_rng_state(checkpoint.group("random")["torch"])
        self.sampler.state = document["sampler"]
        self.step, self.best_step, self.stale = document["step"], document["best_step"], document["stale"]
        self.best_score = math.inf if document["best_score"] is None else document["best_score"]
        self.history = list(document["history"])
        _LOG.info("resumed at step %d", self.step)

    def _on_device(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.device) for name, value in tensors.items()}

    def result(self, seconds: float) -> TrainResult:
        """Put the best weights in the model, write `best` and `final`, calibrate, and score by lead."""
        document = self._document()
        if self.workers.leads:
            write_checkpoint(self.out_dir / FINAL, {"model": self.average.values}, document)
            write_checkpoint(self.out_dir / BEST, {"model": self.best}, document)
        self.workers.wait()
        load_weights(self.model, self.best)
        self.model.to("cpu").eval()
        calibration, validation = self._judged() if len(self.held_out) else ({}, {})
        periodic = {path.stem: path for path in sorted(self.out_dir.glob("step-*.safetensors"))}
        return TrainResult(
            model=self.model,
            best_step=self.best_step,
            steps=self.step,
            seconds=seconds,
            history=self.history,
            calibration=calibration,
            validation=validation,
            checkpoints={"best": self.out_dir / BEST, "final": self.out_dir / FINAL, **periodic},
            stopped_early=self.stopped_early,
            spec=self.spec,
            series=self.series,
        )

    def _judged(self) -> tuple[dict[str, Any], dict[str, float]]:
        """Return the calibration of the weights in the model, and their errors by lead."""
        forecasts = forecast_held_out(self.model, self.held_out, self.team)
        calibration = calibrate(forecasts)
        if calibration:
            calibration[USUAL_ERRORS] = {name: usual.document() for name, usual in self.usual_errors.items()}
        return calibration, errors_by_lead(forecasts, self.held_out.rows, self.spec)


def fingerprint(series: Mapping[str, CitySeries]) -> str:
    """Return a digest of the data that a run was given: names, hours and values."""
    digest = hashlib.sha256()
    for name, city in series.items():
        digest.update(f"{name}|{city.index[0].isoformat()}|{len(city)}".encode())
        for values in (city.observed, city.observed_mask, city.action, city.target, city.target_mask):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _device(wanted: str) -> torch.device:
    """Return the device to train on; asking for a GPU that is not there is an error."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise BadInput("no GPU is available", field="training.device", value=wanted, allowed="auto, cpu")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def _start_at_errors(model: UrbanWorldModel, errors: NDArray[np.float64]) -> None:
    """Let the untrained model forecast the direct forecast with the quantiles of its errors `(3, n)`."""
    if isinstance(model.predictor, QuantilePredictor):
        for target, values in enumerate(errors):
            if np.isfinite(values).any():
                model.predictor.start_at(target, np.nanquantile(values, QUANTILE_LEVELS).tolist())
