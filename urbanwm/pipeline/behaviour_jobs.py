"""The behaviour suite of a night's candidates: every candidate, every city, each tried once."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline.data import read_window
from urbanwm.pipeline.judge import behaviour_failures
from urbanwm.pipeline.spread import Spread, require_all
from urbanwm.settings import Settings


@dataclass(frozen=True)
class BehaviourJob:
    """One candidate at the end of one city's record; everything in it can travel to another process.

    Attributes:
        settings: Where the lake is.
        window: As `NightData.window` describes it.
        city: Which of its cities.
        bundle: Folder of the candidate's bundle.
        out: JSON file for the failures.
    """

    settings: Settings
    window: Mapping[str, Any]
    city: str
    bundle: Path
    out: Path


def check_city(job: BehaviourJob) -> Path:
    """Run the suite where that is not done yet; the file appears complete or not at all."""
    if not job.out.is_file():
        city = {job.city: job.window["cities"][job.city]}
        records = read_window({**job.window, "cities": city}, job.settings)
        failures = behaviour_failures(records, WorldModelForecaster(Bundle.load(job.bundle)))
        job.out.parent.mkdir(parents=True, exist_ok=True)
        draft = job.out.with_name(f".{job.out.name}-{uuid.uuid4().hex}")
        draft.write_text(json.dumps(failures), "utf-8")
        draft.replace(job.out)
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
        BehaviourJob(settings, window, city, bundle, folder / name / f"{city}.json")
        for name, bundle in bundles.items()
        for city in window["cities"]
    ]
    require_all(spread("behave", check_city, jobs))
    found: dict[str, list[str]] = {name: [] for name in bundles}
    for name in bundles:
        for city in window["cities"]:
            found[name] += json.loads((folder / name / f"{city}.json").read_text("utf-8"))
    return found
