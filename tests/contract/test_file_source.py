"""Files: what is in them arrives in the right hour and unit; what is wrong with them is named or counted."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from urbanwm import errors
from urbanwm.contracts.table_checks import PARSED, validate
from urbanwm.sources import file
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, Window
from urbanwm.sources.usual_value import HOURS_PER_WEEK, TRAILING_WEEKS, WARM_UP_WEEKS, usual_values

NOW = datetime(2026, 1, 15, 8, tzinfo=UTC)


def parse(
    content: bytes | str,
    *,
    signal: str | None = "pm25",
    name: str = "city.csv",
    city_timezone: str = "Europe/Madrid",
    **options: Any,
) -> Parsed:
    raw = RawPayload(
        "file", f"file:{name}", 200, {}, content.encode() if isinstance(content, str) else content, NOW
    )
    config = file.Config(source="file", path=f"/data/{name}", **options)
    parsed = file.parse(raw, ParseContext(config, signal, city_timezone))
    validate(parsed.rows, PARSED)
    return parsed


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


def csv(*lines: str, header: str = "timestamp,pm25") -> str:
    return "\n".join((header, *lines)) + "\n"


def stamps(parsed: Parsed) -> list[str]:
    return [stamp.isoformat() for stamp in parsed.rows["timestamp"]]


def values(parsed: Parsed) -> list[float]:
    return parsed.rows["value"].tolist()


# --- columns and units ---


def test_a_csv_gives_hourly_rows_known_when_their_hour_is_over() -> None:
    parsed = parse(csv("2026-01-01T00:00:00Z,10", "2026-01-01T01:00:00Z,11.5"))
    assert stamps(parsed) == ["2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00"]
    assert values(parsed) == [10.0, 11.5]
    assert (parsed.rows["available_at"] - parsed.rows["timestamp"] == timedelta(hours=1)).all()
    assert set(parsed.rows["flags"]) == {""}


def test_a_parquet_file_gives_the_same_rows_as_its_csv() -> None:
    times = pd.date_range("2026-01-01", periods=30, freq="h", tz="UTC", unit="us")
    frame = pd.DataFrame({"timestamp": times, "pm25": np.linspace(1, 30, 30)})
    from_parquet = parse(parquet(frame), name="city.parquet").rows
    from_csv = parse(frame.to_csv(index=False)).rows
    pd.testing.assert_frame_equal(from_parquet, from_csv)


@pytest.mark.parametrize(
    "dtype", ["datetime64[ns, Europe/Madrid]", "datetime64[s, UTC]", "datetime64[ms]", "str"]
)
def test_any_type_of_time_column_is_read(dtype: str) -> None:
    times = pd.Series(pd.date_range("2026-01-01", periods=3, freq="h", tz="UTC"))
    if dtype == "str":
        column: Any = times.dt.strftime("%Y-%m-%d %H:%M:%S%z")
    elif "," in dtype:
        column = times.astype(dtype)
    else:
        column = times.dt.tz_localize(None).astype(dtype)
    parsed = parse(parquet(pd.DataFrame({"timestamp": column, "pm25": [1.0, 2.0, 3.0]})))
    assert stamps(parsed)[0] == "2026-01-01T00:00:00+00:00"
    assert len(parsed.rows) == 3


def test_share_and_scale_multiply_the_value_and_the_share_is_noted() -> None:
    content = csv("2026-01-01T00:00Z,30000000", header="timestamp,load_kwh")
    parsed = parse(content, signal="energy_mwh", column="load_kwh", scale=0.001, share=0.08)
    assert values(parsed) == [pytest.approx(2400.0)]
    assert parsed.notes["share"] == "0.08"


def test_a_semicolon_file_with_decimal_commas_is_read() -> None:
    content = "Fecha ; Valor\n01/02/2026 03:00; 7,5\n"
    parsed = parse(
        content,
        column="Valor",
        timestamp_column="Fecha",
        timestamp_format="%d/%m/%Y %H:%M",
        delimiter=";",
        decimal=",",
    )
    assert stamps(parsed) == ["2026-02-01T03:00:00+00:00"]
    assert values(parsed) == [7.5]


def test_one_city_of_a_shared_file_is_kept() -> None:
    content = csv("2026-01-01T00:00Z,1,a", "2026-01-01T00:00Z,2,b", header="timestamp,pm25,city")
    parsed = parse(content, city="b")
    assert values(parsed) == [2.0]
    assert not parsed.dropped


def test_without_a_wanted_signal_every_column_named_like_one_is_given() -> None:
    content = csv("2026-01-01T00:00Z,1,2,x", header="timestamp,pm25,wind_speed_ms,remark")
    assert parse(content, signal=None).rows["signal"].tolist() == ["pm25", "wind_speed_ms"]


def test_the_label_names_file_and_column_and_never_the_folder() -> None:
    config = file.Config(source="file", path="/home/someone/madrid.parquet", column="traffic")
    assert config.label == "file:madrid.parquet#traffic"


# --- time ---


def test_naive_stamps_are_read_in_the_zone_of_the_file() -> None:
    parsed = parse(csv("2026-07-01 02:00,1"), timezone="Europe/Madrid")
    assert stamps(parsed) == ["2026-07-01T00:00:00+00:00"]


def test_an_offset_in_the_text_wins_over_the_zone() -> None:
    parsed = parse(csv("2026-07-01T02:00:00+05:30,1", "2026-07-01T02:00:00,2"), timezone="Europe/Madrid")
    assert sorted(stamps(parsed)) == ["2026-06-30T20:00:00+00:00", "2026-07-01T00:00:00+00:00"]


def test_a_stamp_at_the_end_of_its_hour_moves_to_the_start() -> None:
    assert stamps(parse(csv("2026-01-01T01:00Z,1"), stamp="end")) == ["2026-01-01T00:00:00+00:00"]


def test_both_instances_of_the_autumn_hour_are_kept_in_the_order_of_the_file() -> None:
    hours = ["01:00,1", "02:00,2", "02:00,3", "03:00,4"]
    parsed = parse(csv(*[f"2025-10-26 {hour}" for hour in hours]), timezone="Europe/Madrid")
    assert stamps(parsed) == [
        f"2025-10-{day}T{hour:02d}:00:00+00:00" for day, hour in ((25, 23), (26, 0), (26, 1), (26, 2))
    ]
    assert values(parsed) == [1, 2, 3, 4]
    assert not parsed.dropped


def test_a_file_that_runs_backwards_meets_the_later_instance_first() -> None:
    hours = ["03:00,4", "02:00,3", "02:00,2", "01:00,1"]
    parsed = parse(csv(*[f"2025-10-26 {hour}" for hour in hours]), timezone="Europe/Madrid")
    assert values(parsed) == [1, 2, 3, 4]


def test_quarter_hours_survive_the_autumn_change() -> None:
    times = pd.date_range("2025-10-25 20:00", "2025-10-26 05:45", freq="15min", tz="UTC")
    wall = times.tz_convert("Europe/Madrid").strftime("%Y-%m-%d %H:%M")
    parsed = parse(csv(*[f"{stamp},{i // 4}" for i, stamp in enumerate(wall)]), timezone="Europe/Madrid")
    assert values(parsed) == list(range(10))


@pytest.mark.parametrize("copies", [1, 3])
def test_an_autumn_hour_that_cannot_be_told_is_dropped_and_counted(copies: int) -> None:
    lines = ["2025-10-26 01:00,1", *["2025-10-26 02:00,2"] * copies, "2025-10-26 03:00,4"]
    parsed = parse(csv(*lines), timezone="Europe/Madrid")
    assert values(parsed) == [1, 4]
    assert parsed.dropped == {"ambiguous_hour": copies}


def test_in_a_shuffled_file_the_autumn_hour_cannot_be_told() -> None:
    lines = ["03:00,4", "02:00,3", "05:00,9", "02:00,2", "01:00,1"]
    parsed = parse(csv(*[f"2025-10-26 {line}" for line in lines]), timezone="Europe/Madrid")
    assert parsed.dropped == {"ambiguous_hour": 2}


def test_the_spring_hour_that_no_clock_showed_is_dropped_and_counted() -> None:
    lines = ["2026-03-29 01:00,1", "2026-03-29 02:00,2", "2026-03-29 03:00,3"]
    parsed = parse(csv(*lines), timezone="Europe/Madrid")
    assert values(parsed) == [1, 3]
    assert stamps(parsed) == ["2026-03-29T00:00:00+00:00", "2026-03-29T01:00:00+00:00"]
    assert parsed.dropped == {"nonexistent_hour": 1}


def test_sub_hourly_rows_are_averaged_where_three_quarters_are_there() -> None:
    quarters = [
        "00:00Z,1",
        "00:15Z,2",
        "00:30Z,3",
        "00:45Z,6",
        "01:00Z,5",
        "01:15Z,7",
        "01:45Z,9",
        "02:00Z,1",
        "02:15Z,1",
    ]
    parsed = parse(csv(*[f"2026-01-01T{quarter}" for quarter in quarters]))
    assert values(parsed) == [3.0, 7.0]
    assert parsed.dropped == {"incomplete_hour": 1}


def test_missing_quarters_do_not_hide_the_resolution() -> None:
    lines = [
        f"2026-01-01T{hour:02d}:{minute:02d}Z,{'' if minute else 5}"
        for hour in range(6)
        for minute in (0, 15, 30, 45)
    ]
    parsed = parse(csv(*lines))
    assert parsed.rows.empty
    assert parsed.dropped == {"missing": 18, "incomplete_hour": 6}


# --- cells ---


def test_cells_without_a_finite_number_are_counted_by_reason() -> None:
    cells = ["1", "", "-", "NaN", "n/a", "inf", "-Infinity", "abc", "1 2"]
    parsed = parse(csv(*[f"2026-01-01T{hour:02d}:00Z,{cell}" for hour, cell in enumerate(cells)]))
    assert values(parsed) == [1.0]
    assert parsed.dropped == {"missing": 4, "infinite": 2, "not_a_number": 2}


def test_a_repeated_row_counts_once_and_a_changed_one_keeps_the_last_value() -> None:
    lines = ["2026-01-01T00:00Z,1", "2026-01-01T00:00Z,1", "2026-01-01T01:00Z,2", "2026-01-01T01:00Z,5"]
    parsed = parse(csv(*lines))
    assert values(parsed) == [1.0, 5.0]
    assert parsed.dropped == {"duplicate": 2}
    assert parsed.rows["flags"].tolist() == ["", "conflicting_duplicate"]


def test_a_row_cut_off_or_with_too_many_cells_is_counted_and_never_shifts_columns() -> None:
    lines = ["2026-01-01T00:00Z,1,x", "2026-01-01T01:00Z,2,y,z", "2026-01-01T02:00Z,3,w", "2026-01-01T03"]
    parsed = parse(csv(*lines, header="timestamp,pm25,remark"))
    assert values(parsed) == [1.0, 3.0]
    assert parsed.dropped == {"ragged_row": 2}


def test_quoted_cells_may_hold_the_delimiter() -> None:
    content = csv('"2026-01-01T00:00Z","7","a, b"', header='"timestamp","pm25","remark"')
    assert values(parse(content)) == [7.0]


def test_a_stamp_that_is_no_time_is_counted() -> None:
    parsed = parse(csv("2026-01-01T00:00Z,1", "yesterday,2", "2026-13-01T00:00Z,3"))
    assert values(parsed) == [1.0]
    assert parsed.dropped == {"bad_timestamp": 2}


# --- files that are wrong ---


WHOLE = parquet(
    pd.DataFrame({"timestamp": pd.date_range("2026", periods=9, freq="h", tz="UTC"), "pm25": range(9)})
)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "a.csv"),
        (b"", "a.parquet"),
        (WHOLE[:-20], "a.parquet"),
        (WHOLE[: len(WHOLE) // 2], "a.parquet"),
        (WHOLE[:200] + b"\0" * 40 + WHOLE[240:-8] + b"\xff" * 8, "a.parquet"),
        (b"timestamp,pm25\n2026-01-01T00:00Z,1\n", "a.parquet"),
        (b"timestamp,pm25\n2026-01-01T00:00Z,1,2,3,4\n2026-01-01T00:00Z,1,2,3,4,5,6\n", "a.csv"),
        (b"\xff\xfe\x00\x01", "a.csv"),
        (b"timestamp,pm25\n01/02/2026 00:00,1\n", "a.csv"),
    ],
    ids=[
        "empty csv",
        "empty parquet",
        "no footer",
        "half",
        "damaged",
        "csv as parquet",
        "ragged",
        "binary",
        "no ISO",
    ],
)
def test_a_broken_file_is_malformed_and_names_itself(content: bytes, name: str) -> None:
    with pytest.raises(errors.MalformedPayload, match=r"a\.(csv|parquet)") as caught:
        parse(content, name=name)
    assert not caught.value.retryable
    assert caught.value.field in ("path", "timestamp_column")


def test_a_file_with_columns_and_no_rows_has_no_data() -> None:
    with pytest.raises(errors.NoData, match="no rows"):
        parse(csv())


def test_a_missing_column_names_the_nearest_one() -> None:
    with pytest.raises(errors.RequestRefused, match="did you mean 'pm25'") as caught:
        parse(csv("2026-01-01T00:00Z,1"), column="pm2.5")
    assert caught.value.field == "column"
    assert caught.value.allowed == ["timestamp", "pm25"]


def test_a_missing_time_column_is_named_by_its_field() -> None:
    with pytest.raises(errors.RequestRefused) as caught:
        parse(csv("2026-01-01T00:00Z,1"), timestamp_column="zeit")
    assert caught.value.field == "timestamp_column"


def test_a_wrong_delimiter_is_guessed_at_in_the_message() -> None:
    with pytest.raises(errors.RequestRefused, match="delimiter"):
        parse("timestamp;pm25\n2026-01-01T00:00Z;1\n")


def test_a_city_that_the_file_does_not_have_is_named() -> None:
    with pytest.raises(errors.NoData, match="'paris'"):
        parse(csv("2026-01-01T00:00Z,1,rome", header="timestamp,pm25,city"), city="paris")


def test_a_transform_under_another_signal_is_refused() -> None:
    with pytest.raises(errors.RequestRefused, match="traffic_index"):
        parse(csv("2026-01-01T00:00Z,1"), transform="hour_of_week_ratio")


@pytest.mark.parametrize(
    "options",
    [
        {"share": 0},
        {"share": 1.2},
        {"share": float("nan")},
        {"scale": 0},
        {"scale": float("inf")},
        {"timezone": "Madrid"},
        {"stamp": "middle"},
        {"delimiter": ""},
        {"reference_until": "2026-01-01"},
        {"colum": "pm25"},
    ],
)
def test_an_impossible_option_is_refused_by_the_schema(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        file.Config(source="file", path="x.csv", **options)


# --- reading the disk ---


def fetch(path: str, base_dir: Path) -> list[RawPayload]:
    config = file.Config(source="file", path=path)
    city = SimpleNamespace(base_dir=base_dir)
    window = Window(NOW, NOW + timedelta(hours=1))
    return list(file.fetch(FetchContext(city, config, "pm25", window, SimpleNamespace(), lambda: NOW)))  # type: ignore[arg-type]


def test_a_file_beside_the_city_file_is_read_and_its_folder_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"timestamp,pm25\n")
    (raw,) = fetch("a.csv", tmp_path)
    assert raw.body == b"timestamp,pm25\n"
    assert raw.url == "file:a.csv"
    assert raw.fetched_at == NOW


@pytest.mark.parametrize("path", ["nowhere.csv", "."])
def test_a_file_that_cannot_be_read_is_named(path: str, tmp_path: Path) -> None:
    with pytest.raises(errors.RequestRefused, match="cannot be read") as caught:
        fetch(path, tmp_path)
    assert caught.value.field == "path"


# --- the traffic index ---


def weekly_traffic(weeks: int, seed: int = 0) -> tuple[pd.DatetimeIndex, np.ndarray]:
    """Hours from a Monday on, with a weekly pattern and noise."""
    hours = pd.date_range("2024-01-01", periods=weeks * HOURS_PER_WEEK, freq="h", tz="UTC", unit="us")
    pattern = 1000 + 500 * np.sin(2 * np.pi * np.arange(HOURS_PER_WEEK) / 24)
    noise = np.random.default_rng(seed).uniform(0.8, 1.2, len(hours))
    return hours, np.tile(pattern, weeks) * noise


def traffic_file(hours: pd.DatetimeIndex, volume: np.ndarray) -> bytes:
    return parquet(pd.DataFrame({"timestamp": hours, "volume": volume}))


def index_and_volume(parsed: Parsed) -> tuple[pd.DataFrame, pd.DataFrame]:
    tables = {name: part.set_index("timestamp") for name, part in parsed.rows.groupby("signal")}
    return tables["traffic_index"], tables["traffic_volume"]


def parse_traffic(content: bytes, **options: Any) -> Parsed:
    return parse(
        content,
        signal="traffic_index",
        name="traffic.parquet",
        column="volume",
        transform="hour_of_week_ratio",
        **options,
    )


def test_the_index_is_volume_over_its_usual_value_and_the_volume_comes_along() -> None:
    hours, volume = weekly_traffic(20)
    index, raw = index_and_volume(parse_traffic(traffic_file(hours, volume), city_timezone="UTC"))
    assert raw["value"].to_numpy() == pytest.approx(volume)
    week, slot = 15, 30
    at = week * HOURS_PER_WEEK + slot
    usual = volume[slot:at:HOURS_PER_WEEK].mean()
    assert index["value"].iloc[at] == pytest.approx(volume[at] / usual)
    assert index["value"].mean() == pytest.approx(1.0, abs=0.02)


def test_the_usual_value_is_that_of_the_local_hour_across_a_clock_change() -> None:
    hours = pd.date_range("2025-09-01", "2025-11-30", freq="h", tz="UTC", unit="us")
    local_hour = hours.tz_convert("Europe/Madrid").hour.to_numpy()
    index, _ = index_and_volume(parse_traffic(traffic_file(hours, 100.0 + 50 * local_hour)))
    assert index["value"].to_numpy() == pytest.approx(1.0)


def test_the_warm_up_is_flagged_and_nothing_after_it_knows_the_future() -> None:
    hours, volume = weekly_traffic(30)
    cut = 20 * HOURS_PER_WEEK
    changed = volume.copy()
    changed[cut:] *= 3
    before, _ = index_and_volume(parse_traffic(traffic_file(hours, volume), city_timezone="UTC"))
    after, _ = index_and_volume(parse_traffic(traffic_file(hours, changed), city_timezone="UTC"))
    pd.testing.assert_frame_equal(before.iloc[:cut], after.iloc[:cut])
    warm_up = before["flags"].str.contains("usual_warm_up").to_numpy()
    assert warm_up.tolist() == [True] * (WARM_UP_WEEKS * HOURS_PER_WEEK) + [False] * (22 * HOURS_PER_WEEK)


def test_a_lasting_change_becomes_usual_within_a_year() -> None:
    weeks = 2 * TRAILING_WEEKS + 10
    hours = pd.date_range("2022-01-03", periods=weeks * HOURS_PER_WEEK, freq="h", tz="UTC", unit="us")
    volume = np.where(np.arange(len(hours)) < len(hours) // 2, 100.0, 60.0)
    usual, _ = usual_values(hours, volume, "UTC")
    assert usual[-1] == pytest.approx(60.0)


def test_a_long_gap_holds_the_last_usual_value() -> None:
    hours, volume = weekly_traffic(150)
    kept = (np.arange(len(hours)) < 60 * HOURS_PER_WEEK) | (np.arange(len(hours)) >= 140 * HOURS_PER_WEEK)
    usual, warm_up = usual_values(hours[kept], volume[kept], "UTC")
    assert np.isfinite(usual).all()
    assert not warm_up[WARM_UP_WEEKS * HOURS_PER_WEEK :].any()


def test_a_reference_period_gives_one_constant_per_hour_of_the_week() -> None:
    hours, volume = weekly_traffic(20)
    parsed = parse_traffic(traffic_file(hours, volume), city_timezone="UTC", reference_until=date(2024, 2, 5))
    index, raw = index_and_volume(parsed)
    usual = (raw["value"] / index["value"]).to_numpy().reshape(20, HOURS_PER_WEEK)
    assert usual == pytest.approx(np.tile(volume[: 5 * HOURS_PER_WEEK].reshape(5, -1).mean(axis=0), (20, 1)))
    assert set(index["flags"]) == {""}


def test_an_index_above_two_is_clipped_and_flagged() -> None:
    hours, volume = weekly_traffic(20)
    volume[-1] *= 10
    index, raw = index_and_volume(parse_traffic(traffic_file(hours, volume), city_timezone="UTC"))
    assert index["value"].iloc[-1] == 2.0
    assert index["flags"].iloc[-1] == "clipped"
    assert raw["value"].iloc[-1] == pytest.approx(volume[-1])


def test_an_hour_without_a_usual_value_has_a_volume_and_no_index() -> None:
    hours, volume = weekly_traffic(10)
    volume[5::HOURS_PER_WEEK] = 0.0
    parsed = parse_traffic(traffic_file(hours, volume), city_timezone="UTC")
    index, raw = index_and_volume(parsed)
    assert len(raw) - len(index) == 10
    assert parsed.dropped == {"no_usual_value": 10}


def test_a_real_recording_gives_an_index_around_one_that_turns_back_into_volume(shared_dir: Path) -> None:
    source = (
        pd.read_parquet(shared_dir / "data" / "madrid.parquet").set_index("timestamp")["traffic"].dropna()
    )
    content = (shared_dir / "data" / "madrid.parquet").read_bytes()
    parsed = parse(
        content,
        signal="traffic_index",
        name="madrid.parquet",
        column="traffic",
        transform="hour_of_week_ratio",
    )
    index, raw = index_and_volume(parsed)
    assert raw["value"].to_numpy() == pytest.approx(source.to_numpy())
    assert index["value"].between(0, 2).all()
    assert index["value"].median() == pytest.approx(1.0, abs=0.05)
    usual, _ = usual_values(pd.DatetimeIndex(raw.index), raw["value"].to_numpy(), "Europe/Madrid")
    unclipped = ~index["flags"].str.contains("clipped").to_numpy()
    assert (index["value"].to_numpy() * usual)[unclipped] == pytest.approx(raw["value"].to_numpy()[unclipped])


@pytest.mark.parametrize("name", ["madrid", "madrid_long", "minneapolis", "new_york_qmt", "beijing"])
def test_every_value_of_a_real_recording_arrives_once(shared_dir: Path, name: str) -> None:
    path = shared_dir / "data" / f"{name}.parquet"
    source = pd.read_parquet(path)
    parsed = parse(path.read_bytes(), signal=None, name=path.name)
    assert parsed.dropped.keys() <= {"missing"}
    for signal, rows in parsed.rows.groupby("signal"):
        assert len(rows) == source[str(signal)].notna().sum()
