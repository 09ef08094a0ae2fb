"""Bands follow the size of the errors of the last weeks: hours that nothing was fitted on, and none ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.small_world import bundle_folder, small_city, small_experiment, small_frame, small_series
from urbanwm.calibration import TRAINED_UNTIL, fit_calibration, trained_until
from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.errors import BundleInvalid
from urbanwm.features import build_series
from urbanwm.features.recent_errors import DAYS, FACTOR_MAX, recent_factor
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle
from urbanwm.training.direct_fit import fit_direct

CITY = small_city()
TRAINED_DAYS, LATER_DAYS = 58, 31  # no clock change among them
FRAME = small_frame(TRAINED_DAYS + LATER_DAYS)
UNTIL = FRAME.index[24 * TRAINED_DAYS - 1].to_pydatetime()
ORIGIN = 24 * (TRAINED_DAYS + LATER_DAYS - 2)
ENERGY = TARGETS.index("energy_mwh")


@pytest.fixture(scope="module")
def spec():
    """Inputs and direct forecast of a city, fitted on its first days."""
    fitted, series = small_series(small_experiment("urban"), TRAINED_DAYS)
    return replace(fitted, direct=fit_direct(series, fitted).direct)


def factor(spec, frame=FRAME, origins=(ORIGIN,), until=UNTIL):
    return recent_factor(build_series(frame, CITY.name, spec), np.array(origins), until)


def restless(days, size=3.0, seed=5):
    """Return the hours with noise of several times the usual size before the origin."""
    frame, random = FRAME.copy(), np.random.default_rng(seed)
    rows = frame.index[ORIGIN - 24 * days : ORIGIN]
    usual = {"pm25": 2.0, "energy_mwh": 20.0, "traffic_index": 0.1}
    for name, noise in usual.items():
        frame.loc[rows, name] = np.maximum(
            frame.loc[rows, name] + size * noise * random.standard_normal(len(rows)), 0.0
        )
    return frame


def test_a_month_like_the_record_leaves_the_width_and_a_restless_one_widens_it(spec):
    calm, wild = factor(spec), factor(spec, restless(DAYS))
    assert calm == pytest.approx(np.ones((1, 3)), abs=0.15)
    assert (wild[0, ENERGY:] > 1.3).all()
    assert wild.max() <= FACTOR_MAX


def test_younger_days_say_more_than_older_ones(spec):
    days = 5
    recent, frame = restless(days), FRAME.copy()
    past = slice(ORIGIN - 24 * DAYS, ORIGIN - 24 * (DAYS - days))
    frame.iloc[past] = recent.iloc[ORIGIN - 24 * days : ORIGIN].to_numpy()
    assert factor(spec, recent)[0, ENERGY] > factor(spec, frame)[0, ENERGY] + 0.05


def test_nothing_from_the_origin_on_is_seen(spec):
    frame = FRAME.copy()
    frame.iloc[ORIGIN:] *= 10.0
    np.testing.assert_array_equal(factor(spec, frame), factor(spec))


def test_hours_that_were_trained_on_do_not_count(spec):
    frame, last = restless(DAYS), FRAME.index[ORIGIN - 1]
    np.testing.assert_array_equal(factor(spec, frame, until=last), np.ones((1, 3)))
    some, all_of_them = factor(spec, frame, until=last - pd.Timedelta(days=4)), factor(spec, frame)
    assert 1.0 < some[0, ENERGY] < all_of_them[0, ENERGY]


def test_many_origins_at_once_get_what_each_gets_alone(spec):
    frame, origins = restless(10), [24 * 60, ORIGIN - 30, ORIGIN - 24, ORIGIN]
    alone = [factor(spec, frame, [origin])[0] for origin in origins]
    np.testing.assert_allclose(factor(spec, frame, origins), alone, rtol=1e-6)


def test_a_silent_signal_keeps_its_width_and_changes_no_other(spec):
    frame = restless(DAYS)
    frame.iloc[ORIGIN - 24 * (DAYS + 2) :, frame.columns.get_loc("pm25")] = np.nan
    found = factor(spec, frame)
    assert found[0, TARGETS.index("pm25")] == 1.0
    np.testing.assert_allclose(found[0, ENERGY], factor(spec, restless(DAYS))[0, ENERGY], rtol=1e-3)


def test_a_forecast_is_as_wide_as_the_last_weeks_ask_for_where_the_bundle_knows_its_training(tmp_path):
    bundle = Bundle.load(bundle_folder(tmp_path))
    calm = np.tile(np.asarray(QUANTILE_LEVELS) - 0.5, (30, 12, 3, 1))
    bundle.calibration = fit_calibration(calm, np.zeros((30, 12, 3)))
    frame, origin = restless(DAYS), FRAME.index[ORIGIN].to_pydatetime()

    def energy():
        members = WorldModelForecaster(bundle).forecast_batch(frame, CITY, [origin], 12, 201, 0)
        return np.sort(members[0, :, :, ENERGY], axis=0)

    before = energy()
    bundle.calibration[TRAINED_UNTIL] = {CITY.name: UNTIL.isoformat()}
    after = energy()
    series = build_series(frame[frame.index < origin], CITY.name, bundle.spec, end=FRAME.index[-1])
    expected = recent_factor(series, np.array([ORIGIN]), UNTIL)[0, ENERGY]
    assert expected != pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(after[100], before[100], rtol=1e-6)
    np.testing.assert_allclose((after[-20] - after[20]) / (before[-20] - before[20]), expected, rtol=0.02)


@pytest.mark.parametrize("time", ["yesterday", 7, "2026-01-31T08:00:00"])
def test_a_time_that_is_none_or_has_no_zone_is_refused_by_name(time):
    with pytest.raises(BundleInvalid, match=TRAINED_UNTIL):
        trained_until({TRAINED_UNTIL: {"demo": time}}, "demo")


def test_a_city_without_a_last_hour_of_training_has_none():
    assert trained_until({}, "demo") is None
