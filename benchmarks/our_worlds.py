"""Our two shapes, ready to be timed: the reference (`base`) and the default experiment (`urban`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from urbanwm.cities import City
from urbanwm.features import FeatureSpec, build_series
from urbanwm.model.bundle import Bundle
from urbanwm.model.config import ExperimentConfig, ModelDims, experiment_spec, load_experiment
from urbanwm.model.export import export_bundle
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training.direct_fit import fit_direct
from urbanwm.training.optimisation import AdamW
from urbanwm.training.step import take_step

HOURS_PER_DAY = 24
LATE_STEP = 100
"""A step after the KL weight has grown to its full size."""


def made_up_city(name: str = "smallville") -> City:
    """Return a city without sources."""
    return City(
        name=name,
        timezone="Europe/Madrid",
        location={"latitude": 40.4, "longitude": -3.7},
        holidays={"country": "ES"},
        signals={},
    )


def made_up_hours(days: int, seed: int = 0) -> pd.DataFrame:
    """Return hours with a daily and weekly shape and noise; what they are does not matter to a clock."""
    index = pd.date_range(
        "2024-01-01", periods=HOURS_PER_DAY * days, freq="h", tz="UTC", name="timestamp", unit="us"
    )
    random = np.random.default_rng(seed)
    hour = np.asarray(index.hour, dtype=float)
    rhythm = np.sin(2 * np.pi * hour / HOURS_PER_DAY) - 0.5 * np.asarray(index.dayofweek >= 5, dtype=float)
    return pd.DataFrame(
        {
            "pm25": np.exp(2.3 + 0.3 * rhythm + 0.2 * random.standard_normal(len(index))),
            "energy_mwh": 1000.0 + 200.0 * rhythm + 20.0 * random.standard_normal(len(index)),
            "traffic_index": np.clip(1.0 + 0.3 * rhythm + 0.1 * random.standard_normal(len(index)), 0, 2),
            "temperature_c": 10.0 + 5.0 * rhythm + random.standard_normal(len(index)),
            "wind_speed_ms": np.abs(3.0 + random.standard_normal(len(index))),
        },
        index=index,
    )


def with_direct_forecast(spec: FeatureSpec, frames: Mapping[str, pd.DataFrame]) -> FeatureSpec:
    """Fit the direct forecast that the default experiment builds on; the reference has none."""
    if spec.kind == "reference":
        return spec
    series = {name: build_series(frame, name, spec) for name, frame in frames.items()}
    return replace(spec, direct=fit_direct(series, spec).direct)


@dataclass
class World:
    """A model of ours with what its training step needs.

    Attributes:
        experiment: What it is.
        spec: Its inputs.
        model: With fresh random weights, in training mode.
        optimiser: Of the model.
    """

    experiment: ExperimentConfig
    spec: FeatureSpec
    model: UrbanWorldModel
    optimiser: AdamW

    @classmethod
    def make(cls, name: str, **overrides: object) -> World:
        """Build an experiment by name; keywords override its document, `__` stands for a dot."""
        changed = {key.replace("__", "."): value for key, value in overrides.items()}
        experiment = load_experiment(name, changed)
        city = made_up_city()
        frames = {city.name: made_up_hours(60)}
        spec = experiment_spec(experiment, frames, {city.name: city})
        return cls.of(experiment, with_direct_forecast(spec, frames))

    @classmethod
    def of(cls, experiment: ExperimentConfig, spec: FeatureSpec) -> World:
        """Make the model of an experiment for certain inputs."""
        torch.manual_seed(0)
        model = UrbanWorldModel(experiment.model, ModelDims.of(spec))
        return cls(experiment, spec, model, AdamW(model, experiment.training))

    def batch(self, size: int, hours: int | None = None) -> Batch:
        """Draw a batch of random windows, as long as the experiment's unless told."""
        recipe, spec = self.experiment.training, self.spec
        shape = (size, hours or recipe.context_hours + recipe.horizon_hours)
        return Batch(
            observed=torch.randn(*shape, spec.observed_dim),
            observed_mask=torch.ones(*shape, spec.observed_dim),
            known=torch.randn(*shape, spec.known_dim),
            action=torch.rand(*shape, spec.action_dim),
            target=torch.rand(*shape, 3),
            target_mask=torch.ones(*shape, 3),
            skip=torch.randn(*shape, 3, spec.skip_dim),
            context_hours=recipe.context_hours,
        )

    def step(self, batch: Batch) -> None:
        """Do one optimiser step with fresh noise, as a run does it."""
        noise = torch.randn(*batch.target.shape[:2], self.experiment.model.latent_dim)
        recipe = self.experiment.training
        take_step(self.model.loss, self.model, self.optimiser, batch, noise, recipe, LATE_STEP)

    def bundle(self, folder: Path) -> Bundle:
        """Export the model and load it without torch."""
        return Bundle.load(
            export_bundle(self.model, self.experiment, self.spec, {}, {"name": "none"}, {}, folder)
        )


def rollout_inputs(bundle: Bundle, rows: int, hours: int) -> dict[str, np.ndarray]:
    """Return random inputs of `Bundle.imagine`."""
    random, spec, shape = np.random.default_rng(0), bundle.spec, bundle.experiment["model"]

    def draw(*size: int) -> np.ndarray:
        return random.standard_normal(size, dtype=np.float32)

    return {
        "h": np.zeros((rows, shape["hidden_dim"]), np.float32),
        "z": draw(rows, shape["latent_dim"]),
        "known": draw(rows, hours, spec.known_dim),
        "action": random.random((rows, hours, spec.action_dim), dtype=np.float32),
        "skip": draw(rows, hours, 3, spec.skip_dim),
        "noise": draw(rows, hours, shape["latent_dim"]),
    }
