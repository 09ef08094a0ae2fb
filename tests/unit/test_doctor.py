"""The doctor: which sources answer, and what a city needs and does not have. Upstream is a local server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pydantic import SecretStr

from urbanwm.cities import City, Location
from urbanwm.doctor import DISK_FREE_MIN_GB, examine
from urbanwm.settings import Settings
from urbanwm.sources import open_meteo, probe, waqi
from urbanwm.sources.http import DEFAULT_POLITENESS, Politeness, get, patience

NOW = datetime(2026, 3, 10, 12, 30, tzinfo=UTC)
DAY = NOW - timedelta(days=probe.SETTLED_DAYS)
SECRET = "a-key-that-must-not-show"


class Upstream(BaseHTTPRequestHandler):
    """Answers with whatever the test put there; remembers the questions."""

    status, body, asked = 200, b"{}", []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Upstream]]:
    """Serve both sources of the test city on the loopback interface."""
    handler = type("Handler", (Upstream,), {"asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(open_meteo, "ENDPOINTS", dict.fromkeys(open_meteo.ENDPOINTS, f"{url}/v1"))
    monkeypatch.setattr(waqi, "FEED_URL", f"{url}/feed")
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings with one city that has two sources of PM2.5 and one of temperature."""
    (tmp_path / "cities").mkdir()
    (tmp_path / "cities" / "porto.yaml").write_text(
        "name: porto\ntimezone: UTC\nlocation: {latitude: 41.15, longitude: -8.61}\n"
        "signals:\n  pm25: [{source: waqi}, {source: open_meteo, product: air_quality}]\n"
        "  temperature_c: [{source: open_meteo}]\n"
    )
    monkeypatch.setenv("URBANWM_CITIES", str(tmp_path / "cities"))
    monkeypatch.setenv("URBANWM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WAQI_TOKEN", raising=False)
    return Settings()


def weather(hours: int = 24) -> bytes:
    stamps = [f"{DAY + timedelta(hours=hour):%Y-%m-%dT%H:00}" for hour in range(hours)]
    return json.dumps(
        {
            "latitude": 41.1,
            "longitude": -8.6,
            "utc_offset_seconds": 0,
            "hourly_units": {"temperature_2m": "°C", "pm2_5": "µg/m³"},
            "hourly": {"time": stamps, "temperature_2m": [9.0] * hours, "pm2_5": [12.0] * hours},
        }
    ).encode()


def look(settings: Settings, **options: object) -> dict:
    report = examine(settings, ["porto"], lambda: NOW, **options)
    json.dumps(report, allow_nan=False)
    return report


def states(report: dict) -> dict[tuple[str, str], str]:
    return {(p["signal"], p["label"]): p["state"] for p in report["cities"]["porto"]["probes"]}


def test_a_missing_key_is_no_problem_while_another_source_answers(settings, upstream):
    upstream.body = weather()
    report = look(settings, probe=["porto"])
    assert states(report) == {
        ("pm25", "waqi:geo"): "no_key",
        ("pm25", "open_meteo:cams"): "answers",
        ("temperature_c", "open_meteo:model"): "answers",
    }
    assert report["ok"]
    assert report["problems"] == []
    assert report["keys"]["waqi"] is False


def test_a_signal_that_no_source_serves_is_a_problem_and_says_why(settings, upstream):
    upstream.status, upstream.body = 503, b"<html>maintenance</html>"
    report = look(settings, probe=["porto"])
    assert not report["ok"]
    assert report["cities"]["porto"]["unserved"] == ["pm25", "temperature_c"]
    assert "WAQI_TOKEN" in report["problems"][0]
    assert "503" in report["problems"][1]
    assert len(upstream.asked) == 2, "nothing is tried twice"


def test_an_answer_without_values_is_an_answer(settings, upstream):
    upstream.body = weather(hours=0)
    report = look(settings, probe=["porto"])
    assert states(report)["temperature_c", "open_meteo:model"] == "empty"
    assert report["ok"]


def test_a_refused_key_is_named_and_never_shown(settings, upstream, monkeypatch):
    monkeypatch.setenv("WAQI_TOKEN", SECRET)
    upstream.body = b'{"status": "error", "data": "Invalid key"}'
    report = look(Settings(), probe=["porto"])
    found = next(p for p in report["cities"]["porto"]["probes"] if p["label"] == "waqi:geo")
    assert (found["state"], found["error"]["type"]) == ("fails", "KeyRefused")
    assert report["keys"]["waqi"] is True
    assert any(SECRET in path for path in upstream.asked)
    assert SECRET not in json.dumps(report)


def test_offline_nothing_is_asked(settings, upstream):
    report = look(settings)
    assert upstream.asked == []
    assert "probes" not in report["cities"]["porto"]
    assert report["cities"]["porto"]["signals"]["pm25"] == {
        "sources": ["waqi:geo", "open_meteo:cams"],
        "last": None,
        "age_hours": None,
    }
    assert report["ok"]


def test_nothing_is_made_by_looking(settings):
    report = look(settings)
    assert report["registry"] == {"champion": None, "cached_champion": None}
    assert report["lake"]["cities"] == []
    assert report["disk"]["exists"] is False
    assert report["disk"]["writable"] is True
    assert not settings.home.exists()


def test_a_full_disk_is_a_problem(settings, monkeypatch):
    monkeypatch.setattr("urbanwm.doctor.BYTES_PER_GB", 1e18)
    report = look(settings)
    assert report["disk"]["free_gb"] < DISK_FREE_MIN_GB
    assert report["problems"] == [f"only 0.0 GB are free at {settings.home}"]


def test_one_answer_for_many_signals_is_asked_for_once(upstream, settings):
    upstream.body = b'{"status": "error", "data": "Over quota"}'
    config = waqi.Config(source="waqi", station="@1")
    city = City(
        name="x",
        timezone="UTC",
        location=Location(latitude=1, longitude=1),
        signals={name: [config] for name in ("pm25", "temperature_c", "humidity_pct")},
    )
    probes = probe.probe_city(city, settings.model_copy(update={"waqi_token": SecretStr("x")}), lambda: NOW)
    assert [(p.signal, p.error["type"]) for p in probes if p.error] == [
        ("pm25", "RateLimited"),
        ("temperature_c", "RateLimited"),
        ("humidity_pct", "RateLimited"),
    ]
    assert len(upstream.asked) == 1
    assert probe.unserved(city, probes) == list(city.signals)


def test_patience_holds_for_its_block_only(upstream):
    upstream.status = 500
    waits: list[float] = []
    url = open_meteo.ENDPOINTS["forecast"]
    with patience(Politeness(attempts=2)), pytest.raises(Exception, match="500"):
        get(url, source="test", clock=lambda: NOW, sleep=waits.append)
    assert len(upstream.asked) == 2
    with pytest.raises(Exception, match="500"):
        get(url, source="test", clock=lambda: NOW, sleep=waits.append)
    assert len(upstream.asked) == 2 + DEFAULT_POLITENESS.attempts
