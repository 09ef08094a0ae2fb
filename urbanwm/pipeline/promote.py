"""The gate's decision carried out: judge on the same hours, record the evidence, move the alias or refuse."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from urbanwm.clock import Clock, utc_now
from urbanwm.errors import BadInput, BundleInvalid, GateRefused
from urbanwm.evaluation.gate import GateDecision, decide
from urbanwm.evaluation.stamps import Stamps
from urbanwm.figures import score_ratios
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline.data import read_window
from urbanwm.pipeline.evaluation import BEHAVIOUR_FILE, BEHAVIOUR_TAG, JUDGED_TAG, table_path
from urbanwm.pipeline.evaluation import CHALLENGER as CHALLENGER_TABLE
from urbanwm.pipeline.evaluation import CHAMPION as CHAMPION_TABLE
from urbanwm.pipeline.forecasts import BASELINE, held_out_tables
from urbanwm.pipeline.judge import SEED, behaviour_failures
from urbanwm.pipeline.training_log import WINDOW_FILE
from urbanwm.registry import (
    CHALLENGER,
    DECISION_TAG,
    REFUSED,
    ROLLED_BACK,
    ChampionCache,
    ModelVersion,
    Registry,
    promote,
    read_run,
    rollback,
)
from urbanwm.settings import Settings
from urbanwm.spread import serial

DECISION_FILE: Final = "gate/decision.json"
RATIO_FIGURE: Final = "gate/score_ratios.png"
DECIDED_AGAINST_TAG: Final = "decided_against"
NOBODY: Final = "none"


@dataclass(frozen=True)
class PromotionOutcome:
    """What became of a challenger.

    Attributes:
        version: The challenger.
        champion: The champion afterwards, or None.
        promoted: Whether the challenger is in service now.
        reasons: Why, one sentence each.
        evidence: The figures behind the reasons.
        reused: Whether the decision was made by an earlier call against the same champion.
        overridden_by: Who promoted against the gate, or None.
    """

    version: str
    champion: str | None
    promoted: bool
    reasons: list[str]
    evidence: dict[str, Any] = field(default_factory=dict)
    reused: bool = False
    overridden_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def smoke_test(folder: Path) -> None:
    """Load a bundle as the service does and run its stored example.

    Raises:
        BundleInvalid: It must not serve.
    """
    Bundle.load(folder).smoke_test()


def run_promote(
    settings: Settings,
    *,
    version: str | None = None,
    override_by: str | None = None,
    reason: str | None = None,
    clock: Clock = utc_now,
) -> PromotionOutcome:
    """Judge a challenger against champion and baseline on the same held-out hours; promote it or refuse.

    The champion is forecast again on the challenger's hours: stored scores of other hours do not compare. The
    evidence is stored on the run and on the version. A decision against the same champion is not made twice.

    Args:
        settings: Where everything is; gives the gate's margin and confidence.
        version: Which version; None: the one with the alias `challenger`.
        override_by: Who promotes against the gate. A bundle that fails its own example is refused anyway.
        reason: Why the gate is overridden; needed with `override_by`.
        clock: Stamps what is logged.

    Raises:
        GateRefused: There is no challenger, or the champion changed meanwhile.
        BundleInvalid: The challenger's bundle is damaged or fails its example.
        BadInput: The version is unknown, or an override lacks name or reason.
    """
    if bool(override_by) != bool(reason):
        raise BadInput("an override needs a name and a reason", field="override_by", allowed="both")
    registry = Registry(settings, clock)
    challenger = _challenger(registry, version)
    champion = registry.champion()
    known = _known_outcome(challenger, champion)
    if known is not None and (known.promoted or override_by is None):
        return known
    try:
        decision = _judge(settings, registry, challenger, champion)
    except BundleInvalid as error:
        _note_refusal(registry, challenger, champion, [f"the bundle must not serve: {error}"])
        raise
    present = champion.version if champion else None
    reasons = list(decision.reasons)
    if override_by is not None:
        reasons.append(f"the gate was overridden by {override_by}: {reason}")
    elif not decision.promote:
        _note_refusal(registry, challenger, champion, reasons)
        return PromotionOutcome(challenger.version, present, False, reasons, decision.evidence)
    tags = {"decision_reasons": json.dumps(reasons), DECIDED_AGAINST_TAG: present or NOBODY}
    if override_by is not None:
        tags |= {"overridden_by": override_by}
    promote(registry, challenger.version, validate=smoke_test, expected_champion=present, tags=tags)
    registry.run_log(challenger.run_id).set_tags({"decision": "promoted"})
    cached = ChampionCache(settings.cache_dir, registry).sync()
    if decision.promote and cached is not None and cached.version == challenger.version:
        # The gate has just run the suite: a service of this machine need not, and is ready sooner.
        Stamps(settings.cache_dir).add(cached.digest)
    return PromotionOutcome(
        challenger.version, challenger.version, True, reasons, decision.evidence, overridden_by=override_by
    )


def _challenger(registry: Registry, version: str | None) -> ModelVersion:
    """Return the version to judge.

    Raises:
        GateRefused: None was named, and no version has the alias.
    """
    found = registry.version(version) if version else registry.by_alias(CHALLENGER)
    if found is None:
        raise GateRefused("there is no challenger to promote: train one first", field="version")
    return found


def _known_outcome(challenger: ModelVersion, champion: ModelVersion | None) -> PromotionOutcome | None:
    """Return the outcome where nothing is left to decide.

    The challenger serves already, was refused against this very champion, or was rolled back: what a person
    took out of service comes back by override only.
    """
    present = champion.version if champion else None
    if present == challenger.version:
        reasons = [f"version {challenger.version} is the champion already"]
        return PromotionOutcome(challenger.version, present, True, reasons, reused=True)
    tags = challenger.tags
    if tags.get(DECISION_TAG, "").startswith(ROLLED_BACK):
        reasons = [f"version {challenger.version} was taken out of service ({tags[DECISION_TAG]})"]
        return PromotionOutcome(challenger.version, present, False, reasons, reused=True)
    if tags.get(DECISION_TAG) == REFUSED and tags.get(DECIDED_AGAINST_TAG) == (present or NOBODY):
        reasons = json.loads(tags["decision_reasons"])
        return PromotionOutcome(challenger.version, present, False, reasons, reused=True)
    return None


def _judge(
    settings: Settings, registry: Registry, challenger: ModelVersion, champion: ModelVersion | None
) -> GateDecision:
    """Gather forecasts and behaviour of both, ask the gate, and store its evidence on the challenger's run.

    Raises:
        BundleInvalid: The challenger's bundle is damaged or fails its example.
    """
    with tempfile.TemporaryDirectory(prefix="urbanwm-gate-") as scratch:
        folder = Path(scratch)
        bundle = Bundle.load(registry.download(challenger, folder / "challenger"))
        bundle.smoke_test()
        window = json.loads(registry.fetch(challenger.run_id, WINDOW_FILE, folder).read_text("utf-8"))
        ours = _stored_table(registry, challenger, CHALLENGER_TABLE, folder)
        baseline = _stored_table(registry, challenger, BASELINE, folder)
        failures = _behaviour(settings, registry, challenger, bundle, window, folder)
        theirs, remarks = _champion_forecasts(settings, registry, challenger, champion, window, folder)
    decision = decide(
        ours,
        theirs,
        baseline,
        margin=settings.gate_margin,
        confidence=settings.gate_confidence,
        seed=SEED,
        behaviour_failures=failures,
    )
    decision = replace(decision, reasons=[*remarks, *decision.reasons])
    run = registry.run_log(challenger.run_id)
    run.log_json(asdict(decision) | {"champion": champion.version if champion else NOBODY}, DECISION_FILE)
    run.log_figure(score_ratios(_ratio_rows(decision)), RATIO_FIGURE)
    return decision


def _stored_table(registry: Registry, version: ModelVersion, name: str, folder: Path) -> pd.DataFrame:
    """Read the forecasts that were stored when the version was judged."""
    return pd.read_parquet(registry.fetch(version.run_id, table_path(name), folder))


def _behaviour(
    settings: Settings,
    registry: Registry,
    version: ModelVersion,
    bundle: Bundle,
    window: Mapping[str, Any],
    folder: Path,
) -> list[str]:
    """Return what the behaviour suite found when the candidate was judged; of an older one, what it finds."""
    if BEHAVIOUR_TAG not in read_run(registry, version.run_id).tags:
        return behaviour_failures(read_window(window, settings), WorldModelForecaster(bundle))
    stored = registry.fetch(version.run_id, BEHAVIOUR_FILE, folder).read_text("utf-8")
    failures: list[str] = json.loads(stored)["failures"]
    return failures


def _champion_forecasts(
    settings: Settings,
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    window: Mapping[str, Any],
    folder: Path,
) -> tuple[pd.DataFrame | None, list[str]]:
    """Return the champion's forecasts of the challenger's held-out hours.

    The night stored them beside the challenger's where this champion served already; otherwise they are made
    now. A champion that cannot be loaded leaves a remark, and the baseline as only rival.
    """
    if champion is None:
        return None, []
    if read_run(registry, challenger.run_id).tags.get(JUDGED_TAG) == champion.version:
        return _stored_table(registry, challenger, CHAMPION_TABLE, folder), []
    try:
        bundle = registry.download(champion, folder / CHAMPION_TABLE / "bundle")
        models = {CHAMPION_TABLE: str(bundle)}
        table = held_out_tables(settings, window, models, folder / "tables", serial)[CHAMPION_TABLE]
    except BundleInvalid as error:
        return None, [f"champion {champion.version} cannot be loaded, so the baseline is the rival: {error}"]
    run = registry.run_log(challenger.run_id)
    run.log_frame(table, table_path(CHAMPION_TABLE))
    run.set_tags({JUDGED_TAG: champion.version})
    return table, []


def _ratio_rows(decision: GateDecision) -> list[dict[str, Any]]:
    """Return the rows of the evidence figure: overall and per signal, against each rival."""
    rows = []
    for rival, compared in decision.evidence["against"].items():
        for name, interval in {"overall": compared["overall"], **compared["signals"]}.items():
            rows.append({"label": f"{name} vs {rival}", **interval})
    return rows


def _note_refusal(
    registry: Registry, challenger: ModelVersion, champion: ModelVersion | None, reasons: list[str]
) -> None:
    """Store a refusal on the version and on its run, so that it is not judged against this champion again."""
    against = champion.version if champion else NOBODY
    tags = {"decision_reasons": json.dumps(reasons), DECIDED_AGAINST_TAG: against, DECISION_TAG: REFUSED}
    # The decision comes last: a process killed before it leaves a version that counts as not judged.
    registry.tag_version(challenger.version, tags)
    registry.run_log(challenger.run_id).set_tags({"decision": REFUSED})


def run_rollback(
    settings: Settings,
    *,
    reason: str = "rolled back by hand",
    expected_champion: str | None = None,
    clock: Clock = utc_now,
) -> dict[str, Any]:
    """Put the previous champion back in service.

    Args:
        settings: Where everything is.
        reason: Noted on the version that leaves and on its run.
        expected_champion: The version that is to leave; None: whichever serves.
        clock: Stamps what is logged.

    Raises:
        GateRefused: There is no previous champion, or another version serves by now.
        BundleInvalid: Its bundle is damaged or fails its example.
    """
    registry = Registry(settings, clock)
    before = registry.champion()
    after = rollback(registry, validate=smoke_test, reason=reason, expected_champion=expected_champion)
    if before is not None:
        registry.run_log(before.run_id).set_tags({"decision": f"{ROLLED_BACK}: {reason}"})
    ChampionCache(settings.cache_dir, registry).sync()
    return {"champion": after.version, "previous": before.version if before else None, "run_id": after.run_id}


def list_models(settings: Settings) -> list[dict[str, Any]]:
    """Return the registered versions as plain data, newest first; empty where there is no registry yet."""
    registry = Registry(settings)
    return [item.to_dict() for item in registry.list_versions()] if registry.exists else []
