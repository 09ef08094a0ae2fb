"""Specification, series and windows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from tests.feature_support import START, make_city, make_frame
from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import BadInput, DataUnavailable, InternalContractBroken
from urbanwm.features import FeatureSpec, build_series, build_spec, serving_windows

HOURS = 24 * 60
CITY = make_city()
FRAME = make_frame(HOURS)
SPEC = build_spec("urban", {CITY.name: FRAME}, {CITY.name: CITY}, None, 48, 24)


def column(spec: FeatureSpec, name: str) -> int:
    return spec.known_names.index(name)


def test_the_spec_survives_json() -> None:
    assert FeatureSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


def test_a_spec_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(BadInput, match="colour"):
        FeatureSpec.from_dict({**SPEC.to_dict(), "colour": 1})


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(BadInput, match="kind"):
        build_spec("rural", {CITY.name: FRAME}, {CITY.name: CITY}, None, 48, 24)  # type: ignore[arg-type]


def test_windows_have_the_shapes_the_spec_says() -> None:
    windows = build_series(FRAME, CITY.name, SPEC).windows([100, 500], 48, 24)
    assert windows.observed.shape == windows.observed_mask.shape == (2, 72, SPEC.observed_dim)
    assert windows.known.shape == (2, 72, SPEC.known_dim)
    assert windows.action.shape == (2, 72, SPEC.action_dim)
    assert windows.target.shape == windows.target_mask.shape == (2, 72, 3)
    assert windows.skip.shape == (2, 72, 3, SPEC.skip_dim)
    assert (windows.context_hours, windows.horizon_hours, len(windows)) == (48, 24, 2)
    assert all(
        array.dtype == np.float32 and np.isfinite(array).all()
        for array in (windows.observed, windows.known, windows.action, windows.target, windows.skip)
    )


def test_the_scale_is_fitted_on_training_rows_only() -> None:
    end = START + timedelta(days=30)
    late = FRAME.copy()
    late.loc[late.index >= end, :] *= 7.0
    one, other = (
        build_spec("urban", {CITY.name: frame}, {CITY.name: CITY}, {CITY.name: end}, 48, 24)
        for frame in (FRAME, late)
    )
    assert one == other
    assert one.scalers != SPEC.scalers


def test_denormalising_undoes_normalising() -> None:
    physical = np.array([[12.0, 1800.0, 0.9], [0.0, 2500.0, 2.0]])
    np.testing.assert_allclose(
        SPEC.denormalise(CITY.name, SPEC.normalise_targets(CITY.name, physical)), physical, atol=1e-9
    )


def test_a_wild_logarithm_is_cut_at_what_can_be_true() -> None:
    assert SPEC.denormalise(CITY.name, np.full((1, 3), 1e4))[0, 0] <= 1000.0 + 1e-6


def test_a_missing_value_is_zero_and_masked() -> None:
    frame = FRAME.copy()
    frame.iloc[120, frame.columns.get_loc("pm25")] = np.nan
    series = build_series(frame, CITY.name, SPEC)
    assert series.target_mask[120].tolist() == [0.0, 1.0, 1.0]
    assert series.target[120, 0] == series.observed[120, 0] == series.observed_mask[120, 0] == 0.0


def test_an_absent_row_is_a_missing_hour() -> None:
    series = build_series(FRAME.drop(FRAME.index[200]), CITY.name, SPEC)
    assert len(series) == HOURS
    assert series.observed_mask[200].sum() == 0.0


def test_a_city_without_traffic_works_and_says_so() -> None:
    frame = FRAME.drop(columns="traffic_index")
    spec = build_spec(
        "urban",
        {CITY.name: FRAME, "quiet": frame},
        {CITY.name: CITY, "quiet": make_city("quiet")},
        None,
        48,
        24,
    )
    windows = build_series(frame, "quiet", spec).windows([300], 48, 24)
    assert not windows.target_mask[..., 2].any()
    assert not windows.skip[:, :, 2].any()
    assert windows.known[0, :, column(spec, "traffic_index_history_missing")].all()
    assert spec.scalers["quiet"].borrowed == ("traffic_index",)
    assert windows.city_index.tolist() == [1]


def test_a_city_never_seen_is_scaled_by_its_own_record() -> None:
    other = make_city("elsewhere")
    frame = make_frame(24 * 30, seed=5) * 10.0
    spec = SPEC.with_city(other, frame)
    assert spec.cities == SPEC.cities
    windows = build_series(frame, "elsewhere", spec).windows([300], 48, 24)
    assert windows.city_index.tolist() == [-1]
    assert abs(float(windows.target[..., 1].mean())) < 1.0
    with pytest.raises(InternalContractBroken):
        SPEC.scaler("elsewhere")


def test_a_city_without_any_target_cannot_be_scaled() -> None:
    with pytest.raises(DataUnavailable):
        SPEC.with_city(make_city("empty"), FRAME[["temperature_c"]])


def test_last_week_is_the_value_a_week_before_in_local_time() -> None:
    series = build_series(FRAME, CITY.name, SPEC)
    # Lead 25 of an origin on a plain Wednesday: last week's same hour is known.
    origin = series.position(datetime(2024, 2, 14, tzinfo=UTC))
    windows = series.windows([origin], 48, 48)
    np.testing.assert_allclose(
        windows.skip[0, 48 + 24, :, SPEC.skip_names.index("last_week")], series.target[origin + 24 - 168]
    )


def test_on_a_holiday_last_week_gives_way_to_the_last_similar_day() -> None:
    frame = make_frame(24 * 120)
    series = build_series(frame, CITY.name, SPEC)
    # Maundy Thursday 28 March 2024 is a holiday in Madrid; the Thursday before is not.
    noon = series.position(datetime(2024, 3, 28, 11, tzinfo=UTC))
    skip = series.windows([noon - 12], 48, 24).skip[0, 48 + 12]
    last_week, similar = SPEC.skip_names.index("last_week"), SPEC.skip_names.index("similar_1")
    np.testing.assert_array_equal(skip[:, last_week], skip[:, similar])


def test_recent_deviations_fade_with_the_lead_and_levels_stay() -> None:
    windows = build_series(FRAME, CITY.name, SPEC).windows([700], 48, 24)
    fading = windows.skip[0, 48:, 1, SPEC.skip_names.index("deviation_1h")]
    level = windows.skip[0, 48:, 1, SPEC.skip_names.index("level_1h")]
    np.testing.assert_allclose(fading[3] / fading[0], np.exp(-1.0), rtol=1e-5)
    np.testing.assert_allclose(level, windows.target[0, 47, 1], atol=1e-6)


def test_the_level_of_silent_hours_is_that_of_similar_days() -> None:
    frame = FRAME.copy()
    origin = 24 * 40 + 9
    frame.iloc[origin - 30 : origin, frame.columns.get_loc("energy_mwh")] = np.nan
    series = build_series(frame, CITY.name, SPEC)
    before = series.windows([origin - 1], 48, 24).skip[0, 48, 1]
    at_origin = series.windows([origin], 48, 24).skip[0, 48, 1]
    level, similar = SPEC.skip_names.index("level_1h"), SPEC.skip_names.index("similar_8")
    np.testing.assert_allclose(at_origin[level], before[similar], atol=1e-6)
    assert abs(at_origin[level]) > 0.1
    assert at_origin[SPEC.skip_names.index("deviation_24h")] == 0.0


def test_day_of_year_needs_two_years_of_history() -> None:
    assert "year_sin" not in SPEC.known_names
    frame = make_frame(2 * 8760)
    long = build_spec("urban", {CITY.name: frame}, {CITY.name: CITY}, None, 48, 24)
    assert {"year_sin", "year_cos"} <= set(long.known_names)


def test_levers_are_the_difference_from_the_status_quo() -> None:
    city = make_city(renewable_share_status_quo=0.4)
    spec = build_spec("urban", {city.name: FRAME}, {city.name: city}, None, 48, 24)
    assert not build_series(FRAME, city.name, spec).action.any()
    driven = FRAME.assign(car_free_ratio=0.3, renewable_mix=0.6)
    np.testing.assert_allclose(build_series(driven, city.name, spec).action[5], [0.3, 0.2], rtol=1e-6)


def test_serving_sees_exactly_what_the_backtest_sees() -> None:
    series = build_series(FRAME, CITY.name, SPEC)
    origin = FRAME.index[900].to_pydatetime()
    live = serving_windows(FRAME, CITY.name, SPEC, origin, 24)
    past = series.windows([900], 48, 24)
    np.testing.assert_array_equal(live.known, past.known)
    np.testing.assert_array_equal(live.skip, past.skip)
    np.testing.assert_array_equal(live.observed[:, :48], past.observed[:, :48])
    assert not live.observed_mask[:, 48:].any()


def test_a_history_shorter_than_the_context_is_padded_with_missing_hours() -> None:
    windows = serving_windows(FRAME.iloc[:10], CITY.name, SPEC, FRAME.index[10].to_pydatetime(), 168)
    assert windows.observed.shape[1] == 48 + 168
    assert windows.observed_mask[0, :, 0].sum() == 10


@pytest.mark.parametrize(
    ("origins", "horizon", "field"),
    [([10], 24, "origins"), ([HOURS - 5], 24, "origins"), ([], 24, "origins"), ([100], 169, "horizon_hours")],
)
def test_a_window_outside_the_series_is_refused(origins: list[int], horizon: int, field: str) -> None:
    with pytest.raises(BadInput) as refusal:
        build_series(FRAME, CITY.name, SPEC).windows(origins, 48, horizon)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    "frame",
    [
        FRAME.tz_localize(None),
        pd.concat([FRAME.iloc[:5], FRAME.iloc[:5]]),
        FRAME.iloc[:0],
        FRAME.iloc[::-1],
    ],
    ids=["naive", "duplicated", "empty", "backwards"],
)
def test_a_frame_off_the_hour_grid_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(BadInput):
        build_series(frame, CITY.name, SPEC)


def test_the_reference_has_the_twelve_inputs_and_raw_targets() -> None:
    spec = build_spec("reference", {CITY.name: FRAME}, {CITY.name: CITY}, None, 0, 50)
    series = build_series(FRAME, CITY.name, spec)
    windows = series.windows([24], 0, 50)
    assert (spec.observed_dim, spec.known_dim, spec.skip_dim, spec.action_dim) == (12, 0, 0, 2)
    np.testing.assert_allclose(windows.target[0, 0], FRAME[list(TARGETS)].iloc[24], rtol=1e-6)
    np.testing.assert_allclose(windows.observed[0, 0, 3:7], [0.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(series.observed[:, :3].mean(axis=0), 0.0, atol=1e-4)
    assert windows.observed[0, 0, -1] == 0.0


def test_golden_vector() -> None:
    """Fixed inputs give fixed features: a change of meaning must be a decision, not an accident."""
    series = build_series(FRAME, CITY.name, SPEC)
    windows = series.windows([1000], 48, 24)
    hour = windows.known[0, 48 + 6]
    names = ("hour_sin", "hour_cos", "is_workday", "lead_log", "energy_mwh_similar_3", "energy_mwh_level_24h")
    found = {name: round(float(hour[column(SPEC, name)]), 4) for name in names}
    assert found == {
        "hour_sin": -0.2588,
        "hour_cos": 0.9659,
        "is_workday": 0.0,
        "lead_log": 0.3793,
        "energy_mwh_similar_3": -1.3589,
        "energy_mwh_level_24h": -0.629,
    }


def test_a_gap_of_months_leaves_finite_predictions_after_it() -> None:
    frame = make_frame(24 * 150)
    frame.loc[frame.index[24 * 30 : 24 * 120], "energy_mwh"] = np.nan
    spec = build_spec("urban", {CITY.name: frame}, {CITY.name: CITY}, None, 48, 24)
    windows = build_series(frame, CITY.name, spec).windows(np.arange(200, len(frame) - 24, 7), 48, 24)
    assert np.isfinite(windows.skip).all()
    assert np.isfinite(windows.known).all()
