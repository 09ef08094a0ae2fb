"""One night in one document: for a terminal, for the orchestrator's page, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from urbanwm.pipeline.intake import CityIngest
from urbanwm.pipeline.outcome import TrainOutcome
from urbanwm.pipeline.promote import PromotionOutcome

HEADLINE_SCORES: Final = ("/mae", "/all")
"""Scores that a report shows; the run has them all, by lead."""
Status = Literal["done", "nothing new", "held", "failed", "busy"]
EXIT_HELD: Final = 3
"""Exit code of a night whose data must not be learnt from: data not available."""


@dataclass(frozen=True)
class NightReport:
    """One night in one document.

    Attributes:
        as_of: The time for which it ran, UTC.
        status: "done"; "nothing new": all of it had been done before; "held": the data checks forbid learning
            from tonight's data; "failed"; "busy": another run works.
        ingest: Per city.
        candidates: Every registered candidate of the night.
        lost: Why a candidate was lost, by label.
        training: The candidate that met the champion, or None.
        promotion: What became of it, or None.
        rollback: What live skill made of the champion, or None where nothing was to be done.
        alerts: What the data checks and the monitoring found, as `Alert.to_dict`.
        notes: What was left out on purpose, one sentence each.
        errors: What went wrong, one sentence each.
        seconds: Wall time by step.
        run_id: The night's MLflow run, or None where nothing was trained.
        report: The written page, `report.html`, or None.
        exit_code: 0, or that of the error that ended the night.
    """

    as_of: datetime
    status: Status
    ingest: list[CityIngest] = field(default_factory=list)
    candidates: list[TrainOutcome] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    training: TrainOutcome | None = None
    promotion: PromotionOutcome | None = None
    rollback: Mapping[str, Any] | None = None
    alerts: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    report: str | None = None
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"as_of": self.as_of.isoformat()}

    @property
    def decision(self) -> str:
        """Return in one sentence what became of the candidates."""
        if self.promotion is None:
            return "; ".join(self.notes or self.errors) or "nothing was decided"
        verdict = "promoted" if self.promotion.promoted else "refused"
        return f"version {self.promotion.version} {verdict}: {'; '.join(self.promotion.reasons)}"

    def leaderboard(self) -> list[dict[str, Any]]:
        """Return one row per candidate, best first: how it was trained, and its scores."""
        chosen = self.training.version if self.training else None
        rows = [
            {
                "candidate": item.label or item.experiment,
                "version": item.version,
                "start": f"version {item.start}" if item.start else "random",
                "validation": item.validation,
                "chosen": item.version == chosen,
                **{
                    name: value
                    for name, value in sorted(item.metrics.items())
                    if name.startswith(("test/", "skill/")) and name.endswith(HEADLINE_SCORES)
                },
            }
            for item in self.candidates
        ]
        return sorted(rows, key=lambda row: (not row["chosen"], row["validation"] or 0.0))

    def text(self) -> str:
        """Return the report for a terminal."""
        lines = [f"night of {self.as_of:%Y-%m-%d %H:%M} UTC: {self.status}"]
        for city in self.ingest:
            lines.append(f"  {city.city}: {city.inserted} rows new, {city.updated} corrected")
            lines += [f"    failed: {error}" for error in city.errors]
        for item in self.candidates:
            score = "" if item.validation is None else f", validation {item.validation:.4f}"
            how = "already trained" if item.reused else "trained"
            lines.append(f"  candidate {item.label or item.experiment}: version {item.version}, {how}{score}")
        lines += [f"  candidate {label} was lost: {error}" for label, error in self.lost.items()]
        if self.training is not None:
            how = "already trained" if self.training.reused else "trained"
            lines.append(f"  model version {self.training.version} ({self.training.experiment}): {how}")
            lines += [
                f"    {name}: {value:.4g}"
                for name, value in sorted(self.training.metrics.items())
                if name.endswith(HEADLINE_SCORES)
            ]
        if self.promotion is not None:
            verdict = "in service" if self.promotion.promoted else "refused"
            lines.append(f"  gate: version {self.promotion.version} {verdict}")
            lines += [f"    {reason}" for reason in self.promotion.reasons]
        if self.rollback is not None:
            lines.append(
                f"  live skill: {self.rollback['reason']}; version {self.rollback['serving']} serves"
            )
        for alert in self.alerts:
            place = " ".join(filter(None, (alert["key"], alert["city"], alert["signal"])))
            lines.append(f"  {alert['severity']}: {place}: {alert['message']}")
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  error: {error}" for error in self.errors]
        if self.report is not None:
            lines.append(f"  report: {self.report}")
        if self.seconds:
            lines.append(
                "  " + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in self.seconds.items())
            )
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the report as Markdown, as the orchestrator shows it."""
        head = f"## Night of {self.as_of:%Y-%m-%d}: {self.status}"
        rows = [
            f"| {c.city} | {c.inserted} | {c.updated} | {'; '.join(c.errors) or '-'} |" for c in self.ingest
        ]
        table = ["| city | new rows | corrected | failed sources |", "|---|---|---|---|", *rows]
        body = "\n".join(line.strip() for line in self.text().splitlines()[1:])
        return "\n".join([head, "", *table, "", "```", body, "```"])
