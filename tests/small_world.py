"""A small city and small experiments: what the tests of model and training work on."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from urbanwm.cities import City
from urbanwm.features import CitySeries, FeatureSpec, build_series
from urbanwm.features.direct import DirectColumns, DirectForecast
from urbanwm.model.config import ExperimentConfig, ModelDims, experiment_spec, load_experiment
from urbanwm.model.predictor import QuantilePredictor
from urbanwm.model.world_model import UrbanWorldModel
from urbanwm.training.direct_error import DirectFit
from urbanwm.training.direct_fit import fit_direct

SMALL_DAYS = 60
SMALL_TRAINING = {
    "training.steps": 6,
    "training.batch_size": 4,
    "training.context_hours": 12,
    "training.horizon_hours": 12,
    "training.validate_every": 2,
    "training.patience": 8,
    "training.checkpoint_every": 2,
    "training.log_every": 2,
    "training.warmup_steps": 2,
    "training.validation_days": 6,
    "training.validation_stride_hours": 24,
    "training.threads": 1,
    "training.device": "cpu",
}
SMALL_MODEL = {"model.hidden_dim": 16, "model.latent_dim": 8, "model.latent_groups": 2}


def small_city() -> City:
    return City(
        name="smallville",
        timezone="Europe/Madrid",
        location={"latitude": 40.4, "longitude": -3.7},
        holidays={"country": "ES"},
        signals={},
    )


def small_frame(days: int = SMALL_DAYS, seed: int = 0) -> pd.DataFrame:
    """Return hours with a daily and weekly shape, noise, and some missing values."""
    index = pd.date_range("2024-01-01", periods=24 * days, freq="h", tz="UTC", name="timestamp", unit="us")
    random = np.random.default_rng(seed)
    hour = np.asarray(index.hour, dtype=float)
    weekend = np.asarray(index.dayofweek >= 5, dtype=float)
    rhythm = np.sin(2 * np.pi * hour / 24) - 0.5 * weekend
    frame = pd.DataFrame(
        {
            "pm25": np.exp(2.3 + 0.3 * rhythm + 0.2 * random.standard_normal(len(index))),
            "energy_mwh": 1000.0 + 200.0 * rhythm + 20.0 * random.standard_normal(len(index)),
            "traffic_index": np.clip(1.0 + 0.3 * rhythm + 0.1 * random.standard_normal(len(index)), 0, 2),
            "temperature_c": 10.0 + 5.0 * rhythm + random.standard_normal(len(index)),
            "wind_speed_ms": np.abs(3.0 + random.standard_normal(len(index))),
        },
        index=index,
    )
    return frame.mask(random.random(frame.shape) < 0.03)


def small_experiment(kind: str = "urban", **overrides: object) -> ExperimentConfig:
    name = "base" if kind == "reference" else kind
    changed = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_experiment(name, {**SMALL_TRAINING, **SMALL_MODEL, **changed})


def small_series(
    experiment: ExperimentConfig, days: int = SMALL_DAYS
) -> tuple[FeatureSpec, dict[str, CitySeries]]:
    frame, city = small_frame(days), small_city()
    spec = experiment_spec(experiment, {city.name: frame}, {city.name: city})
    return spec, {city.name: build_series(frame, city.name, spec)}


@cache
def small_fit() -> DirectFit:
    """Return the direct fit of `small_series` of the urban experiment, made once in a process."""
    spec, series = small_series(small_experiment("urban"))
    return fit_direct(series, spec)


def random_model(experiment: ExperimentConfig, spec: FeatureSpec, seed: int = 0) -> UrbanWorldModel:
    """Return a model in evaluation mode whose every weight is random, the zero-initialised ones included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = UrbanWorldModel(experiment.model, ModelDims.of(spec))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        if isinstance(model.predictor, QuantilePredictor):
            model.predictor.keep([0.5, 1.0, 0.8])
    return model.eval()


def random_direct(spec: FeatureSpec, seed: int = 0) -> DirectForecast:
    """Return a direct forecast near the mean of the seasonal levels, randomly disturbed."""
    random, columns = np.random.default_rng(seed), DirectColumns(spec)
    cells = (2, 24, spec.horizon_hours)
    widths = [sum(columns.groups(target)) for target in spec.targets]
    weights = [0.01 * random.standard_normal((*cells, width)) for width in widths]
    for part in weights:
        part[..., :9] += 1.0 / 9.0
    return DirectForecast(
        ("", *spec.cities),
        tuple(part.astype(np.float32) for part in weights),
        tuple(np.stack([0.01 * np.eye(width, dtype=np.float32)] * 2) for width in widths),
        np.full((2, 3, *cells[1:]), -1.0, np.float32),
        0.01 * random.standard_normal((3, columns.error_inputs)).astype(np.float32),
    )


def bundle_folder(folder: Path, kind: str = "urban", seed: int = 0) -> Path:
    """Export a small random model with an empty calibration."""
    from urbanwm.model.export import export_bundle

    experiment = small_experiment(kind)
    spec, _ = small_series(experiment)
    if kind != "reference":
        spec = replace(spec, direct=random_direct(spec, seed))
    model = random_model(experiment, spec, seed)
    return export_bundle(model, experiment, spec, {}, {"name": "none"}, {"run_id": "test"}, folder / "bundle")
