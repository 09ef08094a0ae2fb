"""The direct forecast: fitted per hour and lead, judged on what it did not see, blind to the future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tests.small_world import bundle_folder, random_direct, small_city, small_experiment, small_frame
from urbanwm.errors import BundleInvalid
from urbanwm.features import CitySeries, FeatureSpec, build_series, build_spec
from urbanwm.features.direct import FOLDS, PART_HOURS, DirectColumns, fold_of
from urbanwm.features.names import HOURLY_HOURS
from urbanwm.model.bundle import Bundle
from urbanwm.model.direct_file import read_direct, write_direct
from urbanwm.training import direct_fit, direct_sums
from urbanwm.training.direct_error import DirectFit
from urbanwm.training.direct_fit import fit_direct
from urbanwm.training.direct_sums import Expected
from urbanwm.training.sampling import hide_signals

CITY = small_city().name


def _record(days: int = 80) -> tuple[FeatureSpec, CitySeries]:
    frame = small_frame(days)
    spec = build_spec("urban", {CITY: frame}, {CITY: small_city()}, None, 12, 6)
    return spec, build_series(frame, CITY, spec)


@pytest.fixture(scope="module")
def fitted() -> tuple[FeatureSpec, CitySeries, DirectFit]:
    spec, series = _record()
    return spec, series, fit_direct({CITY: series}, spec)


def test_it_forecasts_what_is_regular_and_says_how_far_off_it_usually_is(
    fitted: tuple[FeatureSpec, CitySeries, DirectFit],
) -> None:
    spec, series, fit = fitted
    windows = replace(series, by_fold=fit.by_fold[CITY]).windows(np.arange(600, 1800, 7), 0, 6)
    columns = DirectColumns(spec)
    direct, log_error = (windows.skip[..., column] for column in columns.answer)
    seen = windows.target_mask > 0
    error = np.abs(windows.target - direct)[seen]
    assert error.mean() < np.abs(windows.target - windows.skip[..., 0])[seen].mean()  # last week's value
    inside = error < 1.645 * 1.7 * np.exp(log_error)[seen]  # the mean of a logarithm lies below the size
    assert 0.8 < inside.mean() < 0.97


@pytest.mark.slow
def test_training_windows_are_forecast_by_weights_that_never_saw_their_fortnight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Penalties and which of the other hours count less may depend on it; what they say does not.
    monkeypatch.setattr(direct_sums, "HUBER_LIMIT", 1e9)
    monkeypatch.setattr(direct_fit, "noise_by_lead", lambda sums, sizes: np.ones(sums.rows.shape[2]))
    spec, series = _record()
    fit = fit_direct({CITY: series}, spec)
    hours, fold = np.arange(len(series)), 2
    # A window of the fold before reaches a horizon into the fortnight; what lies deeper is the fold's own.
    own = (fold_of(hours) == fold) & (hours % PART_HOURS >= spec.horizon_hours)
    # Only what is learned from changes here, not what is known: `history` still holds the true past.
    target = np.where(own[:, None], np.float32(9.0), series.target)
    again = fit_direct({CITY: replace(series, target=target)}, spec)
    for before, after in zip(fit.by_fold[CITY].weights, again.by_fold[CITY].weights, strict=True):
        np.testing.assert_allclose(after[fold], before[fold], atol=1e-4)
        assert np.abs(after[0] - before[0]).max() > 0.1


@pytest.mark.slow
def test_wild_hours_do_not_bend_the_forecast_of_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, series = _record()
    wild = np.random.default_rng(0).random(len(series)) < 0.03
    # Only what is learned from is wild: what is known of the past stays as it was.
    learned = replace(series, target=np.where(wild[:, None], series.target + np.float32(8.0), series.target))

    def error() -> float:
        windows = series.windows(np.arange(600, 1800, 7), 0, 6)
        by_fold = replace(series, by_fold=fit_direct({CITY: learned}, spec).by_fold[CITY])
        by_fold.fill_direct(windows, np.arange(600, 1800, 7))
        forecast = windows.skip[..., DirectColumns(spec).answer[0]]
        return float(np.abs(windows.target - forecast)[windows.target_mask > 0].mean())

    robust = error()
    monkeypatch.setattr(direct_sums, "HUBER_LIMIT", 1e9)
    assert robust < 0.9 * error()


@pytest.mark.slow
def test_the_next_hour_is_not_blurred_by_the_noise_of_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = small_frame(150)
    random = np.random.default_rng(2)
    frame["energy_mwh"] = 1000.0 + 10.0 * np.cumsum(random.standard_normal(len(frame)))
    spec = build_spec("urban", {CITY: frame}, {CITY: small_city()}, None, 12, 12)
    series, origins = build_series(frame, CITY, spec), np.arange(600, 3500, 7)

    def error() -> tuple[float, float]:
        windows = series.windows(origins, 0, 12)
        by_fold = replace(series, by_fold=fit_direct({CITY: series}, spec).by_fold[CITY])
        by_fold.fill_direct(windows, origins)
        forecast = windows.skip[..., DirectColumns(spec).answer[0]]
        by_lead = np.abs(windows.target - forecast)[..., spec.targets.index("energy_mwh")].mean(axis=0)
        return float(by_lead[0]), float(by_lead[-1])

    first, last = error()
    monkeypatch.setattr(direct_fit, "noise_by_lead", lambda sums, sizes: np.ones(sums.rows.shape[2]))
    alike = error()
    assert first < 0.95 * alike[0]
    assert last == pytest.approx(alike[1], rel=0.05)


def test_an_hour_within_the_limit_counts_in_full_and_one_beyond_it_by_its_distance() -> None:
    expected = Expected((np.zeros((1, 24, 2, 3), np.float32),), np.ones((1, 24, 2), np.float32))
    place = 0, np.array([5, 6]), np.arange(2)
    far = np.float32(4.0 * direct_sums.HUBER_LIMIT)
    residual = np.array([[0.0, -direct_sums.HUBER_LIMIT], [far, -far]], np.float32)
    trust = expected.trust(0, place, np.ones((2, 2, 3), np.float32), residual)
    np.testing.assert_allclose(trust, [[1.0, 1.0], [0.25, 0.25]])


def test_weights_that_nothing_was_learned_for_carry_no_doubt() -> None:
    sums, penalty = direct_sums.Sums.zeros(2, 3), np.full((2, 3), 0.1)
    assert (direct_sums.variance(sums.whole(), penalty) == 0.0).all()
    sums.rows[0, 5] = 1.0
    assert (np.diag(direct_sums.variance(sums.whole(), penalty)) > 0.0).all()


def test_fortnights_belong_to_one_fold_each() -> None:
    folds = fold_of(np.arange(PART_HOURS * FOLDS * 2))
    assert set(folds.tolist()) == set(range(FOLDS))
    assert (np.diff(folds) != 0).sum() == 2 * FOLDS - 1


def test_a_city_never_seen_is_not_given_another_citys_daily_shape(
    fitted: tuple[FeatureSpec, CitySeries, DirectFit],
) -> None:
    spec, series, fit = fitted
    assert fit.direct.row("nowhere") == 0
    assert fit.direct.row(CITY) == 1
    inputs = DirectColumns(spec).inputs(series.windows([700], 0, 6))
    flat = tuple(np.zeros_like(regressors) for regressors in inputs.regressors)
    for regressors in flat:  # every level the same: nothing to add to it
        regressors[..., DirectColumns(spec).levels_of_any_kind] = 3.0
    forecast, _ = fit.direct.predict(replace(inputs, regressors=flat), np.zeros(1, dtype=np.int64))
    np.testing.assert_allclose(forecast, 3.0, atol=1e-4)


@pytest.mark.slow
def test_two_different_cities_keep_weights_of_their_own() -> None:
    frame = small_frame(90)
    other = frame.assign(energy_mwh=frame["energy_mwh"].shift(5))
    cities = {CITY: small_city(), "other": small_city().model_copy(update={"name": "other"})}
    spec = build_spec("urban", {CITY: frame, "other": other}, cities, None, 12, 12)
    series = {name: build_series(part, name, spec) for name, part in ((CITY, frame), ("other", other))}
    fit = fit_direct(series, spec)
    assert fit.direct.names == ("", CITY, "other")
    energy = fit.direct.weights[spec.targets.index("energy_mwh")]
    assert np.abs(energy[1] - energy[2]).max() > 1e-3


def test_the_same_record_gives_the_same_weights(fitted: tuple[FeatureSpec, CitySeries, DirectFit]) -> None:
    spec, series, fit = fitted
    again = fit_direct({CITY: series}, spec)
    for one, two in zip(again.direct.weights, fit.direct.weights, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(again.direct.error_weights, fit.direct.error_weights)


def test_a_later_lead_takes_the_weights_of_the_same_hour_of_the_last_day_that_has_its_own() -> None:
    frame = small_frame(60)
    spec = build_spec("urban", {CITY: frame}, {CITY: small_city()}, None, 12, 48)
    columns, series = DirectColumns(spec), build_series(frame, CITY, spec)
    inputs = columns.inputs(series.windows([600], 0, 168))
    direct = random_direct(spec)
    row = np.zeros(1, dtype=np.int64)
    forecast, _ = direct.predict(inputs, row)
    shifted = replace(inputs, lead=np.where(inputs.lead < 48, inputs.lead, 24 + inputs.lead % 24))
    np.testing.assert_array_equal(forecast, direct.predict(shifted, row)[0])
    weights = tuple(part[:, :, :12] for part in direct.weights)
    short = replace(direct, weights=weights, log_error=direct.log_error[..., :12])
    held = replace(inputs, lead=np.minimum(inputs.lead, 11))
    np.testing.assert_array_equal(short.predict(inputs, row)[0], short.predict(held, row)[0])


def test_nothing_after_the_origin_changes_the_forecast() -> None:
    frame = small_frame(60)
    spec = build_spec("urban", {CITY: frame}, {CITY: small_city()}, None, 12, 12)
    spec = replace(spec, direct=random_direct(spec))
    origin = 1000
    changed = frame.copy()
    changed.iloc[origin:] = 7.0
    one, two = (build_series(part, CITY, spec).windows([origin], 12, 48) for part in (frame, changed))
    np.testing.assert_array_equal(one.skip, two.skip)
    np.testing.assert_array_equal(one.known, two.known)


def test_a_hidden_signal_is_hidden_from_the_direct_forecast_too() -> None:
    spec, series = _record(60)
    spec = replace(spec, direct=random_direct(spec))
    series = replace(series, spec=spec)
    origins = np.arange(900, 940)
    windows = series.windows(origins, 12, 12)
    hidden = hide_signals(windows, spec, 0.9, np.random.default_rng(0))
    series.fill_direct(hidden, origins)
    answer = DirectColumns(spec).answer
    gone = hidden.known[..., [spec.known_names.index(f"{t}_history_missing") for t in spec.targets]] > 0
    assert gone.any()
    assert not hidden.skip[gone][:, answer].any()
    assert (hidden.skip[~gone][:, answer] != windows.skip[~gone][:, answer]).any()


def test_an_hour_of_the_context_is_forecast_as_by_an_origin_there() -> None:
    spec, series = _record(60)
    spec = replace(spec, direct=random_direct(spec))
    series = replace(series, spec=spec)
    windows = series.windows([900], 12, 12)
    for hour in (0, 5, 11):
        there = series.windows([900 - 12 + hour], 12, 12)
        np.testing.assert_array_equal(windows.skip[0, hour], there.skip[0, 12])
        np.testing.assert_array_equal(windows.hourly[0, hour], there.hourly[0, 12])


def test_the_last_hours_come_newest_first_and_stand_from_the_origin_on() -> None:
    _, series = _record(60)
    windows, load = series.windows([900], 12, 12), series.spec.targets.index("energy_mwh")
    seen = series.target_mask[900 - HOURLY_HOURS : 900, load][::-1] > 0
    expected = series.target[900 - HOURLY_HOURS : 900, load][::-1]
    np.testing.assert_array_equal(windows.hourly[0, 12][seen], expected[seen])
    assert (windows.hourly[0, 12:] == windows.hourly[0, 12]).all()


def test_silent_hours_of_a_load_count_as_what_similar_days_had() -> None:
    spec, series = _record(60)
    windows = series.windows(np.arange(900, 940), 12, 12)
    hidden = hide_signals(windows, spec, 0.9, np.random.default_rng(0))
    load = spec.targets.index("energy_mwh")
    changed = hidden.hourly != windows.hourly
    known = hidden.known[:, 0, spec.known_names.index("energy_mwh_history_missing")] == 0.0
    row = np.flatnonzero(changed[:, 12, 0] & known)[0]
    silent = int(changed[row, 12].sum())
    similar = hidden.skip[row, 12 - silent : 12, load, spec.skip_names.index("similar_8")][::-1]
    np.testing.assert_array_equal(hidden.hourly[row, 12, :silent], similar)
    np.testing.assert_array_equal(hidden.hourly[row, 12, silent:], windows.hourly[row, 12, silent:])


def test_a_kind_of_day_that_the_record_has_hardly_seen_is_forecast_with_a_wider_error(
    fitted: tuple[FeatureSpec, CitySeries, DirectFit],
) -> None:
    spec, series, fit = fitted
    columns, row = DirectColumns(spec), np.ones(1, dtype=np.int64)
    inputs = columns.inputs(series.windows([24 * 60], 0, 6))
    strange = columns.inputs(series.windows([24 * 60], 0, 6))
    bridge = len(columns.predictions) + columns.calendar.index(spec.known_names.index("is_bridge_day"))
    traffic = spec.targets.index("traffic_index")
    strange.regressors[traffic][..., bridge] = 1.0  # never seen in these eighty days
    usual, wide = (part.log_doubt(fit.direct.variance, row)[..., traffic] for part in (inputs, strange))
    assert (usual >= 0.0).all()
    assert usual.max() < 0.3
    assert wide.min() > usual.max() + 0.3


def test_a_short_record_does_not_learn_the_last_hours_one_by_one(
    fitted: tuple[FeatureSpec, CitySeries, DirectFit],
) -> None:
    spec, _, fit = fitted
    load = spec.targets.index("energy_mwh")
    first = sum(DirectColumns(spec).groups("energy_mwh")[:2])
    hourly = fit.direct.weights[load][1, ..., first : first + HOURLY_HOURS]
    assert np.abs(hourly).max() < 0.02
    assert np.abs(fit.direct.weights[load][1, ..., :first]).max() > 0.1


def test_the_file_of_a_bundle_gives_the_same_forecast_back() -> None:
    spec, _ = _record(60)
    direct = random_direct(spec)
    again = read_direct(write_direct(direct), spec)
    assert again is not None
    assert again.names == direct.names
    for name in ("weights", "variance"):
        for one, two in zip(getattr(again, name), getattr(direct, name), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("damage", ["weights", "not finite", "nothing"])
def test_a_direct_forecast_that_does_not_fit_is_refused(damage: str) -> None:
    spec, _ = _record(60)
    direct = random_direct(spec)
    broken = {
        "weights": replace(direct, weights=tuple(part[..., :-1] for part in direct.weights)),
        "not finite": replace(direct, log_error=direct.log_error * np.float32(np.nan)),
        "nothing": None,
    }[damage]
    with pytest.raises(BundleInvalid):
        read_direct(write_direct(broken), spec)
    with pytest.raises(BundleInvalid):
        read_direct(b"no arrays", spec)


def test_a_bundle_carries_its_direct_forecast(tmp_path: Path) -> None:
    bundle = Bundle.load(bundle_folder(tmp_path))
    assert bundle.spec.direct is not None
    assert bundle.spec.direct.names == ("", CITY)
    assert small_experiment("urban").model.kind == "urban"
    assert Bundle.load(bundle_folder(tmp_path / "reference", "reference")).spec.direct is None


def test_a_forecast_needs_no_gap_free_record() -> None:
    frame = small_frame(60)
    frame.iloc[300:420] = np.nan
    spec = build_spec("urban", {CITY: frame}, {CITY: small_city()}, None, 12, 6)
    fit = fit_direct({CITY: build_series(frame.astype(float), CITY, spec)}, spec)
    assert all(np.isfinite(part).all() for part in (*fit.direct.weights, *fit.direct.variance))
    assert np.isfinite(fit.direct.log_error).all()
    assert isinstance(frame.index, pd.DatetimeIndex)


def test_the_fit_takes_one_thread_whatever_else_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    during: list[set[int]] = []
    solve = direct_fit.solve

    def watched(*arguments: Any) -> Any:
        during.append(threads())
        return solve(*arguments)

    monkeypatch.setattr(direct_fit, "solve", watched)
    spec, series = _record(60)
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        fit_direct({CITY: series}, spec)
        assert threads() == before
    assert during
    assert all(found == {1} for found in during)
