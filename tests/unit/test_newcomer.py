"""A city that the direct forecast was not fitted on corrects it by its own last weeks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.small_world import small_city, small_experiment, small_fit, small_frame, small_series
from urbanwm.contracts.signals import TARGETS
from urbanwm.features import build_series, build_spec
from urbanwm.features.newcomer import with_newcomer
from urbanwm.training.direct_fit import fit_direct

NEWCOMER = "newcomer"
DAYS = 30


@pytest.fixture(scope="module")
def spec():
    """Inputs and direct forecast of a city with a regular day."""
    inputs, _ = small_series(small_experiment("urban"))
    return replace(inputs, direct=small_fit().direct)


def lasting_frame(days, seed=3):
    """Return hours in which every target's next level is the last one, changed a little."""
    frame, random = small_frame(days), np.random.default_rng(seed)
    for name in TARGETS:
        usual = frame[name].mean()
        steps = 0.05 * usual * random.standard_normal(len(frame)).cumsum()
        frame[name] = usual * 3 + steps - steps.min()
    return frame


def errors(spec, frame, origins):
    """Return the direct forecast's absolute errors `(origins, leads, 3)`."""
    windows = build_series(frame, NEWCOMER, spec).windows(origins, 0, spec.horizon_hours)
    return np.abs(windows.skip[..., spec.skip_names.index("direct")] - windows.target)


def known_of(spec, frame):
    known = frame.iloc[: 24 * DAYS]
    city = small_city().model_copy(update={"name": NEWCOMER})
    before = spec.with_city(city, known)
    return before, with_newcomer(before, NEWCOMER, known)


def test_where_levels_last_the_next_hours_are_forecast_better_than_by_other_cities_weights(spec):
    frame = lasting_frame(DAYS + 20)
    before, after = known_of(spec, frame)
    later = np.arange(24 * DAYS, 24 * DAYS + 400, 5)
    old, new = (errors(each, frame, later)[:, :3].mean(axis=(0, 1)) for each in (before, after))
    assert (new < 0.9 * old).all(), (old, new)


def test_the_size_of_the_next_hours_errors_is_its_own(spec):
    frame = lasting_frame(DAYS + 20)
    _, after = known_of(spec, frame)
    later = np.arange(24 * DAYS, 24 * DAYS + 400, 5)
    windows = build_series(frame, NEWCOMER, after).windows(later, 0, after.horizon_hours)
    promised = windows.skip[..., after.skip_names.index("direct_log_error")][:, :3]
    made = np.log(errors(after, frame, later)[:, :3] + 1e-3)
    assert np.abs((made - promised).mean(axis=(0, 1))).max() < 0.7


@pytest.mark.slow
def test_a_signal_that_no_trained_city_has_is_as_uncertain_as_its_own_weeks_say():
    trained = small_frame(80).assign(traffic_index=np.nan)
    city = small_city()
    before = build_spec("urban", {city.name: trained}, {city.name: city}, None, 12, 12)
    fit = fit_direct({city.name: build_series(trained, city.name, before)}, before)
    frame = lasting_frame(DAYS + 20)
    _, after = known_of(replace(before, direct=fit.direct), frame)
    later = np.arange(24 * DAYS, 24 * DAYS + 400, 5)
    windows = build_series(frame, NEWCOMER, after).windows(later, 0, after.horizon_hours)
    traffic = after.targets.index("traffic_index")
    usual = np.exp(windows.skip[..., traffic, after.skip_names.index("direct_log_error")])
    inside = errors(after, frame, later)[..., traffic] < 1.645 * usual
    assert 0.8 < inside.mean() < 0.97
    assert usual.max() < 1.0


def test_less_than_two_weeks_change_nothing(spec):
    frame = lasting_frame(13)
    before = spec.with_city(small_city().model_copy(update={"name": NEWCOMER}), frame)
    assert with_newcomer(before, NEWCOMER, frame) is before


def test_a_signal_that_the_city_does_not_have_keeps_other_cities_weights(spec):
    frame = lasting_frame(DAYS)
    frame["traffic_index"] = np.nan
    before, after = known_of(spec, frame)
    assert after.direct.names == (*before.direct.names, NEWCOMER)
    row = after.direct.row(NEWCOMER)
    same = [np.array_equal(part[row], part[0]) for part in after.direct.weights]
    assert same == [False, False, True]
    assert np.array_equal(after.direct.log_error[row, 2], after.direct.log_error[0, 2])
    assert all(np.isfinite(part).all() for part in (*after.direct.weights, after.direct.log_error))


def test_gaps_and_a_long_record_are_no_obstacle(spec):
    frame = lasting_frame(120)
    frame.iloc[500:900] = np.nan
    frame = frame.drop(frame.index[1500:1600])
    before, after = known_of(spec, frame)
    whole = with_newcomer(before, NEWCOMER, frame)
    for found in (after, whole):
        assert np.isfinite(found.direct.log_error).all()
        assert not np.array_equal(found.direct.weights[0][-1], found.direct.weights[0][0])
