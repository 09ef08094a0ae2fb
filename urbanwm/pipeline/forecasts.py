"""Forecasts from the held-out origins of a night: every model, every city, each made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from urbanwm.baseline import BaselineForecaster
from urbanwm.evaluation.backtest import forecast_table
from urbanwm.evaluation.references import climatology, persistence
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline.data import CityRecord, read_window
from urbanwm.pipeline.judge import SAMPLES, SEED
from urbanwm.settings import Settings
from urbanwm.spread import Spread, require_all
from urbanwm.whole_file import written_whole

BASELINE: Final = "baseline"
REFERENCES: Final = {"persistence": persistence, "climatology": climatology}
YARDSTICKS: Final = (BASELINE, *REFERENCES)
"""Forecasters without weights, by the name under which their scores are logged."""


@dataclass(frozen=True)
class CityJob:
    """One model on one city of a night; everything in it can travel to another process.

    Attributes:
        settings: Where the lake is.
        window: As `NightData.window` describes it.
        city: Which of its cities.
        model: A name of `YARDSTICKS`, or the folder of a bundle.
        out: File for what is found: forecasts (Parquet, columns of DESIGN §6), failures (JSON).
    """

    settings: Settings
    window: Mapping[str, Any]
    city: str
    model: str
    out: Path

    def record(self) -> CityRecord:
        """Read the city: the same version of the lake, the same hours."""
        return read_window(self.window, self.settings, [self.city])[self.city]


def forecast_city(job: CityJob) -> Path:
    """Forecast one city by one model, where that is not done yet; the file appears complete or not at all."""
    if not job.out.is_file():
        table = _forecast(job.record(), job.model, job.window["horizon_hours"])
        with written_whole(job.out) as draft:
            table.to_parquet(draft, index=False)
    return job.out


def forecast_each(jobs: Sequence[CityJob]) -> list[Path]:
    """Do several jobs one after the other."""
    return [forecast_city(job) for job in jobs]


def held_out_tables(
    settings: Settings, window: Mapping[str, Any], models: Mapping[str, str], folder: Path, spread: Spread
) -> dict[str, pd.DataFrame]:
    """Forecast all cities by all models on the same origins.

    Args:
        settings: Where the lake is.
        window: As `NightData.window` describes it.
        models: Name of each table → a name of `YARDSTICKS`, or the folder of a bundle.
        folder: Where the forecasts are kept until the night is over.
        spread: Runs the pieces.

    Raises:
        DataUnavailable: That version of the lake is gone.
        BundleInvalid: A bundle is damaged.
    """
    # The yardsticks of a city take less time than handing them out one by one.
    cheap = [name for name, model in models.items() if model in YARDSTICKS]
    groups = [*([cheap] if cheap else []), *([name] for name in models if name not in cheap)]
    pieces = [
        [CityJob(settings, window, city, models[name], folder / name / f"{city}.parquet") for name in group]
        for city in window["cities"]
        for group in groups
    ]
    require_all(spread("forecast", forecast_each, pieces))
    return {name: read_tables(folder / name, list(window["cities"])) for name in models}


def read_tables(folder: Path, cities: Sequence[str]) -> pd.DataFrame:
    """Return one model's forecasts of all cities."""
    return pd.concat([pd.read_parquet(folder / f"{city}.parquet") for city in cities], ignore_index=True)


def _forecast(record: CityRecord, model: str, horizon_hours: int) -> pd.DataFrame:
    if model in REFERENCES:
        return REFERENCES[model](record.city, record.frame, record.origins, horizon_hours)
    forecaster = BaselineForecaster() if model == BASELINE else WorldModelForecaster(Bundle.load(Path(model)))
    return forecast_table(
        record.city,
        record.frame,
        forecaster,
        record.origins,
        horizon_hours=horizon_hours,
        samples=SAMPLES,
        seed=SEED,
    )
