"""The pictures of a candidate's held-out forecasts, city by city."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from urbanwm.figures import error_by_lead, forecast_fan
from urbanwm.pipeline.evaluation import CHALLENGER
from urbanwm.pipeline.forecasts import read_tables
from urbanwm.registry import Registry
from urbanwm.settings import Settings

FANS: Final = 2
"""Origins whose forecast is drawn."""


@dataclass(frozen=True)
class FiguresJob:
    """One candidate's pictures of one city; everything in it can travel to another process.

    Attributes:
        settings: Where the runs are.
        run_id: The candidate's.
        experiment: How the pictures name it.
        city: Whose forecasts.
        folder: Holds the forecasts, see `held_out_tables`.
        tables: Name of each table for the candidate → its name in the folder.
    """

    settings: Settings
    run_id: str
    experiment: str
    city: str
    folder: Path
    tables: Mapping[str, str]


def figures_jobs(
    settings: Settings,
    run_id: str,
    experiment: str,
    window: Mapping[str, Any],
    folder: Path,
    tables: Mapping[str, str],
) -> list[FiguresJob]:
    """Return the jobs of all cities of a window, as `NightData.window` describes it."""
    return [FiguresJob(settings, run_id, experiment, city, folder, tables) for city in window["cities"]]


def draw_city(job: FiguresJob) -> str:
    """Store one city's pictures under the candidate's run, and return the city's name."""
    run = Registry(job.settings).run_log(job.run_id)
    tables = {name: read_tables(job.folder / stored, [job.city]) for name, stored in job.tables.items()}
    run.log_figure(error_by_lead(tables), f"figures/{job.city}/error_by_lead.png")
    origins = sorted(tables[CHALLENGER]["origin"].unique())
    for origin in map(pd.Timestamp, origins[:: max(1, len(origins) // FANS)][:FANS]):
        figure = forecast_fan(tables[CHALLENGER], job.city, origin, job.experiment)
        run.log_figure(figure, f"figures/{job.city}/forecast_{origin:%Y-%m-%d}.png")
    return job.city
