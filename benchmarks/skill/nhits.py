"""NHITS of the neuralforecast library, with quantiles, one model per target."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from benchmarks.skill.task import HORIZON_HOURS, Float, PeerMissing, Task
from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.features.calendar import CALENDAR_NAMES

CONTEXT_HOURS = 336
STEPS = 500


def nhits(task: Task) -> pd.DataFrame:
    """Forecast every origin with a model trained once on the hours before the split.

    Raises:
        PeerMissing: neuralforecast is not installed.
    """
    try:
        from neuralforecast import NeuralForecast
        from neuralforecast.losses.pytorch import MQLoss
        from neuralforecast.models import NHITS
    except ImportError as error:
        raise PeerMissing(
            f"neuralforecast is not installed ({error.name}): pip install -e '.[skill]'"
        ) from error

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    quantiles = np.full((len(QUANTILE_LEVELS), len(task.origins), HORIZON_HOURS, len(TARGETS)), np.nan)
    for signal in range(len(TARGETS)):
        series = _series(task, signal)
        if series["y"].isna().all():
            continue
        model = NHITS(
            h=HORIZON_HOURS, input_size=CONTEXT_HOURS, loss=MQLoss(quantiles=list(QUANTILE_LEVELS)),
            max_steps=STEPS, futr_exog_list=list(CALENDAR_NAMES), scaler_type="robust", random_seed=0,
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False,
        )  # fmt: skip
        forecaster = NeuralForecast([model], freq="h")
        forecaster.fit(series[series["ds"] < _naive(task.origins[0])])
        for number, origin in enumerate(task.origins):
            quantiles[:, number, :, signal] = _forecast(forecaster, series, _naive(origin))
    return task.table(quantiles)


def _naive(moment: object) -> pd.Timestamp:
    """Return UTC without a zone, as the library wants it."""
    return pd.Timestamp(moment).tz_convert(None)


def _series(task: Task, signal: int) -> pd.DataFrame:
    """Return one target in the library's long form, gaps carried forward, with its calendar."""
    calendar = pd.DataFrame(task.days.features, columns=list(CALENDAR_NAMES)).astype(np.float32)
    values = pd.Series(task.values[:, signal]).ffill().bfill()
    stamps = pd.DatetimeIndex(task.frame.index).tz_convert(None)
    return pd.concat([pd.DataFrame({"unique_id": "city", "ds": stamps, "y": values}), calendar], axis=1)


def _forecast(forecaster: object, series: pd.DataFrame, origin: pd.Timestamp) -> Float:
    """Return quantiles `(7, 48)` from what is known before the origin."""
    past = series[series["ds"] < origin].tail(2 * CONTEXT_HOURS)
    after = series[(series["ds"] >= origin)].head(HORIZON_HOURS).drop(columns="y")
    found = forecaster.predict(df=past, futr_df=after)  # type: ignore[attr-defined]
    columns = [name for name in found.columns if name.startswith("NHITS")]
    return np.sort(found[columns].to_numpy(dtype=np.float64).T, axis=0)
