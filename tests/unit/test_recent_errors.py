"""Bands follow the size of the errors of the last weeks: hours that nothing was fitted on, and none ahead."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.small_world import (
    SMALL_DAYS,
    bundle_folder,
    small_city,
    small_experiment,
    small_fit,
    small_frame,
    small_series,
)
from urbanwm.calibration import USUAL_ERRORS, fit_calibration, usual_errors
from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.errors import BundleInvalid
from urbanwm.features import build_series
from urbanwm.features.recent_errors import (
    DAYS,
    FACTOR_MAX,
    PRIOR_DAYS,
    SIZE_MAX,
    UsualErrors,
    recent_factor,
)
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.model.bundle import Bundle

CITY = small_city()
TRAINED_DAYS, LATER_DAYS = SMALL_DAYS, 29  # no clock change among them
FRAME = small_frame(TRAINED_DAYS + LATER_DAYS)
UNTIL = FRAME.index[24 * TRAINED_DAYS - 1].to_pydatetime()
ORIGIN = 24 * (TRAINED_DAYS + LATER_DAYS - 2)
ENERGY = TARGETS.index("energy_mwh")


@pytest.fixture(scope="module")
def factor():
    """Ask a direct forecast, fitted on a city's first days, for the factor."""
    (inputs, _), fit = small_series(small_experiment("urban")), small_fit()
    spec, usual = replace(inputs, direct=fit.direct), UsualErrors.measured(UNTIL, fit.errors[CITY.name])

    def ask(frame=FRAME, origins=(ORIGIN,), until=UNTIL):
        later = build_series(frame, CITY.name, spec)
        return recent_factor(later, np.array(origins), usual._replace(trained_until=until))

    return ask


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


def test_a_month_like_the_record_leaves_the_width_and_a_restless_one_widens_it(factor):
    calm, wild = factor(), factor(restless(DAYS))
    assert calm == pytest.approx(np.ones((1, 3)), abs=0.15)
    assert (wild[0, ENERGY:] > 1.3).all()
    assert wild.max() <= FACTOR_MAX


def test_younger_days_say_more_than_older_ones(factor):
    days = 5
    recent, frame = restless(days), FRAME.copy()
    past = slice(ORIGIN - 24 * DAYS, ORIGIN - 24 * (DAYS - days))
    frame.iloc[past] = recent.iloc[ORIGIN - 24 * days : ORIGIN].to_numpy()
    assert factor(recent)[0, ENERGY] > factor(frame)[0, ENERGY] + 0.05


def test_nothing_from_the_origin_on_is_seen(factor):
    frame = FRAME.copy()
    frame.iloc[ORIGIN:] *= 10.0
    np.testing.assert_array_equal(factor(frame), factor())


def test_hours_that_were_trained_on_do_not_count(factor):
    frame, last = restless(DAYS), FRAME.index[ORIGIN - 1]
    np.testing.assert_array_equal(factor(frame, until=last), np.ones((1, 3)))
    some, all_of_them = factor(frame, until=last - pd.Timedelta(days=4)), factor(frame)
    assert 1.0 < some[0, ENERGY] < all_of_them[0, ENERGY]


def test_many_origins_at_once_get_what_each_gets_alone(factor):
    frame, origins = restless(10), [24 * 60, ORIGIN - 30, ORIGIN - 24, ORIGIN]
    alone = [factor(frame, [origin])[0] for origin in origins]
    np.testing.assert_allclose(factor(frame, origins), alone, rtol=1e-6)


def test_a_silent_signal_keeps_its_width_and_changes_no_other(factor):
    frame = restless(DAYS)
    frame.iloc[ORIGIN - 24 * (DAYS + 2) :, frame.columns.get_loc("pm25")] = np.nan
    found = factor(frame)
    assert found[0, TARGETS.index("pm25")] == 1.0
    np.testing.assert_allclose(found[0, ENERGY], factor(restless(DAYS))[0, ENERGY], rtol=1e-3)


def test_a_forecast_is_as_wide_as_the_last_weeks_ask_for_where_the_bundle_knows_its_training(tmp_path):
    bundle = Bundle.load(bundle_folder(tmp_path))
    calm = np.tile(np.asarray(QUANTILE_LEVELS) - 0.5, (30, 12, 3, 1))
    bundle.calibration = fit_calibration(calm, np.zeros((30, 12, 3)))
    frame, origin = restless(DAYS), FRAME.index[ORIGIN].to_pydatetime()

    def energy():
        members = WorldModelForecaster(bundle).forecast_batch(frame, CITY, [origin], 12, 201, 0)
        return np.sort(members[0, :, :, ENERGY], axis=0)

    before = energy()
    usual = UsualErrors(UNTIL, np.array([1.5, 1.5, 1.5]))
    bundle.calibration[USUAL_ERRORS] = {CITY.name: usual.document()}
    after = energy()
    series = build_series(frame[frame.index < origin], CITY.name, bundle.spec, end=FRAME.index[-1])
    expected = recent_factor(series, np.array([ORIGIN]), usual)[0, ENERGY]
    assert expected != pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(after[100], before[100], rtol=1e-6)
    np.testing.assert_allclose((after[-20] - after[20]) / (before[-20] - before[20]), expected, rtol=0.02)


def test_one_wild_hour_is_no_restless_month(factor, monkeypatch):
    frame = FRAME.copy()
    frame.iloc[ORIGIN - 70, frame.columns.get_loc("energy_mwh")] *= 50.0
    one_day_at_most = SIZE_MAX / 12 / PRIOR_DAYS  # one of twelve hours, beside the prior
    limit = factor()[0, ENERGY] + one_day_at_most
    assert factor(frame)[0, ENERGY] < limit
    monkeypatch.setattr("urbanwm.features.recent_errors.SIZE_MAX", 1e9)
    assert factor(frame)[0, ENERGY] > limit


def test_errors_as_long_tailed_as_in_training_are_usual():
    random = np.random.default_rng(3)
    calm, tailed = random.standard_normal((3, 9000)), random.standard_t(3, (3, 9000))
    sizes = [
        UsualErrors.measured(UNTIL, errors / np.exp(np.log(np.abs(errors)).mean()))
        for errors in (calm, tailed)
    ]
    assert sizes[0].mean_size == pytest.approx(1.51, abs=0.03)  # of a Gaussian
    assert (sizes[1].mean_size > sizes[0].mean_size + 0.1).all()


def test_usual_errors_survive_a_document_and_a_target_without_errors_stays_unknown():
    relative = np.stack([np.full(9, 2.0), np.full(9, np.nan), np.array([1.0] * 8 + [99.0])])
    usual = UsualErrors.measured(UNTIL, relative)
    np.testing.assert_allclose(usual.mean_size, [2.0, np.nan, (8 + SIZE_MAX) / 9])
    read = UsualErrors.read(json.loads(json.dumps(usual.document())))
    assert read.trained_until == UNTIL
    np.testing.assert_allclose(read.mean_size, usual.mean_size, atol=1e-6)


GOOD = {"trained_until": UNTIL.isoformat(), "mean_size": {"pm25": 1.5}}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("trained_until", "yesterday"),
        ("trained_until", 7),
        ("trained_until", "2026-01-31T08:00:00"),
        ("mean_size", {"pm25": "large"}),
        ("mean_size", {"pm25": -1.0}),
        ("mean_size", [1.5]),
    ],
)
def test_usual_errors_that_cannot_be_read_are_refused_by_name(part, value):
    assert usual_errors({USUAL_ERRORS: {"demo": GOOD}}, "demo") is not None
    with pytest.raises(BundleInvalid, match=r"usual_errors|mean_size"):
        usual_errors({USUAL_ERRORS: {"demo": GOOD | {part: value}}}, "demo")


def test_a_city_of_which_nothing_was_noted_has_no_usual_errors():
    assert usual_errors({}, "demo") is None
