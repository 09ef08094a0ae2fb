"""Judging forecasters on the same held-out hours: forecasts, named scores, and a backtest on demand."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from urbanwm.baseline import BaselineForecaster
from urbanwm.cities import load_city
from urbanwm.clock import Clock, utc_now
from urbanwm.contracts.scenario import Forecaster
from urbanwm.errors import BadInput, DataUnavailable
from urbanwm.evaluation.backtest import backtest
from urbanwm.evaluation.behaviour import check_behaviour
from urbanwm.evaluation.metrics import ALL, BUCKETS, skill, summarise
from urbanwm.evaluation.verification import verify_against_references
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline.data import HORIZON_HOURS, CityRecord
from urbanwm.registry import Registry
from urbanwm.settings import Settings
from urbanwm.stores import records_of

SAMPLES: Final = 200
"""Members per forecast: the 5 % quantile then rests on ten of them."""
SEED: Final = 0
RUN_PREFIX: Final = "runs:/"
LOGGED_METRICS: Final = ("mae", "rmse", "crps", "coverage90")


def score_metrics(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Return the scores of a night under names that stay the same from run to run.

    `test/<signal>/<score>` is the candidate over leads 1-48; `…_h6`, `…_h24` and `…_h48` over leads 1-6, 7-24
    and 25-48. `skill/<signal>/h24` is 1 − MAE ÷ MAE of hour-of-week climatology on those leads,
    `skill_persistence/…` likewise, `…/all` over all leads. `baseline/`, `persistence/` and `climatology/` are
    the rivals' own errors. Errors are in the signal's unit, averaged over cities.

    Args:
        tables: Forecasts by `challenger`, `baseline`, `persistence` and `climatology` on the same origins.
    """
    metrics: dict[str, float] = {}
    for name, table in tables.items():
        prefix = "test" if name == "challenger" else name
        means = summarise(table).groupby(["signal", "bucket", "metric"])["value"].mean()
        for (signal, bucket, metric), value in means.items():
            if metric in LOGGED_METRICS and (prefix == "test" or bucket == ALL):
                metrics[f"{prefix}/{signal}/{metric}{_suffix(bucket)}"] = float(value)
    references = {name: tables[name] for name in ("climatology", "persistence")}
    ratios = skill(tables["challenger"], references)
    ratios = ratios[ratios["metric"] == "mae"].groupby(["reference", "signal", "bucket"])["value"].mean()
    for (reference, signal, bucket), value in ratios.items():
        prefix = "skill" if reference == "climatology" else f"skill_{reference}"
        metrics[f"{prefix}/{signal}/{_suffix(bucket).removeprefix('_') or ALL}"] = float(value)
    return metrics


def _suffix(bucket: str) -> str:
    """Return `_h24` for the bucket that ends at lead 24, nothing for all leads."""
    return "" if bucket == ALL else f"_h{BUCKETS[bucket][1]}"


def behaviour_failures(records: Mapping[str, CityRecord], forecaster: WorldModelForecaster) -> list[str]:
    """Run the behaviour suite at the end of every city's record; return one sentence per failure."""
    failures = []
    for name, record in records.items():
        start = (record.frame.index[-1] + pd.Timedelta(hours=1)).to_pydatetime()
        found = check_behaviour(forecaster, record.city, record.frame, start)
        failures += [f"{name}: {failure}" for failure in found]
    return failures


def run_backtest(
    city_name: str,
    settings: Settings,
    *,
    model: str,
    start: datetime,
    end: datetime,
    every_hours: int = 24,
    horizon_hours: int = HORIZON_HOURS,
    samples: int = SAMPLES,
    seed: int = SEED,
    out: Path,
    clock: Clock = utc_now,
) -> dict[str, Any]:
    """Backtest one model on one city, write the forecasts to `out`, and return their verification.

    Args:
        city_name: City.
        settings: Where everything is.
        model: `champion`, `baseline`, a bundle folder, or `runs:/RUN_ID/bundle`.
        start: First origin.
        end: End of the origins, exclusive.
        every_hours: Step between origins.
        horizon_hours: Leads 1 to this.
        samples: Members per forecast.
        seed: Seed of the members.
        out: Parquet file to write.
        clock: Stamps nothing here; handed to the registry.

    Raises:
        BadInput: The model cannot be found, the times hold no origin, or `out` cannot be written.
        DataUnavailable: The lake has nothing for the city, or there is no champion.
    """
    city = load_city(city_name, settings)
    frame = records_of(settings).read(city.name)
    forecaster = _forecaster(model, Registry(settings, clock))
    table = backtest(
        city,
        frame,
        forecaster,
        start=start,
        end=end,
        every_hours=every_hours,
        horizon_hours=horizon_hours,
        samples=samples,
        seed=seed,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(out, index=False)
    except OSError as error:
        sentence = f"cannot write the forecasts: {error.strerror}"
        raise BadInput(sentence, field="out", value=str(out)) from error
    verification = verify_against_references(city, frame, table)
    return {
        "city": city.name,
        "model": model,
        "origins": int(table["origin"].nunique()),
        "rows": len(table),
        "out": str(out),
        **verification.to_dict(),
    }


def _forecaster(model: str, registry: Registry) -> Forecaster:
    """Return who forecasts; a bundle is read into memory, so its copy need not stay on disk."""
    if model == "baseline":
        return BaselineForecaster()
    with tempfile.TemporaryDirectory(prefix="urbanwm-backtest-") as scratch:
        return WorldModelForecaster(Bundle.load(_bundle_folder(model, registry, Path(scratch))))


def _bundle_folder(model: str, registry: Registry, scratch: Path) -> Path:
    """Return the folder of the bundle that `model` names."""
    if model == "champion":
        champion = registry.champion() if registry.exists else None
        if champion is None:
            raise DataUnavailable("there is no champion yet", field="model", value=model)
        return registry.download(champion, scratch / "bundle")
    if model.startswith(RUN_PREFIX):
        run_id, _, path = model.removeprefix(RUN_PREFIX).partition("/")
        return registry.fetch(run_id, path or "bundle", scratch)
    if not Path(model).is_dir():
        raise BadInput(
            f"no model named '{model}'",
            field="model",
            value=model,
            allowed="champion, baseline, a bundle folder, or runs:/RUN_ID/bundle",
        )
    return Path(model)
