"""The gate's decision carried out: judge on the same hours, record the evidence, move the alias or refuse."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from urbanwm.clock import Clock, utc_now
from urbanwm.errors import BadInput, BundleInvalid, GateRefused
from urbanwm.evaluation.gate import GateDecision, decide
from urbanwm.figures import score_ratios
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline.data import read_window
from urbanwm.pipeline.judge import BACKTEST_SEED, forecast_origins, ratio_rows
from urbanwm.pipeline.train import BASELINE_TABLE, CHALLENGER_TABLE, WINDOW_FILE
from urbanwm.registry import CHALLENGER, ModelVersion, Registry, promote, rollback
from urbanwm.settings import Settings

DECISION_FILE: Final = "gate/decision.json"
CHAMPION_TABLE: Final = "evaluation/champion.parquet"
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
    """Judge a challenger against the present champion and the baseline on the same held-out hours; promote or refuse.

    The champion is forecast again on the challenger's hours (stored scores of different hours are not comparable).
    Evidence is stored on the run and on the version. A decision against the same champion is not made twice.

    Args:
        settings: Where everything is; gives the gate's margin and confidence.
        version: Which version; None: the one with the alias `challenger`.
        override_by: Who promotes against the gate; needs `reason`. A bundle that fails its test is refused anyway.
        reason: Why the gate is overridden.
        clock: Stamps what is logged.

    Raises:
        GateRefused: There is no challenger, or the champion changed meanwhile.
        BundleInvalid: The challenger's bundle is damaged or fails its example.
        BadInput: The version is unknown, or an override lacks name or reason.
    """
    if bool(override_by) != bool(reason):
        raise BadInput("an override needs a name and a reason", field="override_by", allowed="both")
    registry = Registry(settings, clock)
    challenger = registry.version(version) if version else registry.by_alias(CHALLENGER)
    if challenger is None:
        raise GateRefused("there is no challenger to promote: train one first", field="version")
    champion = registry.champion()
    known = _known_outcome(challenger, champion)
    if known is not None and override_by is None:
        return known
    try:
        return _decide_and_act(settings, registry, challenger, champion, override_by, reason)
    except BundleInvalid as error:
        registry.tag_version(challenger.version, {"decision": "refused", "decision_reasons": str(error)})
        raise


def _known_outcome(challenger: ModelVersion, champion: ModelVersion | None) -> PromotionOutcome | None:
    """Return the outcome where the challenger serves already, or was refused against this very champion."""
    if champion is not None and champion.version == challenger.version:
        reasons = [f"version {challenger.version} is the champion already"]
        return PromotionOutcome(challenger.version, champion.version, True, reasons, reused=True)
    present = champion.version if champion else NOBODY
    tags = challenger.tags
    if tags.get("decision") == "refused" and tags.get(DECIDED_AGAINST_TAG) == present:
        reasons = json.loads(tags.get("decision_reasons", "[]"))
        return PromotionOutcome(
            challenger.version, champion.version if champion else None, False, reasons, reused=True
        )
    return None


def _decide_and_act(
    settings: Settings,
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    override_by: str | None,
    reason: str | None,
) -> PromotionOutcome:
    """Gather the forecasts, ask the gate, record, and move the alias where it says so."""
    with tempfile.TemporaryDirectory(prefix="urbanwm-gate-") as scratch:
        folder = Path(scratch)
        smoke_test(registry.download(challenger, folder / "challenger"))
        ours = pd.read_parquet(registry.fetch(challenger.run_id, CHALLENGER_TABLE, folder))
        baseline = pd.read_parquet(registry.fetch(challenger.run_id, BASELINE_TABLE, folder))
        theirs, remark = _champion_forecasts(settings, registry, challenger, champion, folder)
    decision = decide(
        ours, theirs, baseline, margin=settings.gate_margin, confidence=settings.gate_confidence, seed=BACKTEST_SEED
    )
    reasons = [*([remark] if remark else []), *decision.reasons]
    if override_by is not None:
        reasons.append(f"overridden by {override_by}: {reason}")
    _record(registry, challenger, champion, decision, reasons, theirs)
    if not decision.promote and override_by is None:
        present = champion.version if champion else None
        return PromotionOutcome(challenger.version, present, False, reasons, decision.evidence)
    tags = {"overridden_by": override_by, "override_reason": reason} if override_by else {}
    promote(
        registry,
        challenger.version,
        validate=smoke_test,
        expected_champion=champion.version if champion else None,
        tags=tags,
    )
    return PromotionOutcome(
        challenger.version, challenger.version, True, reasons, decision.evidence, overridden_by=override_by
    )


def _champion_forecasts(
    settings: Settings, registry: Registry, challenger: ModelVersion, champion: ModelVersion | None, folder: Path
) -> tuple[pd.DataFrame | None, str | None]:
    """Forecast the challenger's held-out hours by the champion; with a remark where it cannot be loaded."""
    if champion is None:
        return None, None
    window: Mapping[str, Any] = json.loads(
        registry.fetch(challenger.run_id, WINDOW_FILE, folder).read_text("utf-8")
    )
    try:
        bundle = Bundle.load(registry.download(champion, folder / "champion"))
    except BundleInvalid as error:
        return None, f"champion {champion.version} cannot be loaded ({error}): judged against the baseline alone"
    records = read_window(window, settings)
    return (
        forecast_origins(records, WorldModelForecaster(bundle), int(window["horizon_hours"]), BACKTEST_SEED),
        None,
    )


def _record(
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    decision: GateDecision,
    reasons: list[str],
    champion_table: pd.DataFrame | None,
) -> None:
    """Store the evidence on the run and the verdict on the version."""
    verdict = "accepted" if decision.promote else "refused"
    against = champion.version if champion else NOBODY
    run = registry.run_log(challenger.run_id)
    document = {"promote": decision.promote, "reasons": reasons, "evidence": decision.evidence, "champion": against}
    run.log_json(document, DECISION_FILE)
    run.set_tags({"decision": verdict, DECIDED_AGAINST_TAG: against})
    if champion_table is not None:
        run.log_frame(champion_table, CHAMPION_TABLE)
    rows = ratio_rows(decision)
    if rows:
        run.log_figure(score_ratios(rows), "gate/score_ratios.png")
    tags = {"decision": verdict, "decision_reasons": json.dumps(reasons), DECIDED_AGAINST_TAG: against}
    registry.tag_version(challenger.version, tags)


def run_rollback(
    settings: Settings, *, reason: str = "rolled back by hand", clock: Clock = utc_now
) -> dict[str, Any]:
    """Put the previous champion back in service.

    Raises:
        GateRefused: There is no previous champion.
        BundleInvalid: Its bundle is damaged or fails its example.
    """
    registry = Registry(settings, clock)
    before = registry.champion()
    after = rollback(registry, validate=smoke_test, reason=reason)
    return {"champion": after.version, "previous": before.version if before else None, "run_id": after.run_id}


def list_models(settings: Settings) -> list[dict[str, Any]]:
    """Return the registered versions as plain data, newest first; empty where there is no registry yet."""
    registry = Registry(settings)
    return [item.to_dict() for item in registry.list_versions()] if registry.exists else []
