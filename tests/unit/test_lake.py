"""The observations table: what is written is what is read, and nothing is written twice."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable

import urbanwm.lake.stored
import urbanwm.lake.table
from tests.lake_batches import START, batch, long_batch, observation, series
from urbanwm.contracts.signals import SIGNALS, Signal
from urbanwm.errors import BadInput, DataUnavailable, InternalContractBroken, LakeConflict
from urbanwm.lake import NO_TABLE, Commit, Lake
from urbanwm.lake.upkeep import TARGET_FILE_BYTES, fragmented_partitions

PREFERENCE = {("x", "pm25"): ["best", "second"]}


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path / "lake" / "observations")


def test_an_empty_lake_says_so(lake):
    assert lake.version() == -1
    assert lake.cities() == []
    assert lake.last_timestamp("x") is None
    assert lake.compact() == 0
    with pytest.raises(DataUnavailable, match="ingest a city first"):
        lake.read("x")


def test_an_empty_batch_writes_nothing(lake):
    assert lake.upsert(batch()) == Commit(-1, 0, 0)


def test_what_is_written_is_read_on_a_full_hourly_grid(lake):
    commit = lake.upsert(batch(observation(0, 10), observation(3, 13), observation(3, 5, signal="no2")))
    frame = lake.read("x")
    assert (commit.inserted, commit.updated) == (2, 0)
    assert list(frame.columns) == list(SIGNALS)
    assert frame.index.equals(pd.date_range(START, periods=4, freq="h", name="timestamp", unit="us"))
    assert frame.index.name == "timestamp"
    np.testing.assert_array_equal(frame["pm25"], [10, np.nan, np.nan, 13])
    np.testing.assert_array_equal(frame["no2"], [np.nan, np.nan, np.nan, 5])
    assert set(frame.dtypes.astype(str)) == {"float64"}


def test_a_missing_value_stays_missing(lake):
    lake.upsert(batch(observation(0, 1), observation(0, 2, signal="no2"), observation(1, 3)))
    assert np.isnan(lake.read("x", signals=["no2"])["no2"].iloc[1])


def test_the_same_batch_again_makes_no_new_version(lake):
    rows = series([1, 2, 3])
    version = lake.upsert(rows).version
    assert lake.upsert(rows) == Commit(version)
    assert lake.upsert(pd.concat([rows, rows], ignore_index=True)) == Commit(version)


def test_a_correction_is_a_new_version_and_the_old_answer_can_be_reproduced(lake):
    before = lake.upsert(series([1, 2, 3])).version
    after = lake.upsert(batch(observation(1, 20, known=90)))
    assert (after.version, after.inserted, after.updated) == (before + 1, 0, 1)
    assert lake.read("x")["pm25"].tolist() == [1, 20, 3]
    assert lake.read("x", version=before)["pm25"].tolist() == [1, 2, 3]


def test_an_older_word_does_not_replace_a_newer_one(lake):
    lake.upsert(batch(observation(0, 5, known=10)))
    assert lake.upsert(batch(observation(0, 9, known=9))).updated == 0


def test_a_preferred_source_wins_however_late_the_other_speaks(lake):
    lake.upsert(batch(observation(0, 5, source="best", known=1)), PREFERENCE)
    lake.upsert(batch(observation(0, 9, source="second", known=99)), PREFERENCE)
    lake.upsert(batch(observation(0, 7, source="stranger", known=100)), PREFERENCE)
    assert lake.read_provenance("x")[["value", "source"]].to_numpy().tolist() == [[5, "best"]]


def test_a_less_preferred_source_fills_what_the_better_one_lacks(lake):
    lake.upsert(batch(observation(0, 5, source="best"), observation(1, 6, source="second")), PREFERENCE)
    commit = lake.upsert(batch(observation(1, 7, source="best")), PREFERENCE)
    assert commit.updated == 1
    assert lake.read_provenance("x")["source"].tolist() == ["best", "best"]


def test_repeated_keys_in_one_batch_never_make_two_rows(lake):
    lake.upsert(batch(observation(0, 1), observation(0, 1), observation(0, 3), observation(0, 2)))
    table = pa.table(DeltaTable(lake.uri).to_pyarrow_table())
    assert table.num_rows == 1
    assert lake.read("x")["pm25"].tolist() == [3]


def test_provenance_names_source_time_and_flags_of_every_value(lake):
    lake.upsert(batch(observation(0, 1, flags="citizen_sensor"), observation(0, 2, signal="no2", source="b")))
    lake.upsert(batch(observation(0, 0.5, signal="traffic_index", flags="clipped,flatline")))
    found = lake.read_provenance("x")
    assert found["signal"].tolist() == ["no2", "pm25", "traffic_index"]
    assert found["flags"].tolist() == ["", "citizen_sensor", "clipped,flatline"]
    assert found["source"].tolist() == ["b", "a", "a"]
    assert (found["available_at"] == pd.Timestamp(START + timedelta(hours=1))).all()
    stored = pa.table(DeltaTable(lake.uri).to_pyarrow_table())["flags"].to_pylist()
    assert stored == ["pm25:citizen_sensor;traffic_index:clipped,flatline"]


def test_a_correction_without_flags_takes_the_old_flags_away(lake):
    lake.upsert(batch(observation(0, 1, flags="flatline"), observation(0, 2, signal="no2", flags="model")))
    lake.upsert(batch(observation(0, 3, known=50)))
    assert lake.read_provenance("x")["flags"].tolist() == ["model", ""]


def test_known_at_hides_what_became_known_later(lake):
    lake.upsert(batch(observation(0, 1), observation(1, 2, known=48), observation(2, 3)))
    seen = lake.read("x", known_at=START + timedelta(hours=3))
    np.testing.assert_array_equal(seen["pm25"], [1, np.nan, 3])
    assert len(lake.read_provenance("x", known_at=START + timedelta(hours=3))) == 2


def test_reading_is_half_open_and_crosses_the_year(lake):
    new_year = datetime(2026, 1, 1, tzinfo=UTC)
    offset = int((new_year - START) / timedelta(hours=1))
    lake.upsert(batch(*(observation(offset + hour, hour + 10) for hour in range(-3, 3))))
    window = lake.read("x", start=new_year - timedelta(hours=2), end=new_year + timedelta(hours=1))
    assert window["pm25"].tolist() == [8, 9, 10]


def test_no_rows_in_the_range_is_data_unavailable(lake):
    lake.upsert(series([1]))
    with pytest.raises(DataUnavailable, match="no observations of x"):
        lake.read("x", start=START + timedelta(days=9))
    with pytest.raises(DataUnavailable, match="no observations of o'hara"):
        lake.read("o'hara")


def test_bad_questions_are_named(lake):
    lake.upsert(series([1]))
    with pytest.raises(BadInput, match="unknown signal 'pm2'"):
        lake.read("x", signals=["pm2"])
    with pytest.raises(BadInput, match="start has no time zone"):
        lake.read("x", start=datetime(2025, 1, 1))  # noqa: DTZ001 - the naive time is the case
    with pytest.raises(DataUnavailable, match="version"):
        lake.read("x", version=99)
    with pytest.raises(DataUnavailable, match="the lake is empty"):
        lake.read("x", version=NO_TABLE)


@pytest.mark.parametrize(
    ("column", "value"),
    [("value", np.nan), ("signal", "pm2.5"), ("timestamp", pd.Timestamp(START) + pd.Timedelta(minutes=5))],
)
def test_a_batch_that_breaks_the_contract_is_refused(lake, column, value):
    rows = series([1, 2])
    rows.loc[0, column] = value
    with pytest.raises(InternalContractBroken):
        lake.upsert(rows)
    assert lake.version() == -1


def test_naive_times_are_refused(lake):
    rows = series([1, 2])
    rows["timestamp"] = rows["timestamp"].dt.tz_localize(None)
    with pytest.raises(InternalContractBroken):
        lake.upsert(rows)


def test_last_timestamp_looks_at_city_signal_and_source(lake):
    lake.upsert(
        batch(
            observation(0, 1, source="a"),
            observation(5, 1, source="b"),
            observation(9, 1, signal="no2"),
            observation(12, 1, city="y"),
        )
    )
    assert lake.last_timestamp("x") == START + timedelta(hours=9)
    assert lake.last_timestamp("x", "pm25") == START + timedelta(hours=5)
    assert lake.last_timestamp("x", "pm25", ["a"]) == START
    assert lake.last_timestamp("x", "energy_mwh") is None
    assert lake.last_timestamp("nowhere") is None
    assert lake.cities() == ["x", "y"]


def test_a_signal_added_later_gets_its_columns_and_old_rows_stay(lake, monkeypatch):
    lake.upsert(series([1, 2]))
    ozone = Signal("o3", "µg/m³", 0, 1000, "pollutant", "ozone")
    monkeypatch.setitem(SIGNALS, "o3", ozone)
    assert lake.read("x", signals=["o3"])["o3"].isna().all()
    lake.upsert(batch(observation(1, 40, signal="o3")))
    frame = lake.read("x", signals=["pm25", "o3"])
    assert frame["pm25"].tolist() == [1, 2]
    np.testing.assert_array_equal(frame["o3"], [np.nan, 40])


def test_text_columns_read_the_same_before_and_after_a_merge(lake):
    """After a merge, pyarrow filters on text fail (string_view); reading must not notice."""
    for hour in range(3):
        lake.upsert(batch(observation(hour, hour), observation(hour, hour, city="y")))
    assert lake.read("y")["pm25"].tolist() == [0, 1, 2]
    assert lake.read_provenance("y")["source"].tolist() == ["a", "a", "a"]


def test_compaction_changes_no_value_and_then_has_nothing_to_do(lake):
    for hour in (5, 1, 3, 0, 4, 2):
        lake.upsert(batch(observation(hour, hour), observation(hour + 24, hour, city="y")))
    before = {city: lake.read_provenance(city) for city in ("x", "y")}
    assert lake.compact() == 1
    version = lake.version()
    assert lake.compact() == 0
    assert lake.version() == version
    for city, expected in before.items():
        pd.testing.assert_frame_equal(lake.read_provenance(city), expected)
    assert lake.upsert(batch(observation(2, 2))) == Commit(version)


def test_fragmentation_is_overlap_size_or_crumbs():
    day = pd.Timedelta(days=1)

    def files(count: int, size: int, stride: int) -> pd.DataFrame:
        first = [pd.Timestamp(START) + index * stride * day for index in range(count)]
        return pd.DataFrame(
            {"partition": 2025, "bytes": size, "first": first, "last": [start + 2 * day for start in first]}
        )

    assert fragmented_partitions(files(3, TARGET_FILE_BYTES, stride=2)) == []
    assert fragmented_partitions(files(3, TARGET_FILE_BYTES, stride=1)) == [2025]
    assert fragmented_partitions(files(1, 5 * TARGET_FILE_BYTES, stride=2)) == [2025]
    assert fragmented_partitions(files(40, 1000, stride=2)) == [2025]


def test_vacuum_keeps_every_version_that_lineage_needs(lake):
    versions = [lake.upsert(batch(observation(0, value, known=value))).version for value in (1, 2, 3, 4)]
    removed = lake.vacuum(versions[2:3], retention_hours=0)
    assert removed > 0
    assert lake.read("x", version=versions[2])["pm25"].tolist() == [3]
    assert lake.read("x", version=versions[3])["pm25"].tolist() == [4]
    assert lake.read("x")["pm25"].tolist() == [4]
    with pytest.raises(DataUnavailable, match="vacuumed"):
        lake.read("x", version=versions[0])


def test_vacuum_spares_files_that_a_reader_may_still_hold(lake):
    for value in (1, 2, 3):
        lake.upsert(batch(observation(0, value, known=value)))
    assert lake.vacuum([lake.version()]) == 0


@pytest.mark.parametrize("keep", [-1, 99])
def test_vacuum_refuses_a_version_that_does_not_exist(lake, keep):
    lake.upsert(series([1]))
    with pytest.raises(BadInput, match="keep_versions"):
        lake.vacuum([keep])


def test_a_large_batch_is_written_in_several_commits(lake, monkeypatch):
    monkeypatch.setattr(urbanwm.lake.table, "ROWS_PER_COMMIT", 10)
    commit = lake.upsert(series(list(range(35))))
    assert commit.inserted == 35
    assert commit.version == 4
    assert lake.read("x")["pm25"].tolist() == list(range(35))


def test_a_writer_that_never_wins_gives_up_with_a_retryable_error(lake, monkeypatch):
    lake.upsert(series([1]))
    monkeypatch.setattr(urbanwm.lake.stored, "COMMIT_PATIENCE_SECONDS", 0.2)

    def always_late(*args: object) -> Commit:
        raise urbanwm.lake.stored.CommitFailedError("a concurrent transaction won")

    monkeypatch.setattr(lake, "_upsert_once", always_late)
    with pytest.raises(LakeConflict) as caught:
        lake.upsert(series([2]))
    assert caught.value.retryable


def test_a_real_failure_is_not_retried(lake, monkeypatch):
    calls = []

    def broken(*args: object) -> Commit:
        calls.append(1)
        raise OSError("disk full")

    monkeypatch.setattr(lake, "_upsert_once", broken)
    with pytest.raises(OSError, match="disk full"):
        lake.upsert(series([2]))
    assert len(calls) == 1


def test_a_lake_can_be_sent_to_another_process(lake):
    lake.upsert(series([1, 2]))
    assert pickle.loads(pickle.dumps(lake)).read("x")["pm25"].tolist() == [1, 2]


def test_a_real_year_comes_back_bit_for_bit(lake, shared_dir):
    recorded = pd.read_parquet(shared_dir / "data" / "madrid.parquet")
    signals = ["pm25", "energy_mwh", "renewable_share", "temperature_c", "precipitation_mm"]
    lake.upsert(long_batch(recorded, "madrid", signals, "file:madrid.parquet"))
    frame = lake.read("madrid", signals=signals)
    expected = recorded.set_index("timestamp")[signals]
    assert len(frame) == len(expected)
    np.testing.assert_array_equal(frame.to_numpy(), expected.to_numpy())
