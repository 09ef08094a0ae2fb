"""The behaviour suite of a night's candidates: every candidate, every city, each tried once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline.forecasts import CityJob
from urbanwm.pipeline.judge import behaviour_failures
from urbanwm.settings import Settings
from urbanwm.spread import Spread, require_all
from urbanwm.whole_file import written_whole


def check_city(job: CityJob) -> Path:
    """Run the suite where that is not done yet; the file appears complete or not at all."""
    if not job.out.is_file():
        forecaster = WorldModelForecaster(Bundle.load(Path(job.model)))
        failures = behaviour_failures({job.city: job.record()}, forecaster)
        with written_whole(job.out) as draft:
            draft.write_text(json.dumps(failures), "utf-8")
    return job.out


def check_candidates(
    settings: Settings, window: Mapping[str, Any], bundles: Mapping[str, Path], folder: Path, spread: Spread
) -> dict[str, list[str]]:
    """Return one sentence per failure of each candidate, over all cities.

    Args:
        settings: Where the lake is.
        window: As `NightData.window` describes it.
        bundles: Name of a candidate → folder of its bundle.
        folder: Where the findings are kept until the night is over.
        spread: Runs the pieces.
    """
    jobs = [
        CityJob(settings, window, city, str(bundle), folder / name / f"{city}.json")
        for name, bundle in bundles.items()
        for city in window["cities"]
    ]
    require_all(spread("behave", check_city, jobs))
    found: dict[str, list[str]] = {name: [] for name in bundles}
    for name in bundles:
        for city in window["cities"]:
            found[name] += json.loads((folder / name / f"{city}.json").read_text("utf-8"))
    return found
