"""The report of one night, put together from the night's account, the monitoring, and the lake."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from urbanwm.monitoring import MonitorReport
from urbanwm.report.document import FIGURES, Document, Tone, to_html, to_markdown
from urbanwm.report.sections import (
    account_section,
    alert_section,
    candidate_section,
    drift_section,
    facts,
    gate_section,
    intake_section,
    lead,
    live_section,
)
from urbanwm.report.views import city_views, forecast_section, quality_section
from urbanwm.settings import Settings
from urbanwm.spread import Spread, serial
from urbanwm.whole_file import written_whole

HTML_FILE: Final = "night.html"
MARKDOWN_FILE: Final = "night.md"
TONES: Final[dict[str, Tone]] = {
    "done": "good",
    "nothing new": "plain",
    "busy": "plain",
    "held": "critical",
    "failed": "critical",
}


def write_night_report(
    settings: Settings,
    night: Mapping[str, Any],
    monitor: MonitorReport | None = None,
    spread: Spread = serial,
) -> Path:
    """Write a night's report as HTML and Markdown, and return the HTML file.

    Written again, it replaces the report of the same date. What is missing in the account is left out, so a
    night that failed early has a report too.

    Args:
        settings: Where the lake, the stored forecasts and the reports are.
        night: The night's account as `NightReport.to_dict` gives it.
        monitor: What the monitoring found; None where it did not run.
        spread: Draws the cities.

    Raises:
        OSError: The disk does not take the report.
    """
    given = night["as_of"]
    as_of = given if isinstance(given, datetime) else datetime.fromisoformat(given)
    views = city_views(settings, night, as_of, spread)
    document = Document(
        title=f"Night of {as_of:%Y-%m-%d}",
        status=str(night.get("status", "unknown")),
        tone=TONES.get(str(night.get("status")), "plain"),
        lead=lead(night),
        facts=facts(night, monitor),
        sections=[
            section
            for section in (
                alert_section(night, monitor),
                intake_section(night),
                quality_section(night, monitor, views),
                candidate_section(night),
                gate_section(night),
                forecast_section(views),
                live_section(monitor),
                drift_section(monitor),
                account_section(night),
            )
            if section.blocks
        ],
    )
    folder = settings.reports_dir / as_of.date().isoformat()
    for item in document.pictures():
        _put(folder / FIGURES / f"{item.name}.svg", item.svg)
    _put(folder / MARKDOWN_FILE, to_markdown(document))
    _put(folder / HTML_FILE, to_html(document))
    return folder / HTML_FILE


def _put(target: Path, text: str) -> None:
    """Write a file in one step."""
    with written_whole(target) as draft:
        draft.write_text(text, "utf-8")
