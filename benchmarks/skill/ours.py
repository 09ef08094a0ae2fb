"""Our own model: trained by an experiment on the hours before the split, exported, asked like any peer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.skill.task import HORIZON_HOURS, Float, Task
from benchmarks.trained import trained_bundle
from urbanwm.contracts.signals import SIGNALS
from urbanwm.evaluation.backtest import forecast_table
from urbanwm.evaluation.forecasts import VALUE_COLUMNS
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle
from urbanwm.model.config import load_experiment
from urbanwm.sources.usual_value import usual_values

SAMPLES = 200


def ours(task: Task, experiment: str, bundle: Path | None = None) -> pd.DataFrame:
    """Train (or load a bundle) and forecast every origin.

    A traffic volume becomes an index by what was usual in earlier weeks, as a city file's
    `hour_of_week_ratio` does it, beside which the volume stays, and the forecast is scaled back by the same
    figures.
    """
    usual = _usual(task)
    frame = task.frame.assign(
        traffic_index=np.clip(task.frame["traffic_index"] / usual, 0.0, SIGNALS["traffic_index"].maximum)
    )
    if task.is_volume:
        frame = frame.assign(traffic_volume=task.frame["traffic_index"])
    with tempfile.TemporaryDirectory(prefix="urbanwm-skill-") as scratch:
        training = frame[frame.index < task.origins[0]]
        folder = bundle or trained_bundle(load_experiment(experiment), task.city, training, Path(scratch))
        forecaster = WorldModelForecaster(Bundle.load(folder))
    table = forecast_table(
        task.city, frame, forecaster, task.origins, horizon_hours=HORIZON_HOURS, samples=SAMPLES
    )
    traffic = table["signal"] == "traffic_index"
    scale = pd.Series(usual, index=task.frame.index).reindex(table.loc[traffic, "timestamp"]).to_numpy()
    for column in VALUE_COLUMNS:
        table.loc[traffic, column] *= scale
    observed = task.frame["traffic_index"].reindex(table.loc[traffic, "timestamp"]).to_numpy()
    table.loc[traffic, "observed"] = observed
    return table


def _usual(task: Task) -> Float:
    """Return the usual volume of every hour, 1 where traffic is an index already."""
    if not task.is_volume or task.frame["traffic_index"].isna().all():
        return np.ones(len(task.frame))
    seen = task.frame["traffic_index"].dropna()
    values, _ = usual_values(pd.DatetimeIndex(seen.index), seen.to_numpy(), task.city.timezone)
    return pd.Series(values, index=seen.index).reindex(task.frame.index).to_numpy(dtype=np.float64)
