"""From the lake to alerts: a fault is caught the same night; forecasts are stored once and scored."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from tests.toy_city import toy_history
from urbanwm.errors import BadInput, UpstreamUnavailable
from urbanwm.monitoring import MonitorReport
from urbanwm.monitoring.live import CHAMPION
from urbanwm.monitoring.stored import ForecastStore
from urbanwm.pipeline import monitor as monitor_module
from urbanwm.pipeline import stored_forecasts as stored_module
from urbanwm.pipeline.intake import ingest_one
from urbanwm.pipeline.monitor import data_checks, run_monitor, store_forecasts
from urbanwm.settings import load_settings

NIGHT = datetime(2026, 2, 20, 4, tzinfo=UTC)
FAULT_BEGAN = "2026-02-18T23:00Z"
"""Local midnight: the fault is 29 h old when the night sees it first."""
CITY_FILE = """
name: toytown
timezone: Europe/Madrid
location: {latitude: 40.4, longitude: -3.7}
replay: true
signals:
  pm25:          [{source: file, path: toytown.parquet, column: pm25}]
  energy_mwh:    [{source: file, path: toytown.parquet, column: energy_mwh}]
  traffic_index: [{source: file, path: toytown.parquet, column: traffic, transform: hour_of_week_ratio}]
"""


def record():
    frame = toy_history(days=150, seed=2)
    hour = frame.index.tz_convert("Europe/Madrid").hour.to_numpy()
    volume = 30_000 * frame["traffic_index"] * (0.3 + np.sin(np.pi * hour / 24) ** 2)
    return frame.assign(traffic=volume.round()).drop(columns="traffic_index").reset_index()


def world(folder, change=None):
    """Write the city with a record that is changed from the fault's hour on; return its settings."""
    (folder / "cities").mkdir(parents=True)
    frame = record()
    if change is not None:
        change(frame, frame["timestamp"] >= pd.Timestamp(FAULT_BEGAN))
    frame.to_parquet(folder / "cities" / "toytown.parquet")
    (folder / "cities" / "toytown.yaml").write_text(CITY_FILE)
    return load_settings(home=folder / "home", cities_dir=folder / "cities")


def ingest(settings, moment=NIGHT):
    settings.locks_dir.mkdir(parents=True, exist_ok=True)
    outcome = ingest_one("toytown", settings, lambda: moment)
    assert outcome.errors == []
    return {outcome.city: outcome.dropped}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    settings = world(tmp_path_factory.mktemp("healthy"))
    ingest(settings, NIGHT + timedelta(days=3))
    return settings


@pytest.fixture
def settings(healthy, tmp_path):
    """Return a home of its own over the healthy lake."""
    shutil.copytree(healthy.home, tmp_path / "home")
    return healthy.model_copy(update={"home": tmp_path / "home"})


def scaled(column, factor):
    def change(frame, rows):
        frame.loc[rows, column] *= factor

    return change


def frozen(column):
    def change(frame, rows):
        frame.loc[rows, column] = frame.loc[rows, column].iloc[0]

    return change


class TestDataChecks:
    def test_a_healthy_record_has_no_alert(self, healthy):
        assert data_checks(healthy, ["toytown"], NIGHT) == []

    @pytest.mark.parametrize(
        ("change", "signal"),
        [
            (scaled("pm25", 10), "pm25"),
            pytest.param(scaled("pm25", 1000), "pm25", marks=pytest.mark.slow),
            (scaled("energy_mwh", 10), "energy_mwh"),
            pytest.param(scaled("traffic", 10), "traffic_index", marks=pytest.mark.slow),
            (frozen("pm25"), "pm25"),
            pytest.param(frozen("energy_mwh"), "energy_mwh", marks=pytest.mark.slow),
            (frozen("traffic"), "traffic_index"),
        ],
        ids=[
            "pm25 x10",
            "pm25 x1000",
            "energy x10",
            "traffic x10",
            "pm25 frozen",
            "energy frozen",
            "counter",
        ],
    )
    def test_a_fault_is_caught_the_same_night_and_blocks(self, tmp_path, change, signal):
        settings = world(tmp_path, change)
        dropped = ingest(settings)
        for account in (dropped, None):
            found = data_checks(settings, ["toytown"], NIGHT, dropped=account)
            assert [alert.signal for alert in found if alert.blocks] == [signal]

    def test_an_unknown_city_is_the_caller_s_mistake(self, healthy):
        with pytest.raises(BadInput, match="unknown city"):
            data_checks(healthy, ["nowhere"], NIGHT)

    def test_a_time_without_a_zone_is_refused(self, healthy):
        with pytest.raises(BadInput, match="time zone"):
            data_checks(healthy, ["toytown"], datetime(2026, 2, 20))  # noqa: DTZ001

    def test_a_city_without_data_is_left_to_the_training(self, tmp_path):
        assert data_checks(world(tmp_path), ["toytown"], NIGHT) == []


class TestStoredForecasts:
    def test_one_forecast_per_day_however_often_the_night_runs(self, settings):
        first = store_forecasts(settings, ["toytown"], NIGHT, clock=lambda: NIGHT)
        again = store_forecasts(settings, ["toytown"], NIGHT + timedelta(hours=5), clock=lambda: NIGHT)
        assert first.stored == ["toytown 2026-02-19T23:00Z baseline 1"]
        assert (again.stored, again.known) == ([], 1)
        assert first.alerts == []

    def test_it_sees_nothing_at_or_after_its_origin(self, settings):
        store_forecasts(settings, ["toytown"], NIGHT, clock=lambda: NIGHT)
        table, _ = ForecastStore(settings.forecasts_dir).read(["toytown"], NIGHT - timedelta(days=1), NIGHT)
        assert "observed" not in table
        assert table["timestamp"].min() == pd.Timestamp("2026-02-19T23:00Z")
        assert table["lead_hours"].max() == 48
        assert (table["made_at"] == pd.Timestamp(NIGHT)).all()

    def test_a_champion_that_cannot_be_loaded_is_an_alert_and_the_baseline_goes_on(
        self, settings, monkeypatch
    ):
        def away(settings, clock):
            raise UpstreamUnavailable("connection refused", source="mlflow")

        monkeypatch.setattr(stored_module, "serving_champion", away)
        outcome = store_forecasts(settings, ["toytown"], NIGHT, clock=lambda: NIGHT)
        assert [alert.key for alert in outcome.alerts] == ["forecast_missing"]
        assert len(outcome.stored) == 1

    def test_a_full_disk_is_an_alert_of_that_city(self, settings, monkeypatch):
        def full(self, *arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(ForecastStore, "put", full)
        outcome = store_forecasts(settings, ["toytown"], NIGHT, clock=lambda: NIGHT)
        assert "No space left" in outcome.alerts[0].message
        assert outcome.alerts[0].city == "toytown"


class TestMonitor:
    def stored_as_champion(self, settings, moment, factor):
        """Store the baseline's forecast, and beside it one of a champion that is off by a factor."""
        store_forecasts(settings, ["toytown"], moment, clock=lambda: moment)
        store = ForecastStore(settings.forecasts_dir)
        table, _ = store.read(["toytown"], moment - timedelta(days=1), moment + timedelta(hours=1))
        newest = table[table["origin"] == table["origin"].max()].assign(model=CHAMPION, version="7")
        values = [name for name in newest if name.startswith("q") or name == "mean"]
        newest[values] *= factor
        origin = newest["origin"].iloc[0].to_pydatetime()
        store.put(newest, "toytown", origin, CHAMPION, "7")

    def test_a_champion_that_keeps_losing_is_counted_and_named(self, settings, monkeypatch):
        monkeypatch.setattr(monitor_module, "_champion_version", lambda *arguments: "7")
        for days in range(5):
            self.stored_as_champion(settings, NIGHT - timedelta(days=5 - days), 1.5)
        report = run_monitor(settings, ["toytown"], NIGHT, lambda: NIGHT)
        assert report.days_below_baseline() == report.days_below_baseline("toytown") >= 4
        assert "live_skill" in {alert.key for alert in report.alerts}
        assert monitor_module.live_days(settings, ["toytown"], NIGHT) == report.days
        assert report.blocking == []
        assert report.metrics()["live/ratio/toytown"] > 1.0
        champion = {(row.signal, row.bucket): row for row in report.live if row.model == CHAMPION}
        assert champion["pm25", "7-24"].hours > 24

    def test_an_implausible_forecast_is_named(self, settings):
        self.stored_as_champion(settings, NIGHT, 40.0)
        report = run_monitor(settings, ["toytown"], NIGHT, lambda: NIGHT)
        assert "implausible_forecast" in {alert.key for alert in report.alerts}

    def test_the_report_is_plain_json_and_reads_well(self, settings):
        store_forecasts(settings, ["toytown"], NIGHT - timedelta(days=2), clock=lambda: NIGHT)
        report = run_monitor(settings, ["toytown"], NIGHT, lambda: NIGHT)
        document = json.loads(json.dumps(report.to_dict()))
        assert document["days_below_baseline"] == {"toytown": 0}
        assert {row["signal"] for row in document["freshness"]} == {"pm25", "energy_mwh", "traffic_index"}
        assert "MAE" in report.text()
        assert report.markdown().endswith("Nothing is wrong.")
        assert {"age_hours", "signal"} <= set(report.feed_table()[0])

    def test_a_repeated_night_tells_nothing_twice(self, tmp_path, caplog):
        settings = world(tmp_path, frozen("energy_mwh"))
        ingest(settings)
        first = run_monitor(settings, ["toytown"], NIGHT, lambda: NIGHT)
        assert first.blocking
        assert dict(first.told) == {"new": 1, "known": 0, "cleared": 0, "failed": 0}
        assert dict(run_monitor(settings, ["toytown"], NIGHT, lambda: NIGHT).told)["known"] == 1
        assert "| critical | `feed_frozen` | toytown energy_mwh |" in first.markdown()

    def test_what_the_night_found_is_not_looked_for_again(self, settings):
        found = [monitor_module.make_alert("night_failed", "the disk is full")]
        report = run_monitor(settings, ["toytown"], NIGHT, lambda: NIGHT, checks=found)
        assert [alert.key for alert in report.alerts] == ["night_failed"]

    def test_a_city_without_data_is_named_and_the_report_stands(self, tmp_path):
        report = run_monitor(world(tmp_path), ["toytown"], NIGHT, lambda: NIGHT)
        assert isinstance(report, MonitorReport)
        assert [alert.key for alert in report.alerts] == ["monitor_incomplete"]

    def test_a_tracker_that_is_away_is_an_alert(self, settings, monkeypatch):
        def away(*arguments):
            raise UpstreamUnavailable("connection refused", source="mlflow")

        monkeypatch.setattr(monitor_module, "log_monitor", away)
        report = run_monitor(settings, ["toytown"], NIGHT, lambda: NIGHT)
        assert [alert.key for alert in report.alerts] == ["monitor_incomplete"]
        assert "connection refused" in report.errors[0]
