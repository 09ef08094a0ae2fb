"""Stored forecasts are kept as they were made and scored when the hours have come."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from urbanwm.contracts.signals import TARGETS
from urbanwm.evaluation.forecasts import QUANTILE_COLUMNS
from urbanwm.monitoring import DayScore, LiveScore
from urbanwm.monitoring.checks import live_alerts
from urbanwm.monitoring.live import (
    BASELINE,
    CHAMPION,
    by_bucket,
    by_day,
    days_below,
    live_scores,
    with_observed,
)
from urbanwm.monitoring.plausibility import implausible
from urbanwm.monitoring.stored import ForecastStore

ORIGIN = datetime(2026, 4, 1, 22, tzinfo=UTC)
OFFSETS = np.array([-2.0, -1.5, -0.8, 0.0, 0.8, 1.5, 2.0])


def forecast(model=CHAMPION, version="3", centre=10.0, origin=ORIGIN, city="demo"):
    hours = pd.date_range(origin, periods=48, freq="h", unit="us")
    parts = []
    for signal in TARGETS:
        level = centre / 10 if signal == "traffic_index" else centre
        spread = OFFSETS / 10 if signal == "traffic_index" else OFFSETS
        parts.append(
            pd.DataFrame(
                {
                    "city": city,
                    "origin": pd.Timestamp(origin),
                    "timestamp": hours,
                    "lead_hours": np.arange(1, 49, dtype=np.int16),
                    "signal": signal,
                    "mean": level,
                    **dict(zip(QUANTILE_COLUMNS, level + spread, strict=True)),
                    "model": model,
                    "version": version,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def observed(hours=48, level=10.0):
    index = pd.date_range(ORIGIN, periods=hours, freq="h", unit="us")
    return pd.DataFrame({"pm25": level, "energy_mwh": level, "traffic_index": level / 10}, index)


def day(ratio, number, version="3", city="demo"):
    return DayScore(city, date(2026, 4, number), version, ratio, {"pm25": ratio})


class TestStore:
    def test_a_forecast_is_kept_as_it_was_first_made(self, tmp_path):
        store = ForecastStore(tmp_path)
        assert store.put(forecast(), "demo", ORIGIN, CHAMPION, "3")
        assert not store.put(forecast(centre=99.0), "demo", ORIGIN, CHAMPION, "3")
        table, damaged = store.read(["demo"], ORIGIN, ORIGIN + timedelta(hours=1))
        pd.testing.assert_frame_equal(table, forecast())
        assert damaged == []

    def test_another_version_is_another_forecast(self, tmp_path):
        store = ForecastStore(tmp_path)
        assert store.put(forecast(), "demo", ORIGIN, CHAMPION, "3")
        assert store.put(forecast(version="4"), "demo", ORIGIN, CHAMPION, "4")

    def test_a_damaged_file_is_named_and_the_others_are_read(self, tmp_path):
        store = ForecastStore(tmp_path)
        store.put(forecast(), "demo", ORIGIN, CHAMPION, "3")
        store.put(forecast(BASELINE, "1"), "demo", ORIGIN, BASELINE, "1")
        store.path("demo", ORIGIN, BASELINE, "1").write_bytes(b"half a fi")
        table, damaged = store.read(["demo"], ORIGIN, ORIGIN + timedelta(hours=1))
        assert set(table["model"]) == {CHAMPION}
        assert len(damaged) == 1
        assert "baseline-1.parquet is damaged" in damaged[0]

    def test_a_disk_that_takes_nothing_leaves_nothing_half_written(self, tmp_path, monkeypatch):
        def full(self, path, **options):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
        store = ForecastStore(tmp_path)
        with pytest.raises(OSError, match="No space"):
            store.put(forecast(), "demo", ORIGIN, CHAMPION, "3")
        assert list(store.path("demo", ORIGIN, CHAMPION, "3").parent.iterdir()) == []

    def test_old_forecasts_go_and_foreign_folders_stay(self, tmp_path):
        store = ForecastStore(tmp_path)
        store.put(forecast(), "demo", ORIGIN, CHAMPION, "3")
        (tmp_path / "demo" / "notes").mkdir()
        assert store.prune(ORIGIN + timedelta(days=399)) == 0
        assert store.prune(ORIGIN + timedelta(days=401)) == 1
        assert [entry.name for entry in (tmp_path / "demo").iterdir()] == ["notes"]


class TestScores:
    def test_only_hours_that_came_are_scored(self):
        rows = live_scores(with_observed(forecast(), {"demo": observed(hours=5, level=11.0)}))
        (score,) = [row for row in by_bucket(rows) if (row.signal, row.bucket) == ("pm25", "all")]
        assert (score.hours, score.mae, score.coverage90) == (5, 1.0, 1.0)

    def test_a_city_that_is_gone_scores_nothing(self):
        assert live_scores(with_observed(forecast(), {})).empty
        assert by_day(live_scores(with_observed(forecast(), {})), {}) == []

    def test_an_unanswered_signal_scores_nothing(self):
        table = forecast()
        table.loc[table["signal"] == "pm25", ["mean", *QUANTILE_COLUMNS]] = np.nan
        rows = live_scores(with_observed(table, {"demo": observed()}))
        assert set(rows["signal"]) == {"energy_mwh", "traffic_index"}

    def test_leads_fall_into_their_buckets(self):
        rows = live_scores(with_observed(forecast(), {"demo": observed()}))
        hours = {row.bucket: row.hours for row in by_bucket(rows) if row.signal == "pm25"}
        assert hours == {"1-6": 6, "7-24": 18, "25-48": 24, "all": 48}

    def test_the_day_of_an_origin_is_the_city_s_own(self):
        both = pd.concat([forecast(), forecast(BASELINE, "1", centre=14.0)])
        rows = live_scores(with_observed(both, {"demo": observed()}))
        (score,) = by_day(rows, {"demo": "Europe/Madrid"})
        assert (score.day, score.version) == (date(2026, 4, 2), "3")
        assert score.ratio < 0.5

    def test_a_day_with_few_hours_says_nothing_yet(self):
        both = pd.concat([forecast(), forecast(BASELINE, "1")])
        rows = live_scores(with_observed(both, {"demo": observed(hours=11)}))
        assert by_day(rows, {"demo": "UTC"}) == []


class TestDaysBelow:
    def test_days_in_a_row_up_to_the_last_one_count(self):
        days = [day(1.2, 1), day(0.9, 2), day(1.1, 3), day(1.3, 4)]
        assert days_below(days, "3", "demo") == 2

    def test_a_won_day_ends_the_count(self):
        assert days_below([day(1.2, 1), day(1.2, 2), day(0.99, 3)], "3") == 0

    def test_a_new_champion_is_not_blamed_for_its_predecessor(self):
        assert days_below([day(1.2, 1, "2"), day(1.2, 2, "2"), day(1.2, 3, "3")], "3") == 1

    def test_cities_count_alike_on_each_day(self):
        days = [day(1.5, 1), day(0.5, 1, city="madrid"), day(1.5, 2), day(0.9, 2, city="madrid")]
        assert days_below(days, "3") == 1
        assert days_below(days, "3", "demo") == 2

    def test_without_a_champion_nothing_counts(self):
        assert days_below([day(1.2, 1)], None) == 0


class TestAlerts:
    def test_three_lost_days_are_named(self):
        days = [day(1.2, 1), day(1.2, 2), day(1.4, 3)]
        (alert,) = live_alerts([], days, "3", ["demo"])
        assert alert.key == "live_skill"
        assert "1.20 to 1.40" in alert.message
        assert live_alerts([], days[1:], "3", ["demo"]) == []

    @pytest.mark.parametrize(("coverage", "named"), [(0.5, True), (0.9, False), (0.999, True)])
    def test_coverage_is_named_outside_its_limits(self, coverage, named):
        row = LiveScore("demo", "pm25", "all", CHAMPION, 1.0, 1.0, coverage, hours=700, origins=20)
        assert bool(live_alerts([row], [], "3", ["demo"])) == named

    def test_coverage_of_a_few_days_says_nothing(self):
        row = LiveScore("demo", "pm25", "all", CHAMPION, 1.0, 1.0, 0.1, hours=100, origins=5)
        assert live_alerts([row], [], "3", ["demo"]) == []


class TestPlausibility:
    def test_an_ordinary_forecast_is_plausible(self):
        assert implausible(forecast(), observed(level=11.0)) == {}

    @pytest.mark.parametrize(
        ("spoil", "sentence"),
        [
            (lambda t: t.assign(q50=np.where(t["lead_hours"] == 3, np.nan, t["q50"])), "not finite"),
            (lambda t: t.assign(q05=t["q95"] + 1), "cross"),
            (lambda t: t.assign(**dict.fromkeys(QUANTILE_COLUMNS, 1.5)), "no width"),
            (
                lambda t: t.assign(**{name: t[name] - 50.0 for name in QUANTILE_COLUMNS}),
                "than the signal can be",
            ),
        ],
    )
    def test_a_spoilt_forecast_is_named(self, spoil, sentence):
        assert sentence in implausible(spoil(forecast()), observed())["pm25"]

    def test_a_forecast_far_from_all_that_was_observed_is_named(self):
        found = implausible(forecast(centre=12.0), observed(level=100.0))
        assert "far from all that was observed" in found["pm25"]

    def test_a_signal_that_was_not_answered_is_not_wrong(self):
        table = forecast()
        table.loc[table["signal"] == "pm25", ["mean", *QUANTILE_COLUMNS]] = np.nan
        assert implausible(table, observed()) == {}
