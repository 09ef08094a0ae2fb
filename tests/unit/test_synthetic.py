"""The simulated city: an hour is always the same, levels never collapse, effects are the structural ones."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urbanwm import errors
from urbanwm.contracts.signals import ACTIONS, SIGNALS, TARGETS, WEATHER
from urbanwm.contracts.table_checks import PARSED, validate
from urbanwm.sources import synthetic as source
from urbanwm.sources.base import FetchContext, ParseContext, RawPayload, Window
from urbanwm.synthetic import BLOCK_HOURS, REFERENCE_INPUTS, SyntheticUrbanDataset
from urbanwm.synthetic.noise import Stream, autocorrelated, remember, standard_noise
from urbanwm.synthetic.parameters import PROFILES, CityParameters, Intervention

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2018, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
YEARS = 6
DEMO = SyntheticUrbanDataset(7, PROFILES["demo"])
MEASURES = SyntheticUrbanDataset(7)


@pytest.fixture(scope="module")
def record() -> pd.DataFrame:
    """Six years of the demo city."""
    return DEMO.hours(START, datetime(2018 + YEARS, 1, 1, tzinfo=UTC), "Europe/Berlin", country="DE")


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    """Six years of the city that tries measures."""
    return MEASURES.hours(START, datetime(2018 + YEARS, 1, 1, tzinfo=UTC), "Europe/Berlin", country="DE")


# --- the record ---


def test_the_record_is_a_regular_hourly_grid_without_gaps(record: pd.DataFrame) -> None:
    assert record.index.name == "timestamp"
    assert (np.diff(pd.DatetimeIndex(record.index).asi8) == 3600 * 10**6).all()
    assert np.isfinite(record.to_numpy()).all()


@pytest.mark.parametrize("profile", ["record", "measured"])
def test_every_value_lies_in_the_range_of_the_vocabulary(
    profile: str, request: pytest.FixtureRequest
) -> None:
    frame = request.getfixturevalue(profile)
    for name in set(frame.columns) & set(SIGNALS):
        assert frame[name].between(SIGNALS[name].minimum, SIGNALS[name].maximum).all(), name
    for name in ACTIONS:
        assert frame[name].between(0, 1).all(), name


def test_the_values_are_those_of_a_plausible_city(record: pd.DataFrame) -> None:
    assert record["pm25"].between(3, 150).all()
    assert record["pm25"].mean() == pytest.approx(20, abs=5)
    assert record["energy_mwh"].mean() == pytest.approx(1200, rel=0.03)
    assert record["traffic_index"].mean() == pytest.approx(1.0, abs=0.05)
    assert record["renewable_share"].mean() == pytest.approx(0.42, abs=0.03)
    assert record["temperature_c"].between(-30, 45).all()
    assert {*TARGETS, *WEATHER, *ACTIONS, "renewable_share"} <= set(record.columns)


@pytest.mark.parametrize("profile", ["record", "measured"])
@pytest.mark.parametrize("signal", TARGETS)
def test_levels_do_not_collapse_over_the_years(
    profile: str, signal: str, request: pytest.FixtureRequest
) -> None:
    yearly = request.getfixturevalue(profile)[signal].groupby(lambda stamp: stamp.year).mean()
    assert yearly.max() / yearly.min() < 1.2


def test_days_of_rest_and_holidays_are_quieter_than_workdays(record: pd.DataFrame) -> None:
    local = pd.DatetimeIndex(record.index).tz_convert("Europe/Berlin")
    noon = record[local.hour == 8]
    by_day = noon["traffic_volume"].groupby(pd.DatetimeIndex(noon.index).dayofweek).mean()
    assert by_day[6] < 0.5 * by_day[1]
    unity_day = record[(local.strftime("%m-%d") == "10-03") & (local.hour == 8) & (local.dayofweek < 5)]
    assert unity_day["traffic_index"].mean() < 0.6


def test_habits_follow_the_local_clock_through_the_change_of_summer_time(record: pd.DataFrame) -> None:
    local = pd.DatetimeIndex(record.index).tz_convert("Europe/Berlin")
    workday = local.dayofweek < 5
    for month in (1, 7):
        by_hour = record["traffic_volume"][(local.month == month) & workday].groupby(
            local.hour[(local.month == month) & workday]
        )
        assert by_hour.mean().loc[:12].idxmax() == 8


def test_weather_is_autocorrelated(record: pd.DataFrame) -> None:
    for name in ("temperature_c", "wind_speed_ms", "pressure_hpa"):
        assert record[name].autocorr(1) > 0.9
        assert abs(record[name].diff(24 * 40).dropna().mean()) < record[name].std()


def test_the_wind_confounds_renewables_with_clean_air(record: pd.DataFrame) -> None:
    assert record["wind_speed_ms"].corr(record["renewable_share"]) > 0.4
    assert record["wind_speed_ms"].corr(record["pm25"]) < -0.3
    without_effect = dataclasses.replace(CityParameters(), pm25_per_renewable_share=0.0)
    control = SyntheticUrbanDataset(7, without_effect).hours(START, START + 8000 * HOUR)
    assert control["renewable_share"].corr(control["pm25"]) < -0.2


# --- the same hour is always the same ---


@settings(deadline=None, max_examples=25)
@given(
    first=st.integers(-3 * BLOCK_HOURS, 60 * BLOCK_HOURS),
    before=st.integers(0, 300),
    length=st.integers(1, 200),
    after=st.integers(0, 300),
)
def test_an_hour_does_not_depend_on_the_window_asked_for(
    first: int, before: int, length: int, after: int
) -> None:
    start = EPOCH + first * HOUR
    narrow = MEASURES.hours(start, start + length * HOUR, "Europe/Madrid")
    wide = MEASURES.hours(start - before * HOUR, start + (length + after) * HOUR, "Europe/Madrid")
    pd.testing.assert_frame_equal(narrow, wide.loc[narrow.index], check_exact=True, check_freq=False)


def test_the_seam_between_two_blocks_is_smooth() -> None:
    seam = EPOCH + (START - EPOCH) // HOUR // BLOCK_HOURS * BLOCK_HOURS * HOUR
    around = DEMO.hours(seam - 200 * HOUR, seam + 200 * HOUR)
    for name in ("temperature_c", "pressure_hpa", "pm25"):
        steps = around[name].diff().abs()
        assert steps.loc[seam] <= steps.quantile(0.99)


def test_seeds_make_different_cities_and_one_seed_always_the_same() -> None:
    window = (START, START + 48 * HOUR)
    one, again = SyntheticUrbanDataset(1).hours(*window), SyntheticUrbanDataset(1).hours(*window)
    pd.testing.assert_frame_equal(one, again, check_exact=True)
    assert not np.allclose(one["pm25"], SyntheticUrbanDataset(2).hours(*window)["pm25"])


def test_a_known_hour_has_its_known_value() -> None:
    """A golden value: a change of the generator would silently rewrite the record of every demo lake."""
    noon = START + 36 * HOUR
    row = DEMO.hours(noon, noon + HOUR, "Europe/Berlin", country="DE").iloc[0]
    golden = [34.56862288229031, 1364.392101158121, 0.8907108915280219]
    assert row[list(TARGETS)].tolist() == pytest.approx(golden, rel=1e-9)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START, START),
        (START, START - HOUR),
        (START.replace(tzinfo=None), START + HOUR),
        (START + timedelta(minutes=30), START + HOUR),
    ],
)
def test_a_window_that_is_no_window_is_refused(start: datetime, end: datetime) -> None:
    with pytest.raises(errors.BadInput):
        DEMO.hours(start, end)


# --- measures ---


def test_nothing_is_tried_in_the_demo_city(record: pd.DataFrame) -> None:
    assert (record["car_free_ratio"] == 0).all()
    assert (record["renewable_mix"] == PROFILES["demo"].renewable_status_quo).all()


@pytest.mark.parametrize("lever", ACTIONS)
def test_measures_are_held_for_spells(measured: pd.DataFrame, lever: str) -> None:
    level = measured[lever]
    changes = (level.diff().fillna(0) != 0).sum()
    assert 0.02 * len(level) > changes > 0.005 * len(level)
    status_quo = 0.0 if lever == "car_free_ratio" else MEASURES.parameters.renewable_status_quo
    assert 0.2 < (level == status_quo).mean() < 0.8


@settings(deadline=None, max_examples=20)
@given(ratio=st.floats(0, 1), hours_in=st.integers(1, 200))
def test_a_measure_changes_nothing_before_it_starts_and_its_effect_is_the_structural_one(
    ratio: float, hours_in: int
) -> None:
    begins = START + hours_in * HOUR
    window = (START, START + 400 * HOUR)
    without = DEMO.hours(*window)
    held = DEMO.hours(*window, intervention=Intervention(begins, car_free_ratio=ratio))
    before = without.index < begins
    pd.testing.assert_frame_equal(held[before], without[before], check_exact=True)
    assert np.allclose(held["traffic_volume"][~before], without["traffic_volume"][~before] * (1 - ratio))
    assert np.allclose(held["energy_mwh"], without["energy_mwh"])
    assert (held["pm25"] <= without["pm25"] + 1e-12).all()
    assert (held["pm25"] > DEMO.parameters.pm25_background).all()


def test_a_lasting_measure_settles_at_its_level_and_goes_no_further() -> None:
    window = (START, START + 4000 * HOUR)
    without = DEMO.hours(*window)
    held = DEMO.hours(*window, intervention=Intervention(START, car_free_ratio=1.0))
    parameters = DEMO.parameters
    local = held["pm25"] - parameters.pm25_background
    local_without = without["pm25"] - parameters.pm25_background
    ratio = (local / local_without).iloc[200:]
    renewable = parameters.pm25_per_renewable_share * without["renewable_share"].iloc[200:]
    expected = 1 + parameters.pm25_per_car_free / (1 + renewable.mean())
    assert ratio.mean() == pytest.approx(expected, abs=0.01)
    assert ratio.std() < 0.02


def test_pm25_follows_a_measure_with_its_memory() -> None:
    begins = START + 100 * HOUR
    window = (START, START + 160 * HOUR)
    without = DEMO.hours(*window)["pm25"]
    held = DEMO.hours(*window, intervention=Intervention(begins, car_free_ratio=1.0))["pm25"]
    relative = (without - held) / without
    at = relative.index.get_loc(pd.Timestamp(begins))
    assert 0 < relative.iloc[at] < relative.iloc[at + 3] < relative.iloc[at + 12]


def test_a_higher_renewable_mix_acts_through_the_realised_share() -> None:
    window = (START, START + 500 * HOUR)
    without = DEMO.hours(*window)
    held = DEMO.hours(*window, intervention=Intervention(START, renewable_mix=0.6))
    moved = held["renewable_share"] - without["renewable_share"]
    assert moved.median() == pytest.approx(0.6 - DEMO.parameters.renewable_status_quo)
    factor = held["energy_mwh"] / without["energy_mwh"]
    effect = DEMO.parameters.energy_per_renewable_share
    assert np.allclose(
        factor, (1 + effect * held["renewable_share"]) / (1 + effect * without["renewable_share"])
    )


def test_a_measure_holds_in_its_hours_and_ends_and_its_echo_fades() -> None:
    window, begins = (START, START + 400 * HOUR), START + 100 * HOUR
    measure = Intervention(begins, car_free_ratio=0.5, end=begins + 48 * HOUR, hours=(7, 8))
    without = DEMO.hours(*window, "Europe/Berlin")
    held = DEMO.hours(*window, "Europe/Berlin", intervention=measure)
    local = pd.DatetimeIndex(held.index).tz_convert("Europe/Berlin").hour
    inside = (held.index >= begins) & (held.index < begins + 48 * HOUR) & np.isin(local, (7, 8))
    assert np.array_equal(held["car_free_ratio"] == 0.5, inside)
    echo = (without["pm25"] - held["pm25"]).to_numpy()
    last = int(np.flatnonzero(inside)[-1])
    assert 0 < echo[last + 12] < 0.5 * echo[last]
    assert echo[-1] < 1e-3


def test_regimes_change_the_levels_for_good_and_are_the_same_in_every_window() -> None:
    changing = SyntheticUrbanDataset(7, dataclasses.replace(CityParameters(), regime_change=0.2))
    window = (START, START + 9000 * HOUR)
    factor = changing.hours(*window)["energy_mwh"] / DEMO.hours(*window)["energy_mwh"]
    steps = factor[factor.diff().abs() > 1e-6]
    assert 4 <= len(steps) <= 8
    assert factor.nunique() > 4
    late = (START + 5000 * HOUR, START + 5100 * HOUR)
    pd.testing.assert_frame_equal(
        changing.hours(*late), changing.hours(*window).loc[late[0] : late[1] - HOUR], check_freq=False
    )


# --- sequences ---


def test_a_sequence_is_the_same_whenever_and_wherever_it_is_asked_for() -> None:
    one, again = SyntheticUrbanDataset(3)[11], SyntheticUrbanDataset(3)[11]
    for name, values in one.items():
        assert values.dtype == np.float32
        assert np.array_equal(values, again[name])
    assert {name: values.shape for name, values in one.items()} == {
        "observations": (50, len(REFERENCE_INPUTS)),
        "actions": (50, 2),
        "targets": (50, 3),
    }
    assert len(REFERENCE_INPUTS) == 12


def test_a_batch_is_the_stack_of_its_items() -> None:
    dataset = SyntheticUrbanDataset(3, sequences=40, sequence_hours=12)
    batch = dataset.windows([4, 0, 39])
    for name, values in batch.items():
        assert np.array_equal(values, np.stack([dataset[item][name] for item in (4, 0, 39)]))


def test_the_dataset_has_a_length_and_an_end() -> None:
    dataset = SyntheticUrbanDataset(3, sequences=3, sequence_hours=5)
    assert len(dataset) == 3
    assert len(list(dataset)) == 3
    with pytest.raises(IndexError):
        dataset[3]


def test_the_inputs_are_near_unit_size_and_carry_the_actions() -> None:
    batch = MEASURES.windows(np.arange(200))
    observations = batch["observations"]
    assert np.abs(observations[..., :3].mean(axis=(0, 1))).max() < 1.5
    assert np.array_equal(observations[..., 3:5], batch["actions"])
    assert (observations[..., -1] == 0).all()
    assert batch["actions"].std() > 0.1


@pytest.mark.parametrize("options", [{"seed": -1}, {"sequences": 0}, {"sequence_hours": 0}])
def test_an_impossible_dataset_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(errors.BadInput):
        SyntheticUrbanDataset(**options)


# --- noise ---


@settings(deadline=None, max_examples=50)
@given(first=st.integers(-5000, 5000), count=st.integers(1, 3000), skip=st.integers(0, 2000))
def test_a_draw_belongs_to_its_position(first: int, count: int, skip: int) -> None:
    whole = standard_noise(5, Stream.WIND, first, count + skip)
    assert np.array_equal(whole[skip:], standard_noise(5, Stream.WIND, first + skip, count))


def test_streams_and_seeds_are_independent() -> None:
    draws = [
        standard_noise(seed, stream, 0, 5000) for seed in (0, 1) for stream in (Stream.WIND, Stream.RAIN)
    ]
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.05


@pytest.mark.parametrize("memory", [0.5, 0.9, 0.985])
def test_autocorrelated_noise_has_unit_variance_and_the_stated_memory(memory: float) -> None:
    values = autocorrelated(1, Stream.TEMPERATURE, 0, 200_000, memory)[1000:]
    assert values.std() == pytest.approx(1.0, abs=0.06)
    assert np.corrcoef(values[1:], values[:-1])[0, 1] == pytest.approx(memory, abs=0.01)


def test_a_memory_of_a_constant_is_the_constant() -> None:
    assert remember(np.ones(500), 0.9)[200:] == pytest.approx(1.0)


# --- the source ---


def ask(start: datetime, end: datetime, now: datetime, **options: Any) -> list[RawPayload]:
    city = SimpleNamespace(timezone="Europe/Berlin", holidays=SimpleNamespace(country="DE", subdivision=None))
    config = source.Config(source="synthetic", **options)
    context = FetchContext(city, config, "pm25", Window(start, end), SimpleNamespace(), lambda: now)  # type: ignore[arg-type]
    return list(source.fetch(context))


def parse(raw: RawPayload, signal: str | None = None) -> pd.DataFrame:
    parsed = source.parse(raw, ParseContext(source.Config(source="synthetic"), signal, "Europe/Berlin"))
    validate(parsed.rows, PARSED)
    return parsed.rows


def test_the_source_gives_the_hours_that_are_over_with_the_citys_calendar() -> None:
    now = START + timedelta(hours=10, minutes=20)
    (raw,) = ask(START, START + 48 * HOUR, now)
    rows = parse(raw, "energy_mwh")
    expected = DEMO.hours(START, START + 10 * HOUR, "Europe/Berlin", country="DE")["energy_mwh"]
    assert rows["value"].tolist() == expected.tolist()
    assert rows["timestamp"].tolist() == expected.index.tolist()
    assert (rows["available_at"] - rows["timestamp"] == HOUR).all()
    assert (rows["available_at"] <= now).all()


def test_without_a_wanted_signal_all_signals_come() -> None:
    (raw,) = ask(START, START + 2 * HOUR, START + 9 * HOUR)
    assert {*TARGETS, *WEATHER, "renewable_share"} <= set(parse(raw)["signal"])
    assert set(parse(raw)["signal"]) <= set(SIGNALS)


def test_a_window_in_the_future_gives_nothing() -> None:
    assert ask(START, START + HOUR, START) == []


def test_asking_twice_gives_identical_bytes_for_the_archive() -> None:
    first, second = (ask(START, START + 5 * HOUR, START + later * HOUR)[0] for later in (5, 9))
    assert first.body == second.body


def test_the_label_says_which_simulated_city_it_is() -> None:
    assert source.Config(source="synthetic", seed=3, profile="measures").label == "synthetic:measures-3"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"seed": -1}', b"\xff", json.dumps({"seed": 7, "profile": "x"}).encode()],
)
def test_a_payload_that_is_no_question_is_malformed(body: bytes) -> None:
    with pytest.raises(errors.MalformedPayload):
        parse(RawPayload("synthetic", "synthetic:demo", 200, {}, body, START))


def test_a_signal_that_is_not_simulated_is_refused() -> None:
    (raw,) = ask(START, START + 2 * HOUR, START + 9 * HOUR)
    with pytest.raises(errors.RequestRefused, match="no2"):
        parse(raw, "no2")
