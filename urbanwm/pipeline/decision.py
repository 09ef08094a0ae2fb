"""The part of a night that is done once per night: candidates, gate, and the record of both."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from urbanwm.pipeline.candidates import SEARCH, candidate_names, configured_candidates, warm_candidate
from urbanwm.pipeline.data import NightData
from urbanwm.pipeline.data_quality import log_data_quality
from urbanwm.pipeline.night_run import (
    NightKey,
    RecordedNight,
    find_night,
    finish_night,
    nights_since_training,
    open_night,
    recorded_night,
    recorded_starts,
)
from urbanwm.pipeline.plan import Candidate
from urbanwm.pipeline.progress import Progress, Stopwatch
from urbanwm.pipeline.promote import PromotionOutcome
from urbanwm.pipeline.train_job import reused_outcome
from urbanwm.pipeline.training_night import NightTraining, train_night
from urbanwm.registry import NIGHT_TAG, FoundRun, Registry, RunLog
from urbanwm.settings import Settings
from urbanwm.spread import Spread

Promote = Callable[[str], PromotionOutcome]


@dataclass(frozen=True)
class NightDecision:
    """What the night's candidates became.

    Attributes:
        training: The candidates, or None where nothing was due.
        promotion: The gate's decision, or None.
        run_id: The night's run, or None.
        note: Why nothing was trained; empty otherwise.
        reused: Whether all of it had been done before.
    """

    training: NightTraining | None = None
    promotion: PromotionOutcome | None = None
    run_id: str | None = None
    note: str = ""
    reused: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)


def decide_night(
    settings: Settings,
    data: NightData,
    moment: datetime,
    *,
    spread: Spread,
    promote: Promote,
    say: Progress,
) -> NightDecision:
    """Train the night's candidates and let the gate judge the best, once per cities, day, data and settings.

    A night that is done is read from its record. One that was begun is finished with the candidates that it
    began with, also where the champion has changed since.

    Args:
        settings: Where everything is; names the candidates.
        data: What the night works on.
        moment: The time for which it runs.
        spread: Runs the pieces.
        promote: The gate and the promotion.
        say: Told each step as it begins.

    Raises:
        UrbanWMError: No candidate could be trained, or the registry cannot be asked.
    """
    registry = Registry(settings)
    key = NightKey.of(settings, data, moment)
    found = find_night(registry, key)
    done = found and recorded_night(registry, found)
    if found and done:
        return _read_again(registry, data, found, done)
    since = nights_since_training(registry, moment)
    if found is None and since is not None and since < settings.retrain_every_nights:
        return NightDecision(note=f"the last training is {since} of {settings.retrain_every_nights} days old")
    folder = settings.runs_dir / f"night-{key.value}"
    candidates = (
        configured_candidates(settings, data, registry)
        if found is None
        else _continued(settings, registry, data, found)
    )
    watch = Stopwatch()
    with open_night(registry, settings, key, data, candidates, found) as run:
        log_data_quality(settings, data.window(), run.run_id, spread)
        candidates += _searched(settings, registry, data, run, folder, say)
        training = train_night(
            settings,
            registry,
            data,
            candidates,
            spread=spread,
            folder=folder,
            parent_run_id=run.run_id,
            tags={NIGHT_TAG: key.day.isoformat()},
            say=say,
        )
        watch.lap("train")
        say(f"judging version {training.chosen.version}")
        promotion = promote(training.chosen.version)
        watch.lap("gate")
        finish_night(run, promotion, training, watch.seconds)
    shutil.rmtree(folder, ignore_errors=True)
    return NightDecision(training, promotion, run.run_id, seconds=watch.seconds)


def _continued(settings: Settings, registry: Registry, data: NightData, found: FoundRun) -> list[Candidate]:
    """Return the candidates of a night that was begun: a warm start keeps the version it began from."""
    starts = recorded_starts(found)
    cold = [item for item in configured_candidates(settings, data, registry) if item.start is None]
    warm = [warm_candidate(settings, registry, registry.version(start)) for start in starts.values() if start]
    by_label = {item.label: item for item in [*cold, *warm] if item is not None}
    return [by_label[label] for label in starts if label in by_label]


def _searched(
    settings: Settings, registry: Registry, data: NightData, run: RunLog, folder: Path, say: Progress
) -> list[Candidate]:
    """Return the candidate that a search found, where one is configured and it found a better one."""
    if SEARCH not in candidate_names(settings) or settings.search_minutes == 0:
        return []
    from urbanwm.pipeline.search import search_candidate

    say(f"searching for better settings, {settings.search_minutes:g} minutes")
    found = search_candidate(settings, data, registry, run.run_id, folder)
    return [] if found is None else [found]


def _read_again(registry: Registry, data: NightData, found: FoundRun, done: RecordedNight) -> NightDecision:
    """Return the decision of a night that is done, from its record."""
    known = {item.version: item for item in registry.list_versions()}
    outcomes = [
        reused_outcome(known[version], data.window(), data.left_out)
        for version in done.versions
        if version in known
    ]
    chosen = next((item for item in outcomes if item.version == done.promotion.version), None)
    training = NightTraining(outcomes, chosen, done.lost) if chosen else None
    return NightDecision(training, done.promotion, found.run_id, reused=True)
