"""The nightly report: one page with everything in it, also of a night that failed early."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime
from html.parser import HTMLParser

import pandas as pd
import pytest

from tests.toy_city import END, toy_history
from tests.unit.test_monitoring_live import forecast
from urbanwm.monitoring import DayScore, DriftScore, FeedAge, LiveScore, MonitorReport, make_alert
from urbanwm.monitoring.live import BASELINE, CHAMPION
from urbanwm.monitoring.stored import ForecastStore
from urbanwm.report import views as views_module
from urbanwm.report import write_night_report
from urbanwm.report.document import Document, Section, Table, Text, to_html, to_markdown
from urbanwm.settings import load_settings

INTERVAL = {"ratio": 0.95, "low": 0.91, "high": 0.99, "harm_low": 0.93}
TRAINED = {
    "version": "8",
    "experiment": "urban",
    "label": "warm start",
    "validation": 0.4,
    "metrics": {"test/pm25/mae": 3.5, "skill/pm25/all": 0.22},
}
NIGHT = {
    "as_of": END.isoformat(),
    "status": "done",
    "ingest": [
        {"city": "demo", "inserted": 24, "updated": 1, "errors": ["waqi: <maintenance>"], "dropped": {}}
    ],
    "candidates": [TRAINED],
    "lost": {"tuned": "TrainingDiverged: NaN at step 17"},
    "training": TRAINED,
    "promotion": {
        "version": "8",
        "champion": "8",
        "promoted": True,
        "reasons": ["better than the champion"],
        "evidence": {"against": {"champion": {"overall": INTERVAL, "signals": {"demo/pm25": INTERVAL}}}},
    },
    "rollback": None,
    "notes": [],
    "errors": [],
    "seconds": {"ingest": 2.0, "train": 100.0},
    "run_id": "abc",
}
MONITOR = MonitorReport(
    END,
    ["demo"],
    "8",
    [make_alert("unit_change", "jumped by 10", city="demo", signal="pm25")],
    [LiveScore("demo", "pm25", "all", name, 3.0, 2.0, 0.9, 48, 2) for name in (CHAMPION, BASELINE)],
    [DayScore("demo", date(2026, 3, day), "8", 0.9, {"pm25": 0.9}) for day in (1, 2)],
    [FeedAge("demo", "pm25", 2.0), FeedAge("demo", "traffic_index", None)],
    [DriftScore("demo", "pm25", 0.1, 1.2, 3.5, 7)],
)


class FakeLake:
    """A lake of one city in memory."""

    def read(self, city, *, start=None, end=None, signals=None):
        frame = toy_history(days=10)
        return frame[(frame.index >= start) & (frame.index < end)].reindex(columns=signals or list(frame))


class Balance(HTMLParser):
    """Checks that what is opened is closed, and collects what the page would load."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in {"src", "href"} and value]
        if tag not in {"meta", "wbr", "br", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in {"src", "href"} and value]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(views_module, "lake_of", lambda settings: FakeLake())
    return load_settings(home=tmp_path)


@pytest.fixture
def stored(settings):
    store = ForecastStore(settings.forecasts_dir)
    for model, version in ((CHAMPION, "8"), (BASELINE, "1")):
        table = forecast(model, version, origin=END).assign(made_at=pd.Timestamp(END))
        store.put(table, "demo", END, model, version)


def test_the_page_holds_everything_and_loads_nothing(settings, stored):
    path = write_night_report(settings, NIGHT, MONITOR)
    page = path.read_text("utf-8")
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert all(address.startswith("#") for address in balance.loads)
    assert page.count("<svg") == len(list((path.parent / "figures").glob("*.svg"))) == 4
    for heading in ("Alerts", "What came in", "Data quality", "Candidates", "Gate", "Forecast", "Live skill"):
        assert f"<h2>{heading}</h2>" in page
    assert "Version 8 is in service" in page
    assert "This forbids promotion. What to do: docs/runbook.md#unit_change" in page


def test_what_others_wrote_cannot_become_markup(settings):
    page = write_night_report(settings, NIGHT, MONITOR).read_text("utf-8")
    assert "waqi: &lt;maintenance&gt;" in page
    assert "<maintenance>" not in page


def test_the_markdown_says_the_same_and_its_pictures_are_there(settings, stored):
    folder = write_night_report(settings, NIGHT, MONITOR).parent
    text = (folder / "night.md").read_text("utf-8")
    assert "| warm start | 8 | 3.5 (+22%) |" in text
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) == 4
    assert all((folder / name).is_file() for name in pictures)


def test_a_night_that_failed_early_has_a_report_too(settings):
    night = {
        "as_of": datetime(2026, 3, 2, 4, tzinfo=UTC),
        "status": "failed",
        "errors": ["OSError: No space left"],
    }
    page = write_night_report(settings, night).read_text("utf-8")
    assert "OSError: No space left" in page
    assert "The monitoring did not run." in page


def test_a_quiet_night_says_that_nothing_is_wrong(settings):
    page = write_night_report(settings, NIGHT, replace(MONITOR, alerts=[])).read_text("utf-8")
    assert "Nothing is wrong." in page


@pytest.mark.slow
def test_the_same_night_gives_the_same_bytes(settings, stored):
    first = write_night_report(settings, NIGHT, MONITOR)
    before = first.read_bytes()
    assert write_night_report(settings, NIGHT, MONITOR) == first
    assert first.read_bytes() == before


def test_a_disk_that_takes_nothing_raises_and_leaves_no_draft(settings, monkeypatch):
    from pathlib import Path

    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_night_report(settings, NIGHT, MONITOR)
    assert [path for path in settings.reports_dir.rglob("*") if path.is_file()] == []


def test_numbers_stand_right_and_words_left():
    document = Document(
        "t", "done", "good", "l", [], [Section("s", [Table(["name", "value"], [["a|b", 1234.5]]), Text("x")])]
    )
    assert '<th class="number">value</th>' in to_html(document)
    assert "| a/b | 1,234 |" in to_markdown(document)
