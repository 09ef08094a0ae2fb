"""What should have come and has not is said once, and shown for as long as it lasts."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from serving import alarms as module
from serving import metrics
from serving.alarms import NIGHT_LIMIT_HOURS, Alarms
from serving.metrics import LAST_NIGHT
from tests.serving_fakes import NOW, cached, history, serving
from urbanwm.last_night import LastNight, write_last_night
from urbanwm.settings import load_settings

NIGHT_LIMIT = timedelta(hours=NIGHT_LIMIT_HOURS)
RULES = Path(__file__).resolve().parents[2] / "infra" / "prometheus" / "rules.yml"


def night(succeeded_at: datetime | None) -> LastNight:
    return LastNight(NOW, NOW, "done", ["lahore"], succeeded_at=succeeded_at)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "log", structlog.get_logger())
    with capture_logs() as noted:
        yield noted


def test_a_night_within_its_limit_sounds_no_alarm(lines: list) -> None:
    alarms = Alarms(lambda: night(NOW - NIGHT_LIMIT), lambda: NOW)
    alarms.look({"lahore": {"pm25": 1.0}})
    told = alarms.describe()
    assert told["alarms"] == lines == []
    assert told["last_night"]["succeeded_at"] == NOW - NIGHT_LIMIT
    assert told["data_age_hours"] == {"lahore": {"pm25": 1.0}}
    assert LAST_NIGHT._value.get() == (NOW - NIGHT_LIMIT).timestamp()


def test_an_overdue_night_is_said_once_and_shown_until_one_succeeds(lines: list) -> None:
    records = [night(NOW - NIGHT_LIMIT - timedelta(minutes=1))] * 3 + [night(NOW)]
    alarms = Alarms(lambda: records.pop(0), lambda: NOW)
    for _ in range(3):
        alarms.look({})
        assert "no night has succeeded since" in alarms.describe()["alarms"][0]
    alarms.look({})
    assert alarms.describe()["alarms"] == []
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("overdue", "warning"),
        ("no_longer_overdue", "info"),
    ]


@pytest.mark.parametrize("record", [None, night(None)])
def test_no_success_on_record_is_an_alarm_too(record: LastNight | None) -> None:
    alarms = Alarms(lambda: record, lambda: NOW)
    alarms.look({})
    assert alarms.describe()["alarms"] == ["no night is known to have succeeded"]


def test_old_data_are_named_by_city_and_signal_and_an_auxiliary_signal_is_not() -> None:
    alarms = Alarms(lambda: night(NOW), lambda: NOW)
    alarms.look({"lahore": {"pm25": 80.0, "energy_mwh": float("inf"), "temperature_c": 900.0}})
    told = alarms.describe()
    assert told["alarms"] == ["lahore: pm25, energy_mwh older than 72 h"]
    assert told["data_age_hours"]["lahore"]["energy_mwh"] is None


def test_the_service_shows_it_in_health(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history()) as world:
        world.answers.look()
        told = world.client.get("/api/health").json()
        assert told["status"] == "ok"
        assert told["alarms"] == ["no night is known to have succeeded"]
        assert told["last_night"] is None


def test_the_record_that_a_night_leaves_is_the_one_that_is_read(tmp_path: Path) -> None:
    from functools import partial

    from urbanwm.last_night import read_last_night

    settings = load_settings(home=tmp_path)
    alarms = Alarms(partial(read_last_night, settings), lambda: NOW)
    write_last_night(settings, night(NOW))
    alarms.look({})
    assert alarms.describe()["last_night"]["as_of"] == NOW


def test_every_metric_that_an_alert_rule_asks_for_exists() -> None:
    asked = set(re.findall(r"\burbanwm_\w+", RULES.read_text()))
    text = metrics.render_metrics().decode()
    shown = set(re.findall(r"^# HELP (\w+)", text, re.MULTILINE))
    defined = {collector._name for collector in vars(metrics).values() if hasattr(collector, "_name")}
    known = {
        name + suffix for name in shown | defined for suffix in ("", "_total", "_bucket", "_count", "_sum")
    }
    assert asked <= known
