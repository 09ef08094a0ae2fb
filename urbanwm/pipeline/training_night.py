"""The training of one night: every candidate trained, judged on the same origins, and one of them chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from urbanwm.errors import BundleInvalid, UrbanWMError
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline.behaviour_jobs import check_candidates
from urbanwm.pipeline.candidates import choose, losses
from urbanwm.pipeline.data import NightData
from urbanwm.pipeline.direct_jobs import fit_together
from urbanwm.pipeline.evaluation import CHALLENGER, CHAMPION
from urbanwm.pipeline.explain import ExplainJob, explain
from urbanwm.pipeline.forecasts import YARDSTICKS, held_out_tables
from urbanwm.pipeline.outcome import Trained, TrainOutcome
from urbanwm.pipeline.plan import Candidate, Plan, plan_candidate, untrained
from urbanwm.pipeline.progress import Progress
from urbanwm.pipeline.train import finish_candidate, train_or_assist
from urbanwm.pipeline.train_job import AssistJob, TrainJob
from urbanwm.registry import CHALLENGER as CHALLENGER_ALIAS
from urbanwm.registry import DECISION_TAG, Registry
from urbanwm.settings import Settings
from urbanwm.spread import Spread

NOT_CHOSEN = "not chosen"


@dataclass(frozen=True)
class NightTraining:
    """What the candidates of one night became.

    Attributes:
        outcomes: Registered candidates, in the order of the settings.
        chosen: The one that meets the champion.
        lost: Why a candidate was lost, by label.
    """

    outcomes: list[TrainOutcome]
    chosen: TrainOutcome
    lost: dict[str, str] = field(default_factory=dict)


def train_night(
    settings: Settings,
    registry: Registry,
    data: NightData,
    candidates: Sequence[Candidate],
    *,
    spread: Spread,
    folder: Path,
    parent_run_id: str | None,
    tags: dict[str, str],
    say: Progress,
) -> NightTraining:
    """Train all candidates, judge them with champion and baseline on the same origins, and choose one.

    One that fails is reported and the others go on. What is done already, in whatever step an earlier process
    was killed, is not done again.

    Args:
        settings: Where everything is.
        registry: Where the candidates are registered.
        data: The night's data.
        candidates: What to train, at least one.
        spread: Runs the trainings and the forecasts.
        folder: Keeps forecasts and the champion's bundle until the night is over.
        parent_run_id: The night's run.
        tags: Noted on each candidate's run and version.
        say: Told each step as it begins.

    Raises:
        UrbanWMError: No candidate is left: the first one's failure.
    """
    plans = [plan_candidate(candidate, data) for candidate in candidates]
    due = untrained(settings, registry, plans)
    say(f"fitting the direct forecast on {', '.join(data.records)}")
    direct = fit_together(settings, data, due, folder, spread)
    words = _words(folder, due)
    jobs = [
        TrainJob.of(settings, plan, parent_run_id, tags, direct.get(plan.key), words.get(plan.key))
        for plan in plans
    ]
    say(f"training {', '.join(candidate.label for candidate in candidates)} on {', '.join(data.records)}")
    # Trainings first: whoever finds none left helps those that go on.
    work: list[TrainJob | AssistJob] = [*jobs, *map(AssistJob, words.values())]
    results = spread("train", train_or_assist, work)[: len(jobs)]
    lost = losses(results, candidates)
    fresh = [result for result in results if isinstance(result, Trained)]
    tables, champion = _forecasts(settings, registry, data, fresh, folder, spread, say)
    say("trying how the candidates behave")
    bundles = {trained.key: trained.bundle for trained in fresh}
    failures = check_candidates(settings, data.window(), bundles, folder / "behaviour", spread)
    stored = folder / _tables_folder(champion)
    explained = [
        ExplainJob(job, result, stored, _names(tables, plan, fresh), failures[plan.key], champion)
        for job, plan, result in zip(jobs, plans, results, strict=True)
        if isinstance(result, Trained)
    ]
    explain(explained, spread)
    outcomes: list[TrainOutcome] = []
    for job, plan, result in zip(jobs, plans, results, strict=True):
        if isinstance(result, TrainOutcome):
            outcomes.append(result)
        elif isinstance(result, Trained):
            own = {name: tables[kept] for name, kept in _names(tables, plan, fresh).items()}
            outcomes.append(finish_candidate(job, plan, result, own, registry))
    if not outcomes:
        raise next(result for result in results if isinstance(result, UrbanWMError))
    chosen = choose(outcomes)
    _mark(registry, outcomes, chosen)
    return NightTraining(outcomes, chosen, lost)


def _words(folder: Path, plans: Sequence[Plan]) -> dict[str, Path]:
    """Return the file by which each training whose batches have pieces can be found, by its key."""
    words = {
        plan.key: folder / f"assistants-{plan.key}.json"
        for plan in plans
        if plan.experiment.training.pieces > 1
    }
    for word in words.values():
        word.unlink(missing_ok=True)  # of a night that was killed
    return words


def _forecasts(
    settings: Settings,
    registry: Registry,
    data: NightData,
    fresh: Sequence[Trained],
    folder: Path,
    spread: Spread,
    say: Progress,
) -> tuple[dict[str, Any], str | None]:
    """Forecast the held-out origins by the new candidates, the champion and the yardsticks."""
    if not fresh:
        return {}, None
    models = {trained.key: str(trained.bundle) for trained in fresh} | {name: name for name in YARDSTICKS}
    champion = registry.champion()
    if champion is not None:
        try:
            bundle = registry.download(champion, folder / f"champion-{champion.version}")
            Bundle.load(bundle)
            models[CHAMPION] = str(bundle)
        except BundleInvalid:
            # The gate says so in its reasons, and takes the baseline as the rival.
            champion = None
    say("forecasting from held-out origins")
    version = champion.version if champion else None
    tables = held_out_tables(settings, data.window(), models, folder / _tables_folder(version), spread)
    return tables, version


def _tables_folder(champion: str | None) -> str:
    """Return where the night's forecasts lie; another champion asks for other ones."""
    return f"tables-{champion or 'none'}"


def _names(tables: Mapping[str, Any], plan: Plan, fresh: Sequence[Trained]) -> dict[str, str]:
    """Return the tables that a candidate is scored with: its own, the champion's and the yardsticks'."""
    others = {trained.key for trained in fresh}
    return {CHALLENGER: plan.key, **{name: name for name in tables if name not in others}}


def _mark(registry: Registry, outcomes: Sequence[TrainOutcome], chosen: TrainOutcome) -> None:
    """Point the alias at the chosen candidate, and note on the others that they were not."""
    undecided = {item.version for item in registry.list_versions() if not item.tags.get(DECISION_TAG)}
    if chosen.version in undecided:
        registry.set_alias(CHALLENGER_ALIAS, chosen.version)
    for outcome in outcomes:
        if outcome.version != chosen.version and outcome.version in undecided:
            reason = {DECISION_TAG: NOT_CHOSEN, "chosen_instead": chosen.version}
            registry.tag_version(outcome.version, reason)
            registry.run_log(outcome.run_id).set_tags(reason)
