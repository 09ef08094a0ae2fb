"""The data-quality rules: what is dropped, what is flagged, and that good records pass almost untouched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from urbanwm.contracts.signals import SIGNALS
from urbanwm.contracts.tables import UTC_MICROSECONDS
from urbanwm.errors import InternalContractBroken
from urbanwm.quality import RULES, check, check_points, check_series
from urbanwm.quality.report import coverage, flag_counts, gaps

START = datetime(2025, 3, 3, tzinfo=UTC)


def rows(values, signal: str = "pm25", start: datetime = START) -> pd.DataFrame:
    stamps = pd.date_range(start, periods=len(values), freq="h").astype(UTC_MICROSECONDS)
    return pd.DataFrame(
        {"timestamp": stamps, "signal": signal, "value": np.asarray(values, dtype=float), "flags": ""}
    )


def noise(hours: int, level: float = 20.0, seed: int = 0) -> np.ndarray:
    return level * np.random.default_rng(seed).lognormal(0, 0.2, hours)


def test_every_rule_has_a_name_and_a_meaning():
    assert all(name == rule.name and rule.meaning for name, rule in RULES.items())


def test_a_plain_series_passes_untouched():
    batch = rows(noise(100))
    checked = check(batch)
    pd.testing.assert_frame_equal(checked.rows, batch)
    assert not checked.dropped
    assert not checked.flagged


@pytest.mark.parametrize(
    ("signal", "value", "rule"),
    [
        ("pm25", -5.1, "negative"),
        ("no2", -40, "negative"),
        ("pm25", -999, "sentinel"),
        ("pm25", 999, "sentinel"),
        ("temperature_c", -9999, "sentinel"),
        ("pm25", 10_001, "out_of_range"),
        ("humidity_pct", 130, "out_of_range"),
        ("pressure_hpa", 0, "out_of_range"),
        ("traffic_index", 2.4, "out_of_range"),
        ("energy_mwh", 0, "zero_is_missing"),
        ("energy_mwh", -3, "out_of_range"),
    ],
)
def test_an_impossible_value_is_dropped_and_counted(signal, value, rule):
    checked = check(rows([value], signal))
    assert checked.rows.empty
    assert checked.dropped == {rule: 1}


@pytest.mark.parametrize(
    ("signal", "value"), [("energy_mwh", 99999), ("traffic_volume", 999), ("pressure_hpa", 999), ("pm25", 0)]
)
def test_a_number_that_looks_like_a_code_but_is_possible_stays(signal, value):
    assert len(check(rows([value], signal)).rows) == 1


def test_a_small_negative_concentration_becomes_zero_with_a_flag():
    checked = check(rows([-5, -0.1, 3]))
    assert checked.rows["value"].tolist() == [0, 0, 3]
    assert checked.rows["flags"].tolist() == ["negative_to_zero", "negative_to_zero", ""]


def test_a_concentration_that_is_extreme_but_measurable_is_kept_and_flagged():
    checked = check(rows([1000, 1001, 3320]))
    assert checked.rows["value"].tolist() == [1000, 1001, 3320]
    assert checked.rows["flags"].tolist() == ["", "extreme", "extreme"]
    assert checked.flagged["extreme"] == 2


def test_flags_of_the_source_stay():
    batch = rows([-1.0]).assign(flags="citizen_sensor")
    assert check(batch).rows["flags"].tolist() == ["citizen_sensor,negative_to_zero"]


def test_hours_that_had_not_begun_are_dropped():
    checked = check(rows([1, 2, 3]), now=START + timedelta(hours=1, minutes=20))
    assert checked.rows["value"].tolist() == [1, 2]
    assert checked.dropped == {"future": 1}


def test_of_a_repeated_hour_the_last_value_counts():
    batch = pd.concat([rows([1, 2]), rows([5])], ignore_index=True)
    checked = check(batch)
    assert checked.rows["value"].tolist() == [5, 2]
    assert checked.dropped == {"duplicate": 1}


def test_a_naive_time_raises():
    batch = rows([1]).assign(timestamp=lambda frame: frame["timestamp"].dt.tz_localize(None))
    with pytest.raises(InternalContractBroken, match="naive_time"):
        check(batch)


def test_no_traffic_is_missing_by_local_day_and_true_by_night():
    checked = check(rows([0.0] * 24, "traffic_index"), timezone="Asia/Kolkata")
    local = checked.rows["timestamp"].dt.tz_convert("Asia/Kolkata").dt.hour
    assert set(local) == {22, 23, 0, 1, 2, 3, 4, 5}
    assert checked.dropped == {"zero_is_missing": 16}


def test_a_frozen_sensor_is_flagged_from_the_sixth_equal_hour():
    values = noise(30)
    values[10:20] = 17.3
    flagged = check(rows(values)).rows["flags"] == "flatline"
    assert np.flatnonzero(flagged).tolist() == [15, 16, 17, 18, 19]


def test_equal_hours_across_a_gap_are_not_a_flat_line():
    values = noise(30)
    values[10:20] = 17.3
    batch = rows(values).drop(index=[14, 15])
    assert not check(batch).flagged


def test_whole_numbers_may_repeat_for_hours():
    assert not check(rows([3, 3, 3, 3, 3, 3, 3, 3, 4], "wind_speed_ms")).flagged
    assert check(rows([28000.0] * 8, "energy_mwh")).flagged == {"flatline": 3}
    assert not check(rows([0.0] * 48, "precipitation_mm")).flagged


def test_flags_do_not_depend_on_how_the_record_is_cut():
    values = noise(24 * 40)
    values[500:520] = 17.3
    values[800:812] *= 14
    whole = check(rows(values)).rows
    found = {flag for text in whole["flags"] for flag in text.split(",")}
    assert found == {"", "flatline", "jump_suspected", "unit_jump_suspected"}
    for cut in (503, 507, 803, 810):
        early = check(rows(values).iloc[:cut]).rows
        late = check(rows(values).iloc[cut:], history=early).rows
        pd.testing.assert_frame_equal(pd.concat([early, late], ignore_index=True), whole)


def test_a_concentration_of_zero_may_repeat_and_a_whole_one_may_not():
    values = noise(40)
    values[5:15], values[20:30] = 0.0, 12.0
    flagged = check(rows(values)).rows["flags"] == "flatline"
    assert np.flatnonzero(flagged).tolist() == [25, 26, 27, 28, 29]


def test_a_spike_is_marked_and_kept():
    values = noise(40)
    values[20] = 400
    checked = check(rows(values))
    assert np.flatnonzero(checked.rows["flags"] == "jump_suspected").tolist() == [20]
    assert checked.rows["value"].iloc[20] == 400
    assert not check(rows([0.4, 0.5, 0.4, 0.6, 3.0])).flagged


def test_milligrams_for_micrograms_are_suspected():
    values = noise(24 * 20)
    values[400:] /= 1000
    assert check(rows(values)).flagged["unit_jump_suspected"] > 70


def test_energy_in_another_unit_is_dropped():
    values = noise(24 * 20, level=1000)
    values[400:] /= 1000
    checked = check(rows(values, "energy_mwh"))
    assert checked.dropped == {"unit_jump": 80}
    assert len(checked.rows) == 400


def test_a_jump_is_seen_against_the_history_in_the_lake():
    history = rows(noise(24 * 20, level=1000), "energy_mwh")
    batch = rows([1e6, 900], "energy_mwh", START + timedelta(days=20))
    assert check(batch, history=history).dropped == {"unit_jump": 1}


def test_pollution_may_rise_tenfold_but_is_marked():
    values = noise(24 * 20)
    values[400:420] *= 15
    checked = check(rows(values))
    assert not checked.dropped
    assert checked.flagged["unit_jump_suspected"] > 10


def test_whole_numbers_far_above_the_fractions_before_are_suspected_to_be_an_index():
    values = noise(24 * 30)
    values[480:] = np.round(values[480:] * 3)
    checked = check(rows(values))
    assert checked.flagged["aqi_suspected"] > 90
    unchanged_level = noise(24 * 30)
    unchanged_level[480:] = np.round(unchanged_level[480:])
    assert "aqi_suspected" not in check(rows(unchanged_level)).flagged


@pytest.mark.parametrize("days", [365, 4 * 365])
def test_swapped_days_and_months_are_found_by_their_sundays(shared_dir, days):
    energy = pd.read_parquet(shared_dir / "data" / "madrid_long.parquet").set_index("timestamp")["energy_mwh"]
    energy = energy.dropna().iloc[: days * 24]
    clean = pd.DataFrame(
        {"timestamp": energy.index, "signal": "energy_mwh", "value": energy.to_numpy(), "flags": ""}
    )
    assert not check(clean, timezone="Europe/Madrid").dropped
    local = energy.index.tz_convert("Europe/Madrid").tz_localize(None)
    labels = [t.replace(day=t.month, month=t.day) if t.day <= 12 else t for t in local]
    stamps = pd.DatetimeIndex(labels).tz_localize("Europe/Madrid", ambiguous="NaT", nonexistent="NaT")
    swapped = clean.assign(timestamp=stamps.tz_convert("UTC").astype(UTC_MICROSECONDS)).dropna()
    checked = check(swapped, timezone="Europe/Madrid")
    assert checked.dropped["day_month_swap"] == pytest.approx(0.36 * len(swapped), rel=0.05)
    kept = checked.rows["timestamp"].dt.tz_convert("Europe/Madrid").dt
    assert not ((kept.day <= 12) & (kept.day != kept.month)).any()


@pytest.mark.parametrize(
    ("name", "timezone"),
    [("madrid", "Europe/Madrid"), ("beijing", "Asia/Shanghai"), ("new_york_qmt", "America/New_York")],
)
def test_good_real_records_pass_almost_untouched(shared_dir, name, timezone):
    frame = pd.read_parquet(shared_dir / "data" / f"{name}.parquet")
    frame = frame.rename(columns={"traffic": "traffic_volume"})
    signals = [signal for signal in SIGNALS if signal in frame]
    batch = frame.melt(id_vars=["timestamp"], value_vars=signals, var_name="signal").dropna(subset="value")
    batch = batch.assign(flags="", timestamp=batch["timestamp"].astype(UTC_MICROSECONDS))
    checked = check(batch, timezone=timezone)
    # New York: one tunnel, really closed by day for 163 hours (a hurricane); a city's traffic never is.
    assert checked.dropped.total() <= (163 if name == "new_york_qmt" else 0)
    assert checked.flagged.total() < 0.0005 * len(batch)


def test_the_two_stages_together_are_the_whole_check():
    values = noise(24 * 12)
    values[[3, 50]] = [-3, -999]
    values[200:210] = 8.5
    whole = check(rows(values))
    points = check_points(rows(values))
    series = check_series(points.rows)
    pd.testing.assert_frame_equal(whole.rows, series.rows)
    assert whole.dropped == points.dropped + series.dropped


def grid(values: dict[str, list[float]], start: str = "2025-01-31T20:00Z") -> pd.DataFrame:
    index = pd.date_range(start, periods=len(next(iter(values.values()))), freq="h", name="timestamp")
    return pd.DataFrame(values, index=index)


def test_coverage_is_the_share_of_hours_per_month():
    table = coverage(grid({"pm25": [1, np.nan, 1, 1, np.nan, np.nan], "no2": [np.nan] * 6}))
    assert table.index.tolist() == ["2025-01", "2025-02"]
    assert table["pm25"].tolist() == [0.75, 0.0]
    assert table["no2"].tolist() == [0.0, 0.0]


def test_gaps_lie_between_the_first_and_the_last_value():
    nan = np.nan
    table = gaps(grid({"pm25": [nan, 1, nan, nan, 1, nan, 1, nan], "no2": [nan] * 8}))
    assert table["hours"].tolist() == [2, 1]
    assert table["start"].iloc[0] == pd.Timestamp("2025-01-31T22:00Z")
    assert table["end"].iloc[0] == pd.Timestamp("2025-02-01T00:00Z")
    assert gaps(grid({"pm25": [1.0, nan, 1.0]}), timedelta(hours=1)).empty


def test_flags_are_counted_per_signal():
    provenance = pd.DataFrame(
        {"signal": ["pm25", "pm25", "no2"], "flags": ["flatline,citizen_sensor", "flatline", ""]}
    )
    table = flag_counts(provenance)
    assert table[["signal", "flag", "hours"]].to_numpy().tolist() == [
        ["pm25", "flatline", 2],
        ["pm25", "citizen_sensor", 1],
    ]
    assert table["meaning"].tolist() == [RULES["flatline"].meaning, ""]
    assert flag_counts(provenance.iloc[2:]).empty
