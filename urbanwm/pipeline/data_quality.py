"""What is known of the data that a night works on, stored under the night's run: a piece of work per city."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from urbanwm.pipeline.data import read_window
from urbanwm.quality import quality_markdown, quality_report
from urbanwm.quality.figure import coverage_heatmap
from urbanwm.registry import Registry
from urbanwm.settings import Settings
from urbanwm.spread import Spread, require_all
from urbanwm.stores import lake_of


@dataclass(frozen=True)
class QualityJob:
    """One city of a night; it can be looked at in another process.

    Attributes:
        settings: Where lake and tracker are.
        window: As `NightData.window` describes it.
        run_id: The night's run.
        city: Which of the window's cities.
    """

    settings: Settings
    window: Mapping[str, Any]
    run_id: str
    city: str


def log_data_quality(settings: Settings, window: Mapping[str, Any], run_id: str, spread: Spread) -> None:
    """Store a report and a picture per city; arguments as those of `QualityJob`."""
    jobs = [QualityJob(settings, window, run_id, city) for city in window["cities"]]
    require_all(spread("data quality", log_city_quality, jobs))


def log_city_quality(job: QualityJob) -> str:
    """Store one city's report and picture under the night's run, and return the city's name."""
    name, part = job.city, job.window["cities"][job.city]
    frame = read_window(job.window, job.settings, [name])[name].frame
    provenance = lake_of(job.settings).read_provenance(
        name, end=datetime.fromisoformat(part["end"]), version=job.window["lake_version"]
    )
    run = Registry(job.settings).run_log(job.run_id)
    run.log_text(quality_markdown(quality_report(frame, provenance, city=name)), f"data/{name}/quality.md")
    run.log_figure(coverage_heatmap(frame, name), f"data/{name}/coverage.png")
    return name
