"""The monitoring flow: what it shows on its page, and that it turns red while promotion is held back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from urbanwm.monitoring import FeedAge, LiveScore, MonitorReport, make_alert
from urbanwm.pipeline import monitor_log
from urbanwm.pipeline.monitor_log import log_monitor
from urbanwm.registry import Registry, find_runs
from urbanwm.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NOW = datetime(2026, 4, 20, 4, 30, tzinfo=UTC)
FEEDS = [FeedAge("demo", "pm25", 2.0)]
SCORES = [LiveScore("demo", "pm25", "all", "champion", 3.0, 2.0, 0.9, 48, 2)]


@pytest.fixture
def page(monkeypatch):
    """Replace the artifacts by a list of what was shown."""
    from flows import monitor as module

    shown: dict[str, object] = {}
    monkeypatch.setattr(
        module, "create_markdown_artifact", lambda text, key, description: shown.update({key: text})
    )
    monkeypatch.setattr(
        module, "create_table_artifact", lambda rows, key, description: shown.update({key: rows})
    )
    return module, shown


def test_a_healthy_run_shows_scores_and_feeds(page, monkeypatch):
    module, shown = page
    report = MonitorReport(NOW, ["demo"], "3", live=SCORES, freshness=FEEDS)
    monkeypatch.setattr(module, "monitor_task", lambda names, as_of: report)
    assert module.monitor.fn(["demo"]) is report
    assert "Nothing is wrong." in shown["monitor"]
    assert shown["live-skill"][0]["mae"] == 3.0
    assert shown["feeds"][0]["age_hours"] == 2.0


def test_a_run_is_red_while_promotion_is_held_back(page, monkeypatch):
    module, shown = page
    alert = make_alert("unit_change", "jumped by 10", city="demo", signal="pm25")
    report = MonitorReport(NOW, ["demo"], "3", [alert])
    monkeypatch.setattr(module, "monitor_task", lambda names, as_of: report)
    state = module.monitor.fn(["demo"])
    assert state.is_failed()
    assert "demo pm25: jumped by 10" in state.message
    assert set(shown) == {"monitor"}


def test_scores_become_one_series_in_the_tracker_and_a_repetition_adds_nothing(tmp_path):
    settings = load_settings(home=tmp_path, tracking_uri=f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    report = MonitorReport(NOW, ["demo"], "3", live=SCORES, freshness=FEEDS)
    assert not log_monitor(settings, report)
    registry = Registry(settings)
    assert registry.list_versions() == []
    assert log_monitor(settings, report)
    assert not log_monitor(settings, report)
    tomorrow = MonitorReport(NOW.replace(day=21), ["demo"], "3", live=SCORES, freshness=FEEDS)
    assert log_monitor(settings, tomorrow)
    (run,) = find_runs(registry, monitor_log.STAGE)
    history = registry.client.get_metric_history(run.run_id, "live/champion/pm25/mae")
    assert [item.step for item in history] == [NOW.toordinal(), NOW.toordinal() + 1]
    assert run.status == "FINISHED"
