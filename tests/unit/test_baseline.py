"""The deterministic baseline: what it says with a record, with a caller's state, and with nothing."""

from __future__ import annotations

import time
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from tests.toy_city import END, toy_city, toy_history
from urbanwm.baseline import BaselineForecaster, daily_factor, reference_forecast
from urbanwm.contracts.scenario import InitialState
from urbanwm.errors import DataUnavailable

CITY = toy_city()
STATE = InitialState(pm25=40.0, energy_mwh=900.0, traffic_index=0.8)
FORECASTER = BaselineForecaster()


def forecast(history, horizon=48, samples=20, start=END, state=None, seed=0):
    return FORECASTER.forecast(history, CITY, start, horizon, samples, seed, state)


def test_a_record_gives_finite_members_for_a_week():
    answer = forecast(toy_history(), horizon=168)
    assert answer.members.shape == (20, 168, 3)
    assert np.isfinite(answer.members).all()
    assert answer.served_by == "baseline"
    assert answer.degraded
    assert answer.z is None


def test_the_same_question_has_the_same_bytes():
    assert forecast(toy_history()).members.tobytes() == forecast(toy_history()).members.tobytes()
    assert forecast(toy_history(), seed=1).members.tobytes() != forecast(toy_history()).members.tobytes()


def test_it_follows_the_shape_of_the_local_day():
    energy = forecast(toy_history()).members[..., 1].mean(axis=0)[:24]
    assert abs(int(energy.argmax()) - 15) <= 2  # 1000 + 200 · sin peaks at 15 h, the start is local midnight


def test_it_beats_persistence_and_the_last_week_on_its_own_kind_of_data():
    history = toy_history(days=90)
    origins = [END - timedelta(days=d) for d in range(3, 23)]
    members = FORECASTER.forecast_batch(history, CITY, origins, 48, 20, 0)
    energy = history["energy_mwh"]
    observed = np.array([energy.loc[o : o + timedelta(hours=47)] for o in origins])
    persistence = np.array([energy.loc[o - timedelta(hours=1)] for o in origins])[:, None]
    last_week = np.array([energy.loc[o - timedelta(hours=168) : o - timedelta(hours=121)] for o in origins])
    error = np.abs(members[..., 1].mean(axis=1) - observed).mean()
    assert error < np.abs(persistence - observed).mean()
    assert error < np.abs(last_week - observed).mean()


def test_its_ninety_percent_interval_covers_about_ninety_percent():
    history = toy_history(days=150)
    origins = [END - timedelta(days=d) for d in range(3, 60)]
    members = FORECASTER.forecast_batch(history, CITY, origins, 48, 40, 0)
    low, high = np.quantile(members, (0.05, 0.95), axis=1, method="hazen")
    for position, name in enumerate(("pm25", "energy_mwh", "traffic_index")):
        observed = np.array([history[name].loc[o : o + timedelta(hours=47)] for o in origins])
        inside = (observed >= low[..., position]) & (observed <= high[..., position])
        assert 0.8 < inside.mean() < 0.97, name


def test_a_batch_gives_each_origin_what_it_would_get_alone():
    history = toy_history()
    origins = [END - timedelta(days=d) for d in (9, 5, 3)]
    batch = FORECASTER.forecast_batch(history, CITY, origins, 24, 20, 0)
    for i, origin in enumerate(origins):
        alone = forecast(history, horizon=24, start=origin).members
        assert batch[i] == pytest.approx(alone, rel=1e-5)


def test_values_after_the_origin_change_nothing():
    history = toy_history()
    origin = END - timedelta(days=4)
    tampered = history.copy()
    tampered.loc[tampered.index >= origin] = 1.5
    assert (
        forecast(history, start=origin).members.tobytes()
        == forecast(tampered, start=origin).members.tobytes()
    )
    origins = [origin - timedelta(days=1), origin]
    before, after = (FORECASTER.forecast_batch(h, CITY, origins, 48, 20, 0) for h in (history, tampered))
    assert before.tobytes() == after.tobytes()


def test_sixty_origins_take_less_than_three_seconds():
    history = toy_history(days=400)
    origins = [END - timedelta(days=d) for d in range(3, 63)]
    began = time.process_time()
    FORECASTER.forecast_batch(history, CITY, origins, 48, 20, 0)
    assert time.process_time() - began < 3.0


def test_a_signal_without_history_is_not_invented():
    answer = forecast(toy_history().drop(columns="traffic_index"))
    assert np.isnan(answer.members[..., 2]).all()
    assert np.isfinite(answer.members[..., :2]).all()
    assert any("traffic_index" in reason for reason in answer.reasons)


def test_a_signal_without_history_takes_the_callers_state():
    answer = forecast(toy_history().drop(columns="traffic_index"), state=STATE)
    assert np.isfinite(answer.members).all()
    assert any("traffic_index" in reason and "initial_state" in reason for reason in answer.reasons)


def test_the_callers_state_moves_the_next_hours():
    usual, told = forecast(toy_history()), forecast(toy_history(), state=STATE)
    assert told.members[:, 0, 0].mean() > usual.members[:, 0, 0].mean()


def test_nothing_at_all_is_an_error_that_names_the_signals():
    for history in (None, toy_history().iloc[:0]):
        with pytest.raises(DataUnavailable, match="pm25, energy_mwh, traffic_index"):
            forecast(history)


def test_a_callers_state_alone_is_enough():
    answer = forecast(None, state=STATE)
    local = pd.date_range(END, periods=48, freq="h").tz_convert("Europe/Madrid").hour.to_numpy()
    expected = np.array([40.0, 900.0, 0.8]) * daily_factor(local)[:, None]
    assert answer.members == pytest.approx(np.broadcast_to(expected, (20, 48, 3)))


def test_the_reference_form_is_level_times_shape_of_the_local_day():
    answer = reference_forecast(STATE, CITY, END, 25, 3)
    assert answer.reference_form
    assert answer.members[:, 0] == pytest.approx(
        np.tile([48.0, 1080.0, 0.96], (3, 1))
    )  # midnight: factor 1.2
    assert answer.members[:, 12] == pytest.approx(np.tile([32.0, 720.0, 0.64], (3, 1)))  # noon: factor 0.8
    assert np.ptp(answer.members, axis=0).max() == 0.0


def test_a_silent_feed_widens_its_interval_and_is_named():
    history = toy_history()
    history.loc[history.index >= END - timedelta(hours=48), "pm25"] = np.nan
    silent, usual = forecast(history), forecast(toy_history())
    width = [
        np.ptp(np.quantile(a.members[..., 0], (0.05, 0.95), axis=0), axis=0).mean() for a in (silent, usual)
    ]
    assert width[0] > 0.95 * width[1]
    assert any("pm25" in reason and "48 h" in reason for reason in silent.reasons)


def test_old_data_still_give_a_climatology():
    answer = forecast(toy_history(), start=END + timedelta(days=60))
    assert np.isfinite(answer.members).all()
    assert any("past the limit" in reason for reason in answer.reasons)


def test_two_days_of_data_are_no_climatology():
    answer = forecast(toy_history(days=2), state=STATE)
    assert any("no history" in reason for reason in answer.reasons)
