"""Feeds that change their unit, freeze or fall silent are seen; a city's weather is not taken for that."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from tests.toy_city import END, toy_city, toy_history
from urbanwm.features.calendar import CityCalendar
from urbanwm.monitoring.checks import feed_alerts
from urbanwm.monitoring.drift import LIMIT, drift, window_deviations
from urbanwm.monitoring.feeds import frozen_hours, is_frozen, is_silent, level_jump
from urbanwm.monitoring.similar import deviations

SPAIN = CityCalendar("Europe/Madrid", "ES")
DAY = 24


@pytest.fixture(scope="module")
def history():
    return toy_history(days=200, seed=4)


def changed(series, hours, factor):
    values = series.to_numpy(copy=True)
    values[-hours:] *= factor
    return pd.Series(values, series.index)


def repeated(series, hours):
    values = series.to_numpy(copy=True)
    values[-hours:] = values[-hours]
    return pd.Series(values, series.index)


class TestSimilarHours:
    def test_a_scaled_signal_deviates_by_its_logarithm_at_every_hour(self, history):
        series = changed(history["energy_mwh"], DAY, 1.5)
        found = deviations(series, "energy_mwh", SPAIN).hours()[-DAY:]
        assert np.allclose(found, np.log(1.5), atol=0.1)

    def test_only_earlier_days_are_the_reference(self, history):
        series = history["energy_mwh"]
        before = deviations(series.iloc[: -10 * DAY], "energy_mwh", SPAIN).hours()
        after = deviations(changed(series, 10 * DAY, 9.0), "energy_mwh", SPAIN).hours()[: len(before)]
        np.testing.assert_array_equal(before, after)

    def test_a_day_is_no_reference_of_its_own(self):
        index = pd.date_range("2026-04-06", periods=6 * 7 * DAY, freq="h", tz="UTC")
        weeks = np.arange(len(index)) // (7 * DAY)
        series = pd.Series(np.where(weeks < 2, 100.0, 200.0), index)
        saturday = series.iloc[: (4 * 7 + 6) * DAY]
        found = deviations(saturday, "energy_mwh", CityCalendar("UTC")).hours()[-1]
        assert found == pytest.approx(np.log(200) - (np.log(100) + np.log(200)) / 2)

    def test_a_missing_hour_stays_missing(self, history):
        series = history["pm25"].copy()
        series.iloc[-5] = np.nan
        assert np.isnan(deviations(series, "pm25", SPAIN).hours()[-5])

    def test_both_clock_changes_keep_the_hours_in_their_place(self):
        index = pd.date_range("2026-01-05", "2026-11-05", freq="h", tz="UTC", inclusive="left")
        local = index.tz_convert("Europe/Madrid").hour
        series = pd.Series(100.0 + 10.0 * np.asarray(local, dtype=float), index)
        found = deviations(series, "energy_mwh", SPAIN).hours()
        assert np.nanmax(np.abs(found)) < 1e-9


class TestUnitChange:
    @pytest.mark.parametrize("signal", ["pm25", "energy_mwh"])
    @pytest.mark.parametrize("factor", [10.0, 1000.0, 0.1, 0.001])
    @pytest.mark.parametrize("hours", [7, 28, 10 * DAY])
    def test_another_unit_is_seen_the_same_night_and_for_days_after(self, history, signal, factor, hours):
        found = level_jump(changed(history[signal], hours, factor), signal, SPAIN)
        assert found is not None
        assert found.hours_ago == hours

    @pytest.mark.parametrize("signal", ["pm25", "energy_mwh", "traffic_index"])
    def test_the_record_as_it_is_has_no_jump(self, history, signal):
        assert level_jump(history[signal], signal, SPAIN) is None

    def test_a_single_wild_hour_is_not_another_unit(self, history):
        series = history["pm25"].copy()
        series.iloc[-12] *= 10
        assert level_jump(series, "pm25", SPAIN) is None

    def test_a_gap_does_not_hide_the_jump(self, history):
        series = changed(history["energy_mwh"], 20, 10.0)
        series.iloc[-23:-19] = np.nan
        assert level_jump(series, "energy_mwh", SPAIN) is not None

    def test_a_short_record_says_nothing(self, history):
        assert level_jump(history["pm25"].iloc[:20], "pm25", SPAIN) is None


class TestFrozen:
    def test_the_length_of_the_last_run_is_counted(self):
        index = pd.date_range("2026-01-01", periods=6, freq="h", tz="UTC")
        assert frozen_hours(pd.Series([1.0, 2.0, 2.0, 2.0, np.nan, np.nan], index)) == 3
        assert frozen_hours(pd.Series(np.nan, index)) == 0

    @pytest.mark.parametrize("signal", ["pm25", "energy_mwh"])
    def test_a_repeated_value_is_frozen_after_six_hours(self, history, signal):
        assert not is_frozen(repeated(history[signal], 5), signal)
        assert is_frozen(repeated(history[signal], 6), signal)

    def test_a_record_of_small_whole_numbers_may_rest_for_a_day(self, history):
        coarse = history["pm25"].round()
        assert not is_frozen(repeated(coarse, 12), "pm25")
        assert is_frozen(repeated(coarse, 24), "pm25")

    def test_an_index_at_the_end_of_its_scale_is_frozen(self, history):
        series = history["traffic_index"].copy()
        series.iloc[-8:] = 2.0
        assert is_frozen(series, "traffic_index")

    def test_dry_weather_is_not_frozen(self):
        index = pd.date_range("2026-01-01", periods=24 * 60, freq="h", tz="UTC")
        assert not is_frozen(pd.Series(0.0, index), "precipitation_mm")


class TestAlerts:
    def alerts(self, frame, end=END, dropped=None, **city):
        names = {name: [] for name in frame}
        return feed_alerts(toy_city(signals=names, **city), frame, end, dropped or {})

    def test_a_healthy_city_has_none(self, history):
        assert self.alerts(history) == []

    def test_a_frozen_counter_is_seen_behind_its_ratio(self, history):
        frame = history.assign(
            traffic_volume=np.random.default_rng(0).integers(2000, 90000, len(history)) * 1.0
        )
        frame.loc[frame.index[-9:], "traffic_volume"] = 4711.0
        names = {name: [] for name in history}
        (alert,) = feed_alerts(toy_city(signals=names), frame, END, {})
        assert (alert.key, alert.signal, alert.blocks) == ("feed_frozen", "traffic_index", True)

    def test_a_frozen_input_is_named_and_blocks_nothing(self, history):
        frame = history.assign(renewable_share=repeated(history["renewable_share"], 30))
        (alert,) = self.alerts(frame)
        assert (alert.key, alert.blocks) == ("feed_frozen", False)

    def test_values_that_were_dropped_as_impossible_are_another_unit(self, history):
        frame = history.copy()
        frame.loc[frame.index[-30:], "energy_mwh"] = np.nan
        city = toy_city(signals={"energy_mwh": []})
        object.__setattr__(city, "signals", {"energy_mwh": [_Feed("meter")]})
        (alert,) = feed_alerts(city, frame, END, {"meter": {"unit_jump": 30}})
        assert (alert.key, alert.blocks) == ("unit_change", True)
        assert "30 were dropped" in alert.message

    def test_a_hole_at_the_end_of_a_recording_blocks_and_a_late_live_feed_does_not(self, history):
        frame = history.copy()
        frame.loc[frame.index[-30:], "energy_mwh"] = np.nan
        (alert,) = self.alerts(frame, replay=True)
        assert (alert.key, alert.signal, alert.blocks) == ("feed_silent", "energy_mwh", True)
        assert self.alerts(frame) == []

    def test_a_target_past_its_limit_is_stale(self, history):
        found = self.alerts(history, END + timedelta(hours=80))
        assert {(alert.key, alert.signal) for alert in found} == {
            ("feed_stale", name) for name in ("pm25", "energy_mwh", "traffic_index")
        }

    def test_silence_needs_a_record_that_was_complete(self, history):
        patchy = history["pm25"].where(np.arange(len(history)) % 3 == 0)
        assert not is_silent(patchy, END + timedelta(hours=25))
        assert is_silent(history["pm25"], END + timedelta(hours=25))


class _Feed:
    def __init__(self, label):
        self.label = label


class TestDrift:
    def test_a_lasting_change_of_a_steady_signal_is_named_within_two_weeks(self, history):
        found = drift(changed(history["energy_mwh"], 14 * DAY, 1.3), "energy_mwh", SPAIN)
        assert found.alarming
        assert found.score > LIMIT
        assert 0.2 < found.change < 0.4

    @pytest.mark.parametrize("seed", range(6))
    def test_no_alarm_without_a_change(self, seed):
        frame = toy_history(days=200, seed=seed)
        assert not any(drift(frame[name], name, SPAIN).alarming for name in ("energy_mwh", "traffic_index"))

    def test_too_short_a_record_has_no_score(self, history):
        assert drift(history["energy_mwh"].iloc[-90 * DAY :], "energy_mwh", SPAIN).score is None

    def test_a_silent_week_is_not_judged(self, history):
        series = history["energy_mwh"].copy()
        series.iloc[-6 * DAY :] = np.nan
        assert drift(series, "energy_mwh", SPAIN) is None

    def test_a_break_that_returns_every_year_is_no_drift(self):
        frame = toy_history(days=1060, seed=1)
        series = frame["energy_mwh"].copy()
        for years in (0, 1, 2):
            last = len(series) - years * 364 * DAY
            series.iloc[last - 7 * DAY : last] *= 0.6
        alone = frame["energy_mwh"].copy()
        alone.iloc[-7 * DAY :] *= 0.6
        returning = window_deviations(series, "energy_mwh", SPAIN)[-1]
        assert abs(returning) < 0.75 * abs(window_deviations(alone, "energy_mwh", SPAIN)[-1])
