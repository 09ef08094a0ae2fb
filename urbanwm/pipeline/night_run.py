"""The night's own run in the tracker: what was begun, so that the next process finishes exactly that."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

from urbanwm.pipeline.candidates import candidate_identities
from urbanwm.pipeline.data import HORIZON_HOURS, NightData
from urbanwm.pipeline.plan import Candidate
from urbanwm.pipeline.promote import PromotionOutcome
from urbanwm.pipeline.training_night import NightTraining
from urbanwm.provenance import collect_provenance, document_hash
from urbanwm.registry import FINISHED, NIGHT_TAG, FoundRun, Registry, RunLog, find_runs, reopen
from urbanwm.settings import Settings

KEY_OF_NIGHT: Final = "night"
STAGE: Final = {"stage": "night"}
CANDIDATES_TAG: Final = "candidates"
OUTCOME_FILE: Final = "night/outcome.json"
DECISION: Final = "decision"


@dataclass(frozen=True)
class NightKey:
    """What makes two nights the same one: cities, day, data, and what is to be trained.

    Attributes:
        value: 16 hex digits.
        day: The night's date, UTC.
    """

    value: str
    day: date

    @classmethod
    def of(cls, settings: Settings, data: NightData, moment: datetime) -> NightKey:
        """Derive the key; the champion is no part of it, since the night itself may change it."""
        identity = {
            "cities": sorted(data.records),
            "day": moment.date().isoformat(),
            "data": data.digests,
            "candidates": candidate_identities(settings),
        }
        return cls(document_hash(identity), moment.date())


def find_night(registry: Registry, key: NightKey) -> FoundRun | None:
    """Return the newest run of this night, finished or not."""
    return next(iter(find_runs(registry, STAGE | {KEY_OF_NIGHT: key.value})), None)


def nights_since_training(registry: Registry, moment: datetime) -> int | None:
    """Return how many days before `moment` a night last trained; None where none did."""
    days = [date.fromisoformat(run.tags[NIGHT_TAG]) for run in find_runs(registry, STAGE)]
    before = [day for day in days if day < moment.date()]
    return (moment.date() - max(before)).days if before else None


def open_night(
    registry: Registry,
    settings: Settings,
    key: NightKey,
    data: NightData,
    candidates: Sequence[Candidate],
    found: FoundRun | None,
) -> RunLog:
    """Begin the night's run, or continue the one that a killed process left."""
    if found is not None:
        return reopen(registry, found.run_id)
    champion = registry.champion() if registry.exists else None
    tags = {
        **STAGE,
        KEY_OF_NIGHT: key.value,
        NIGHT_TAG: key.day.isoformat(),
        "cities": ",".join(data.records),
        "dataset_version": data.lake_version,
        "data_digest": document_hash(data.digests),
        "champion_before": champion.version if champion else "none",
        CANDIDATES_TAG: json.dumps([_noted(candidate) for candidate in candidates]),
        **collect_provenance().tags(),
    }
    run = registry.start_run(f"night {key.day:%Y-%m-%d}", tags)
    run.log_params(
        {
            "cities": ",".join(data.records),
            "candidates": ",".join(candidate.label for candidate in candidates),
            "origins": max(len(record.origins) for record in data.records.values()),
            "horizon_hours": HORIZON_HOURS,
            "gate_margin": settings.gate_margin,
            "gate_confidence": settings.gate_confidence,
        }
    )
    return run


@dataclass(frozen=True)
class RecordedNight:
    """What a night that is done has left.

    Attributes:
        promotion: The gate's decision.
        versions: The candidates, in the order of the settings.
        lost: Why a candidate was lost, by label.
    """

    promotion: PromotionOutcome
    versions: list[str]
    lost: dict[str, str]


def finish_night(
    run: RunLog,
    promotion: PromotionOutcome,
    training: NightTraining,
    seconds: Mapping[str, float],
) -> None:
    """Record the outcome, which makes the night done once its run is ended.

    Args:
        run: The night's run; ended by its caller.
        promotion: The decision.
        training: The candidates; the scores of the chosen one are the night's, so that nights compare.
        seconds: Wall time by step.
    """
    ratios = {
        f"gate/{rival}/ratio": compared["overall"]["ratio"]
        for rival, compared in promotion.evidence.get("against", {}).items()
    }
    scores = training.chosen.metrics
    kept = {name: value for name, value in scores.items() if name.startswith(("test/", "skill/"))}
    run.log_metrics(
        kept
        | ratios
        | {"promoted": float(promotion.promoted)}
        | {f"seconds/{step}": value for step, value in seconds.items()}
    )
    outcome = {
        "version": promotion.version,
        "champion": promotion.champion,
        "promoted": promotion.promoted,
        "reasons": promotion.reasons,
        "candidates": [item.version for item in training.outcomes],
        "lost": training.lost,
    }
    run.log_json(outcome, OUTCOME_FILE)
    run.set_tags(
        {
            "chosen": promotion.version,
            "champion_after": promotion.champion or "none",
            DECISION: "promoted" if promotion.promoted else "refused",
        }
    )


def recorded_night(registry: Registry, found: FoundRun) -> RecordedNight | None:
    """Return what a night that is done has left; None where it was not finished."""
    if found.status != FINISHED or DECISION not in found.tags:
        return None
    with tempfile.TemporaryDirectory(prefix="urbanwm-night-") as scratch:
        text = registry.fetch(found.run_id, OUTCOME_FILE, Path(scratch)).read_text("utf-8")
    outcome: dict[str, Any] = json.loads(text)
    versions, lost = outcome.pop("candidates"), outcome.pop("lost")
    return RecordedNight(PromotionOutcome(**outcome, reused=True), versions, lost)


def recorded_starts(found: FoundRun) -> dict[str, str | None]:
    """Return from which version each candidate of a begun night starts, by label."""
    return {item["label"]: item["start"] for item in json.loads(found.tags[CANDIDATES_TAG])}


def _noted(candidate: Candidate) -> dict[str, str | None]:
    return {"label": candidate.label, "start": candidate.start}
