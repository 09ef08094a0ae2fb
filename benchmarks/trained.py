"""A bundle of ours, trained on one city's record: what several benchmarks begin with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from urbanwm.cities import City
from urbanwm.features import FeatureSpec, build_series
from urbanwm.model.config import ExperimentConfig, experiment_spec


def trained_bundle(
    experiment: ExperimentConfig,
    city: City,
    record: pd.DataFrame,
    scratch: Path,
    *,
    altered: Callable[[FeatureSpec], FeatureSpec] = lambda spec: spec,
) -> Path:
    """Train an experiment on all of a record and return the folder of its bundle, below `scratch`.

    Args:
        experiment: What to train.
        city: The city.
        record: Its hours; columns without any value are left out.
        scratch: Takes checkpoints and bundle.
        altered: Changes the feature spec before training.
    """
    from urbanwm.model.export import export_bundle
    from urbanwm.training import train

    frames = {city.name: record.dropna(axis="columns", how="all")}
    spec = altered(experiment_spec(experiment, frames, {city.name: city}))
    series = {name: build_series(frame, name, spec) for name, frame in frames.items()}
    result = train(experiment, series, spec, scratch / "checkpoints")
    provenance = {"run_id": "benchmarks"}
    return export_bundle(
        result.model, experiment, result.spec, result.calibration, {}, provenance, scratch / "bundle"
    )
