"""What one sees of a night on its run's page: progress, the decision, tables, and where the rest is."""

from __future__ import annotations

from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from urbanwm.pipeline import NightReport
from urbanwm.settings import Settings

STEPS_OF_A_NIGHT = 7
"""Lines that `run_nightly` says on a night with everything in it; the bar is an estimate."""
ALL = 100.0


class ProgressPage:
    """Shows each step as it begins: a line in the log, and a bar on the page."""

    def __init__(self) -> None:
        """Put an empty bar on the page."""
        self._log = get_run_logger()
        self._begun = 0
        self._bar: UUID = create_progress_artifact(0.0, key="night-progress", description="Waiting")

    def say(self, line: str) -> None:
        """Show what begins now."""
        self._log.info(line)
        self._begun += 1
        share = min(self._begun / (STEPS_OF_A_NIGHT + 1), 1.0)
        update_progress_artifact(self._bar, ALL * share, description=line)

    def close(self) -> None:
        """Fill the bar: the night has ended, well or not."""
        update_progress_artifact(self._bar, ALL, description="ended")


def publish(report: NightReport, settings: Settings) -> None:
    """Show the report: the text, data, candidates, scores, the gate's decision, and links to the figures."""
    create_markdown_artifact(report.markdown(), key="night-report", description="What this night did")
    if report.ingest:
        data = [
            {"city": city.city, "new": city.inserted, "corrected": city.updated, "failed": len(city.errors)}
            for city in report.ingest
        ]
        create_table_artifact(data, key="data", description="What the ingest brought, rows")
    if report.candidates:
        create_table_artifact(report.leaderboard(), key="leaderboard", description="The night's candidates")
    if report.training is not None:
        rows = [{"score": name, "value": value} for name, value in sorted(report.training.metrics.items())]
        create_table_artifact(
            rows, key="scores", description=f"Held-out scores of version {report.training.version}"
        )
    if report.promotion is not None:
        reasons = "\n".join(f"- {reason}" for reason in report.promotion.reasons)
        verdict = "promoted" if report.promotion.promoted else "refused"
        create_markdown_artifact(
            f"### Version {report.promotion.version}: {verdict}\n\n{reasons}",
            key="gate-decision",
            description="What the gate decided, and why",
        )
    _links(report, settings)


def _links(report: NightReport, settings: Settings) -> None:
    """Lead to the pictures: the tracker's run where it has a page, the written report where there is one."""
    if report.training is not None and settings.tracking_uri.startswith("http"):
        address = f"{settings.tracking_uri.rstrip('/')}/#/experiments/1/runs/{report.training.run_id}"
        create_link_artifact(address, key="mlflow-run", link_text="figures, gate evidence, model card")
    if report.report is not None:
        create_link_artifact(f"file://{report.report}", key="written-report", link_text="the nightly report")
