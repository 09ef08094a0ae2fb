"""The data-quality rules: no change of unit gets in, and no verdict depends on how the data arrive."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from urbanwm.contracts.signals import SIGNALS
from urbanwm.contracts.tables import UTC_MICROSECONDS
from urbanwm.quality import check

HOURS_PER_DAY = 24


def energy(days: int, seed: int, level: float) -> np.ndarray:
    """A load with a daily and a weekly shape, a season and noise; between 0.5 and 1.6 of its level."""
    hour = np.arange(days * HOURS_PER_DAY)
    shape = 1 + 0.3 * np.sin(2 * np.pi * hour / 24) + 0.1 * np.sin(2 * np.pi * hour / 168)
    return level * shape * np.random.default_rng(seed).lognormal(0, 0.05, len(hour))


def batch(values: np.ndarray, signal: str = "energy_mwh") -> pd.DataFrame:
    stamps = pd.date_range("2025-03-03", periods=len(values), freq="h", tz="UTC").astype(UTC_MICROSECONDS)
    return pd.DataFrame({"timestamp": stamps, "signal": signal, "value": values, "flags": ""})


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    factor=st.sampled_from([10.0, 1000.0, 0.1, 0.001]),
    level=st.floats(50, 5000),
    start=st.integers(5 * 24, 19 * 24),
)
def test_a_change_of_unit_by_ten_or_a_thousand_is_refused_to_the_last_hour(seed, factor, level, start):
    values = energy(20, seed, level)
    values[start:] *= factor
    checked = check(batch(values))
    assert checked.dropped == {"unit_jump": len(values) - start}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), level=st.floats(50, 5000), dip=st.floats(0.55, 1.8))
def test_an_ordinary_load_is_never_refused(seed, level, dip):
    values = energy(30, seed, level)
    values[300:312] *= dip
    assert not check(batch(values)).dropped


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cut=st.integers(1, 40 * 24 - 1),
    start=st.integers(4 * 24, 39 * 24),
    factor=st.sampled_from([1.0, 10.0, 0.1]),
    signal=st.sampled_from(["energy_mwh", "pm25"]),
)
def test_the_verdicts_do_not_depend_on_how_the_record_is_cut(seed, cut, start, factor, signal):
    values = energy(40, seed, 30.0)
    values[start:] *= factor
    values[start - 20 : start - 8] = 17.3
    whole = check(batch(values, signal)).rows
    early = check(batch(values, signal).iloc[:cut]).rows
    late = check(batch(values, signal).iloc[cut:], history=early).rows
    pd.testing.assert_frame_equal(pd.concat([early, late], ignore_index=True), whole)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(seed, order):
    rows = batch(energy(10, seed, 900.0))
    rows.loc[[20, 40], "value"] = [0.0, -999.0]
    places = list(range(len(rows)))
    order.shuffle(places)
    shuffled = check(rows.iloc[places])
    straight = check(rows)
    pd.testing.assert_frame_equal(shuffled.rows, straight.rows)
    assert shuffled.dropped == straight.dropped == {"zero_is_missing": 1, "sentinel": 1}


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(
        st.floats(-50, 20_000, allow_nan=False) | st.sampled_from([-999.0, 0.0, 999.0]),
        min_size=1,
        max_size=60,
    )
)
def test_what_is_kept_and_what_is_dropped_is_everything(values):
    rows = batch(np.asarray(values), "pm25")
    checked = check(rows)
    assert len(checked.rows) + checked.dropped.total() == len(rows)
    assert checked.rows["value"].between(0, SIGNALS["pm25"].highest).all()


def weekly_load(years: float, seed: int, quiet_sunday: float) -> pd.DataFrame:
    """A load in Madrid with quiet Sundays and a season."""
    stamps = pd.date_range("2022-01-01", periods=int(years * 8766), freq="h", tz="UTC")
    local = stamps.tz_convert("Europe/Madrid")
    season = 1 + 0.15 * np.cos(2 * np.pi * local.dayofyear.to_numpy() / 365)
    hourly = 1 + 0.25 * np.sin(2 * np.pi * local.hour.to_numpy() / 24)
    week = np.where(local.weekday == 6, quiet_sunday, 1.0)
    noise = np.random.default_rng(seed).lognormal(0, 0.04, len(stamps))
    return batch(900 * season * hourly * week * noise).assign(timestamp=stamps.astype(UTC_MICROSECONDS))


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000), years=st.floats(0.8, 2.5), quiet_sunday=st.floats(0.75, 0.88))
def test_a_swap_of_day_and_month_is_found_and_a_straight_file_is_left_alone(seed, years, quiet_sunday):
    straight = weekly_load(years, seed, quiet_sunday)
    assert not check(straight, timezone="Europe/Madrid").dropped
    local = straight["timestamp"].dt.tz_convert("Europe/Madrid").dt.tz_localize(None)
    labels = [t.replace(day=t.month, month=t.day) if t.day <= 12 else t for t in local]
    stamps = pd.DatetimeIndex(labels).tz_localize("Europe/Madrid", ambiguous="NaT", nonexistent="NaT")
    swapped = straight.assign(timestamp=stamps.tz_convert("UTC").astype(UTC_MICROSECONDS)).dropna()
    swapped = swapped.drop_duplicates("timestamp")
    checked = check(swapped, timezone="Europe/Madrid")
    kept = checked.rows["timestamp"].dt.tz_convert("Europe/Madrid").dt
    assert checked.dropped["day_month_swap"] > 0
    assert not ((kept.day <= 12) & (kept.day != kept.month)).any()
