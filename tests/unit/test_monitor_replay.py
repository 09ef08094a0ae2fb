"""False alarms are measured: the monitors are replayed over recorded and simulated quarters."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.monitoring import (
    CITIES,
    DAYS_PER_QUARTER,
    SIMULATED_CALENDAR,
    drift_scores,
    drifting,
    episodes,
    nights_of,
    real_city,
    share_caught,
    simulated_city,
)
from urbanwm.monitoring.feeds import is_frozen, level_jump

MADRID = CITIES["madrid"]
MONTH_NIGHTS = 30


def night_alarms(city, calendar, nights):
    """Return how many nights per signal would hold promotion back."""
    return {
        signal: sum(
            level_jump(series.iloc[max(0, night - 150 * 24) : night], signal, calendar) is not None
            or is_frozen(series.iloc[night - 1200 : night], signal)
            for night in nights_of(series)[nights]
        )
        for signal, series in city.items()
    }


def test_alarms_that_touch_are_one():
    assert episodes(np.array([0, 1, 1, 0, 0, 1, 0, 0], dtype=bool)) == 1
    assert episodes(np.array([1, *[0] * 10, 1], dtype=bool)) == 2
    assert episodes(np.zeros(5, dtype=bool)) == 0


@pytest.mark.parametrize(("name", "signals"), [("madrid", 3), ("madrid_long", 2)])
def test_madrid_drifts_falsely_at_most_once_in_a_quarter(shared_dir, name, signals):
    city = real_city(shared_dir / "data", name)
    assert len(city) == signals
    alarms = sum(episodes(drifting(series, signal, CITIES[name])) for signal, series in city.items())
    judged = max(
        np.isfinite(drift_scores(series, signal, CITIES[name])).sum() for signal, series in city.items()
    )
    assert alarms / (judged / DAYS_PER_QUARTER) <= 1.0


def test_a_month_of_madrid_never_holds_promotion_back(shared_dir):
    city = real_city(shared_dir / "data", "madrid")
    assert night_alarms(city, MADRID, slice(-MONTH_NIGHTS, None)) == dict.fromkeys(city, 0)


@pytest.mark.parametrize("seed", [21, pytest.param(22, marks=pytest.mark.slow)])
def test_a_simulated_city_drifts_falsely_at_most_once_in_a_quarter(seed):
    city = simulated_city(seed)
    alarms = sum(episodes(drifting(series, name, SIMULATED_CALENDAR)) for name, series in city.items())
    judged = np.isfinite(drift_scores(city["pm25"], "pm25", SIMULATED_CALENDAR)).sum()
    assert alarms / (judged / DAYS_PER_QUARTER) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["x10", "x1000", "frozen"])
@pytest.mark.parametrize("signal", ["pm25", "energy_mwh", "traffic_index"])
def test_faults_of_madrid_s_feeds_are_caught_the_same_night(shared_dir, signal, kind):
    series = real_city(shared_dir / "data", "madrid")[signal]
    assert share_caught(series, signal, MADRID, kind, np.random.default_rng(1)) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["madrid", "madrid_long"])
def test_no_night_of_madrid_holds_promotion_back(shared_dir, name):
    city = real_city(shared_dir / "data", name)
    assert night_alarms(city, CITIES[name], slice(None)) == dict.fromkeys(city, 0)
