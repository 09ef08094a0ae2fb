"""Which models a night trains, and which of them meets the champion."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from urbanwm.errors import BadInput, UrbanWMError
from urbanwm.model.config import ExperimentConfig, load_experiment, parse_experiment
from urbanwm.pipeline.data import NightData
from urbanwm.pipeline.outcome import TrainOutcome
from urbanwm.pipeline.plan import EXPERIMENT_FILE, Candidate
from urbanwm.provenance import document_hash
from urbanwm.registry import ModelVersion, Registry
from urbanwm.settings import Settings

WARM: Final = "warm"
SEARCH: Final = "search"
SEED_SIGN: Final = "@"
WARM_LEARNING_RATE_SHARE: Final = 1.0 / 3.0
"""Of the recipe's peak learning rate: trained weights need smaller steps than random ones."""
WARM_WARMUP_STEPS: Final = 10
WARM_ADVANTAGE: Final = 0.01
"""Relative gain on validation that a warm start must show over the others: its first weights have learnt from
some of the validation hours, because the blocks move with the end of the record."""


def candidate_names(settings: Settings) -> list[str]:
    """Return what the settings ask to be trained."""
    names = settings.candidates or [settings.experiment, WARM]
    return list(dict.fromkeys(names))


def candidate_identities(settings: Settings) -> list[str]:
    """Return the same with everything that decides what is trained, the champion left out.

    Raises:
        BadInput: As `configured_candidates`.
    """
    base = load_experiment(settings.experiment).config_hash()
    special = {
        WARM: f"{base}:{settings.warm_start_steps}:{settings.training_steps}",
        SEARCH: f"{base}:{settings.search_minutes}:{settings.training_steps}",
    }
    return [
        f"{name}={special[name]}"
        if name in special
        else f"{name}={_cold_start(name, settings).experiment.config_hash()}"
        for name in candidate_names(settings)
    ]


def configured_candidates(settings: Settings, data: NightData, registry: Registry) -> list[Candidate]:
    """Return the night's candidates, a search left out.

    A warm start is left out where there is no champion of the experiment's shape, or where it has learnt from
    these very data already.

    Raises:
        BadInput: A name is no experiment, or the seed behind it is no number.
    """
    found = []
    for name in candidate_names(settings):
        if name == SEARCH:
            continue
        candidate = _warm_start(settings, data, registry) if name == WARM else _cold_start(name, settings)
        if candidate is not None:
            found.append(candidate)
    if not found and SEARCH not in candidate_names(settings):
        # Only a warm start was asked for, and there is nothing to start from yet.
        found.append(_cold_start(settings.experiment, settings))
    return found


def choose(outcomes: Sequence[TrainOutcome]) -> TrainOutcome:
    """Return the candidate that meets the champion: the best on held-out blocks of the training rows.

    Never by the held-out origins that the gate judges on: the best of many there is partly luck.

    Args:
        outcomes: At least one, in the order of the settings, which decides a tie.
    """

    def handicapped(outcome: TrainOutcome) -> float:
        if outcome.validation is None:
            return float("inf")
        return outcome.validation * (1.0 + WARM_ADVANTAGE if outcome.start is not None else 1.0)

    return min(outcomes, key=handicapped)


def _cold_start(name: str, settings: Settings) -> Candidate:
    """Read `EXPERIMENT` or `EXPERIMENT@SEED`."""
    experiment, sign, seed = name.partition(SEED_SIGN)
    overrides: dict[str, object] = {}
    if settings.training_steps is not None:
        overrides["training.steps"] = settings.training_steps
    if sign:
        if not seed.isdecimal():
            raise BadInput(
                "a candidate's seed is not a number",
                field="URBANWM_CANDIDATES",
                value=name,
                allowed="urban@7",
            )
        overrides["training.seed"] = int(seed)
    config = load_experiment(experiment, overrides)
    return Candidate(f"{config.name}{sign}{seed}", config)


def _warm_start(settings: Settings, data: NightData, registry: Registry) -> Candidate | None:
    """Return the champion trained on, or None where that makes no sense."""
    champion = registry.champion() if registry.exists else None
    if champion is None or champion.tags.get("data_digest") == document_hash(data.digests):
        return None
    return warm_candidate(settings, registry, champion)


def warm_candidate(settings: Settings, registry: Registry, version: ModelVersion) -> Candidate | None:
    """Return a warm start from one version; None where it was built otherwise than tonight's experiment."""
    base = load_experiment(settings.experiment)
    trained = _experiment_of(registry, version)
    if trained is None or trained.model != base.model:
        return None
    recipe = base.training
    document = base.to_dict()
    document["training"] |= {
        "steps": min(settings.warm_start_steps, settings.training_steps or settings.warm_start_steps),
        "learning_rate": max(recipe.learning_rate * WARM_LEARNING_RATE_SHARE, recipe.min_learning_rate),
        "warmup_steps": min(WARM_WARMUP_STEPS, recipe.warmup_steps),
    }
    return Candidate(WARM, parse_experiment(document), version.version, version.digest)


def _experiment_of(registry: Registry, version: ModelVersion) -> ExperimentConfig | None:
    """Return the configuration that a version was trained with; None where this code does not read it."""
    with tempfile.TemporaryDirectory(prefix="urbanwm-experiment-") as scratch:
        text = registry.fetch(version.run_id, EXPERIMENT_FILE, Path(scratch)).read_text("utf-8")
    try:
        return parse_experiment(json.loads(text))
    except BadInput:
        # Trained by an older or newer version of the code: a cold start still works.
        return None


def losses(results: Sequence[object], candidates: Sequence[Candidate]) -> dict[str, str]:
    """Return why a candidate was lost, by label."""
    return {
        candidate.label: f"{type(result).__name__}: {result}"
        for candidate, result in zip(candidates, results, strict=True)
        if isinstance(result, UrbanWMError)
    }
