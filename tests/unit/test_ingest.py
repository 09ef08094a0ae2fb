"""Ingest: from sources to the lake, twice the same, and whatever one source does the others go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

import urbanwm.ingest.gather
import urbanwm.ingest.plan
from tests.fake_source import START, Config, city
from urbanwm.cities import City, load_city
from urbanwm.errors import (
    BadInput,
    DataUnavailable,
    InternalContractBroken,
    MalformedPayload,
    NoData,
    UpstreamUnavailable,
)
from urbanwm.ingest import city_now, ingest_city
from urbanwm.lake import Lake
from urbanwm.settings import Settings, load_settings
from urbanwm.sources import file
from urbanwm.sources.base import SourceConfig, Traits

NOW = datetime(2025, 3, 10, 12, 20, tzinfo=UTC)


class Clock:
    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def entry(station: str = "1") -> SourceConfig:
    return Config(source="fake", station=station)


def hourly(
    first: datetime, count: int, value: Callable[[int], float] = lambda i: 10 + i % 7 + 0.5
) -> Callable:
    return lambda ctx: {first + timedelta(hours=i): value(i) for i in range(count)}


def file_config(path, **options: object) -> SourceConfig:
    return file.Config(source="file", path=str(path), **options)


def test_new_hours_reach_the_lake_with_their_provenance(source, settings, lake):
    source.values["1"] = hourly(NOW.replace(minute=0) - timedelta(hours=10), 10)
    report = ingest_city(city({"pm25": [entry()]}), settings, clock=Clock())
    assert (report.inserted, report.updated) == (10, 0)
    assert report.rows_by_signal == {"pm25": 10}
    found = lake.read_provenance("x")
    assert set(found["source"]) == {"fake:1"}
    assert set(found["available_at"]) == {pd.Timestamp(NOW)}
    assert report.last_timestamp == NOW.replace(minute=0) - timedelta(hours=1)


def test_a_second_run_writes_nothing(source, settings, lake):
    source.values["1"] = hourly(NOW.replace(minute=0) - timedelta(days=5), 120)
    place, clock = city({"pm25": [entry()]}), Clock()
    first = ingest_city(place, settings, clock=clock)
    clock.now += timedelta(minutes=10)
    second = ingest_city(place, settings, clock=clock)
    assert (second.inserted, second.updated, second.version) == (0, 0, first.version)
    assert set(lake.read_provenance("x")["available_at"]) == {pd.Timestamp(NOW)}


def test_a_corrected_value_is_known_from_when_it_was_fetched(source, settings, lake):
    first = NOW.replace(minute=0) - timedelta(hours=5)
    place, clock = city({"pm25": [entry()]}), Clock()
    source.values["1"] = hourly(first, 5, lambda i: 10.5)
    ingest_city(place, settings, clock=clock)
    clock.now += timedelta(minutes=30)
    source.values["1"] = hourly(first, 5, lambda i: 9.5 if i == 2 else 10.5)
    report = ingest_city(place, settings, clock=clock)
    assert (report.inserted, report.updated) == (0, 1)
    found = lake.read_provenance("x")
    assert found["value"].tolist() == [10.5, 10.5, 9.5, 10.5, 10.5]
    assert found["available_at"].iloc[2] == pd.Timestamp(clock.now)


def test_the_preferred_source_wins_and_the_other_fills_its_holes(source, settings, lake):
    first = NOW.replace(minute=0) - timedelta(hours=6)
    source.values["good"] = hourly(first, 3, lambda i: 10.5 + i)
    source.values["poor"] = hourly(first, 6, lambda i: 50.5 + i)
    ingest_city(city({"pm25": [entry("good"), entry("poor")]}), settings, clock=Clock())
    assert lake.read("x")["pm25"].tolist() == [10.5, 11.5, 12.5, 53.5, 54.5, 55.5]


def test_a_source_that_was_away_is_asked_for_what_it_missed(source, settings):
    start = NOW.replace(minute=0) - timedelta(days=6)
    source.values["good"], source.values["poor"] = hourly(start, 24), hourly(start, 24 * 6)
    place = city({"pm25": [entry("good"), entry("poor")]})
    ingest_city(place, settings, clock=Clock())
    source.asked.clear()
    ingest_city(place, settings, clock=Clock())
    windows = {station: window for _, station, window in source.asked}
    assert windows["good"].start == start + timedelta(hours=23) - timedelta(hours=72)
    assert windows["poor"].start == NOW.replace(minute=0) - timedelta(hours=1 + 72)


def test_one_failing_source_is_recorded_and_the_others_go_on(source, settings):
    source.values["ok"] = hourly(NOW.replace(minute=0) - timedelta(hours=3), 3)
    source.failures["down"] = UpstreamUnavailable("it is down", source="fake")
    place = city({"pm25": [entry("down"), entry("ok")], "no2": [entry("down")]})
    report = ingest_city(place, settings, clock=Clock())
    assert report.inserted == 3
    assert [(e["source"], e["signal"], e["type"], e["retryable"]) for e in report.errors] == [
        ("fake:down", "pm25", "UpstreamUnavailable", True),
        ("fake:down", "no2", "UpstreamUnavailable", True),
    ]


def test_a_failing_upstream_is_not_asked_for_the_other_months(source, settings):
    source.failures["1"] = UpstreamUnavailable("it is down", source="fake")
    with pytest.raises(DataUnavailable, match="it is down"):
        ingest_city(city({"pm25": [entry()]}), settings, start=START - timedelta(days=100), clock=Clock())
    assert len(source.asked) == 1


def test_an_empty_month_does_not_end_a_backfill(source, settings, monkeypatch):
    source.values["1"] = hourly(START, 24)
    fetch = source.fetch

    def empty_in_february(ctx):
        if ctx.window.start.month == 2:
            source.asked.append((ctx.signal, "1", ctx.window))
            raise NoData("nothing in February", source="fake")
        yield from fetch(ctx)

    monkeypatch.setattr(source, "fetch", empty_in_february)
    report = ingest_city(city({"pm25": [entry()]}), settings, start=START - timedelta(days=20), clock=Clock())
    assert report.inserted == 24
    assert [error["type"] for error in report.errors] == ["NoData"]


def test_a_backfill_goes_month_by_month_and_asks_only_for_what_is_missing(source, settings):
    source.values["1"] = hourly(datetime(2025, 1, 1, tzinfo=UTC), 24 * 80)
    place = city({"pm25": [entry()]})
    seen: list[tuple[str, int, int]] = []
    ingest_city(
        place,
        settings,
        start=datetime(2025, 1, 1, tzinfo=UTC),
        end=datetime(2025, 3, 5, tzinfo=UTC),
        clock=Clock(),
        progress=lambda *call: seen.append(call),
    )
    assert [window.start.month for _, _, window in source.asked] == [1, 2, 3]
    assert seen[-1] == ("pm25 from fake:1", 3, 3)
    source.asked.clear()
    ingest_city(place, settings, start=datetime(2025, 1, 1, tzinfo=UTC), clock=Clock())
    assert [window.start for _, _, window in source.asked] == [datetime(2025, 3, 5, tzinfo=UTC)]


def test_a_month_is_safe_before_the_next_one_is_asked_for(source, settings, lake):
    versions = []
    values = hourly(datetime(2025, 1, 1, tzinfo=UTC), 24 * 60)

    def answer(ctx):
        versions.append(lake.version())
        return values(ctx)

    source.values["1"] = answer
    ingest_city(city({"pm25": [entry()]}), settings, start=datetime(2025, 1, 1, tzinfo=UTC), clock=Clock())
    assert versions == [-1, 1, 2]


def test_an_answer_beyond_the_window_is_cut(source, settings, lake):
    source.values["1"] = hourly(START, 200)
    end = START + timedelta(hours=5)
    ingest_city(city({"pm25": [entry()]}), settings, start=START, end=end, clock=Clock())
    assert len(lake.read("x")) == 5


def test_rules_are_applied_and_counted_per_source(source, settings):
    first = NOW.replace(minute=0) - timedelta(hours=4)
    source.values["1"] = lambda ctx: dict(
        zip([first + timedelta(hours=i) for i in range(4)], [-999, -2, 50_000, 12.5], strict=True)
    )
    report = ingest_city(city({"pm25": [entry()]}), settings, clock=Clock())
    assert report.dropped == {"fake:1": {"sentinel": 1, "out_of_range": 1}}
    assert report.flagged == {"fake:1": {"negative_to_zero": 1}}
    json.dumps(report.to_dict())


def test_measured_hours_that_have_not_begun_are_rejected(settings, tmp_path, lake):
    hours = pd.date_range(NOW.replace(minute=0) - timedelta(hours=2), periods=6, freq="h")
    pd.DataFrame({"timestamp": hours, "pm25": np.arange(6) + 0.5}).to_parquet(tmp_path / "x.parquet")
    place = city({"pm25": [file_config(tmp_path / "x.parquet")]})
    report = ingest_city(place, settings, end=NOW + timedelta(days=9), clock=Clock())
    assert report.dropped == {"file:x.parquet": {"future": 3}}
    assert lake.last_timestamp("x") == NOW.replace(minute=0)


def test_a_frozen_sensor_is_recognised_across_runs(source, settings, lake):
    first = NOW.replace(minute=0) - timedelta(hours=8)
    place, clock = city({"pm25": [entry()]}), Clock(first + timedelta(minutes=20))
    for hour in range(8):
        source.values["1"] = hourly(first + timedelta(hours=hour), 1, lambda i: 17.3)
        clock.now = first + timedelta(hours=hour + 1, minutes=20)
        ingest_city(place, settings, clock=clock)
    assert lake.read_provenance("x")["flags"].tolist() == [""] * 5 + ["flatline"] * 3


def test_a_file_is_compared_whole_so_that_an_old_correction_is_found(settings, tmp_path, lake):
    path = tmp_path / "x.csv"
    hours = pd.date_range(START, periods=200, freq="h")
    frame = pd.DataFrame({"timestamp": hours, "pm25": np.arange(200) % 9 + 0.5})
    frame.to_csv(path, index=False)
    place = city({"pm25": [file_config(path)]}, replay=True)
    ingest_city(place, settings, clock=Clock())
    frame.loc[3, "pm25"] = 0.25  # smaller than before: the correction must win by time, not by size
    frame.to_csv(path, index=False)
    report = ingest_city(place, settings, clock=Clock())
    assert (report.inserted, report.updated) == (0, 1)
    assert lake.read("x")["pm25"].iloc[3] == 0.25
    known_then = lake.read("x", known_at=START + timedelta(hours=5))["pm25"]
    assert known_then.iloc[3] == 0.25, "a file's hour counts as known when it is over, corrected or not"
    assert ingest_city(place, settings, clock=Clock()).updated == 0


def test_a_corrupt_file_is_a_named_failure_and_nothing_is_written(settings, tmp_path, lake):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataUnavailable, match=r"x\.parquet"):
        ingest_city(city({"pm25": [file_config(tmp_path / "x.parquet")]}), settings, clock=Clock())
    assert lake.version() == -1


def test_a_city_with_data_survives_a_night_without_any_answer(source, settings):
    source.values["1"] = hourly(NOW.replace(minute=0) - timedelta(hours=3), 3)
    place = city({"pm25": [entry()]})
    ingest_city(place, settings, clock=Clock())
    source.failures["1"] = MalformedPayload("HTML instead of JSON", source="fake")
    report = ingest_city(place, settings, clock=Clock())
    assert report.errors[0]["type"] == "MalformedPayload"
    assert report.last_timestamp is not None


def test_our_own_defect_is_not_absorbed(source, settings, monkeypatch):
    source.values["1"] = hourly(START, 3)
    monkeypatch.setattr(
        source, "parse", lambda raw, ctx: (_ for _ in ()).throw(InternalContractBroken("ours"))
    )
    with pytest.raises(InternalContractBroken):
        ingest_city(city({"pm25": [entry()]}), settings, clock=Clock())


def test_bad_questions_are_refused_before_anything_is_asked(source, settings):
    place = city({"pm25": [entry()]})
    with pytest.raises(BadInput, match="window is empty"):
        ingest_city(place, settings, start=NOW, end=NOW, clock=Clock())
    with pytest.raises(BadInput, match="did you mean 'pm25'"):
        ingest_city(place, settings, signals=["pm2"], clock=Clock())
    with pytest.raises(BadInput, match="time zone"):
        ingest_city(place, settings, start=NOW.replace(tzinfo=None), clock=Clock())
    assert not source.asked


def test_only_the_wanted_signals_are_asked_for(source, settings):
    source.values["1"] = hourly(START, 3)
    ingest_city(
        city({"pm25": [entry()], "no2": [entry()]}), settings, signals=["no2"], start=START, clock=Clock()
    )
    assert {signal for signal, _, _ in source.asked} == {"no2"}


def same_content(one: Lake, other: Lake, name: str) -> bool:
    return one.read_provenance(name).equals(other.read_provenance(name))


def rebuilt(place: City, settings: Settings, tmp_path, clock: Clock) -> tuple[Lake, object]:
    shutil.copytree(settings.raw_dir, tmp_path / "second" / "raw")
    second = load_settings(home=tmp_path / "second", cities_dir=settings.cities_dir)
    report = ingest_city(place, second, from_raw=True, clock=clock)
    return Lake(second.lake_uri), report


@pytest.mark.slow
def test_the_raw_archive_rebuilds_the_same_lake_without_the_network(source, settings, tmp_path, lake):
    first = NOW.replace(minute=0) - timedelta(hours=18)
    place, clock = city({"pm25": [entry("good"), entry("poor")], "no2": [entry("good")]}), Clock(first)
    generator = np.random.default_rng(3)
    for hour in range(0, 18, 3):
        clock.now = first + timedelta(hours=hour + 1, minutes=7)
        for station in ("good", "poor"):
            # Corrections, reversals, holes and frozen hours, drawn anew for every fetch.
            values = generator.choice([5.5, 5.5, 5.5, 7.25, -1.0, -999.0], size=hour + 4)
            source.values[station] = hourly(first, hour + 4, lambda i, values=values: float(values[i]))
        ingest_city(place, settings, clock=clock)
    asked = len(source.asked)
    source.failures = dict.fromkeys(("good", "poor"), UpstreamUnavailable("no network", source="fake"))
    second, report = rebuilt(place, settings, tmp_path, clock)
    assert not report.errors
    assert len(source.asked) == asked
    ours, theirs = lake.read_provenance("x"), second.read_provenance("x")
    unflagged = ["timestamp", "signal", "value", "source", "available_at"]
    pd.testing.assert_frame_equal(ours[unflagged], theirs[unflagged])
    again = ingest_city(place, settings, from_raw=True, clock=clock)
    assert (again.inserted, again.version) == (0, lake.version())


def test_a_long_archive_is_reduced_on_the_way(source, settings, tmp_path, lake, monkeypatch):
    place, clock = city({"pm25": [entry()]}), Clock(START + timedelta(hours=12))
    for run in range(4):
        source.values["1"] = hourly(START, 10, lambda i, run=run: 5.5 + (i + run) // 3)
        ingest_city(place, settings, start=START, clock=clock)
        clock.now += timedelta(hours=1)
    monkeypatch.setattr(urbanwm.ingest.gather, "ROWS_BEFORE_REDUCTION", 15)
    second, _ = rebuilt(place, settings, tmp_path, clock)
    assert same_content(lake, second, "x")


@pytest.mark.slow
def test_files_and_the_simulated_city_are_rebuilt_from_raw(settings, tmp_path, lake):
    demo = load_city("demo", settings)
    clock = Clock(NOW)
    first = ingest_city(demo, settings, clock=clock)
    midnight = datetime(2025, 3, 9, 23, tzinfo=UTC)  # in Berlin: a simulated city grows by whole days
    assert first.inserted == 14 * 24
    assert first.last_timestamp == midnight - timedelta(hours=1)
    clock.now += timedelta(hours=5)
    assert ingest_city(demo, settings, clock=clock).version == first.version
    clock.now += timedelta(days=1)
    assert ingest_city(demo, settings, clock=clock).inserted == 24
    second, _ = rebuilt(demo, settings, tmp_path, clock)
    assert same_content(lake, second, "demo")


def test_a_recording_replayed_night_by_night_is_rebuilt_whole(settings, tmp_path, lake):
    hours = pd.date_range(START, periods=100, freq="h")
    pd.DataFrame({"timestamp": hours, "pm25": np.arange(100) % 9 + 0.5}).to_csv(
        tmp_path / "x.csv", index=False
    )
    place, clock = city({"pm25": [file_config(tmp_path / "x.csv")]}, replay=True), Clock(START)
    for night in (1, 2, 3):
        clock.now = START + timedelta(days=night)
        report = ingest_city(place, settings, clock=clock)
        assert report.last_timestamp == clock.now - timedelta(hours=1)
        assert report.dropped["file:x.csv"]["future"] > 0
    second, _ = rebuilt(place, settings, tmp_path, clock)
    assert len(second.read("x")) == 72
    assert same_content(lake, second, "x")


def test_an_answer_of_a_source_that_left_the_city_file_is_counted(source, settings, tmp_path):
    source.values["1"], source.values["2"] = hourly(START, 3), hourly(START, 3)
    ingest_city(city({"pm25": [entry("1"), entry("2")]}), settings, start=START, clock=Clock())
    _, report = rebuilt(city({"pm25": [entry("1")]}), settings, tmp_path, Clock())
    assert report.dropped == {"fake:2": {"not_in_city_file": 1}}


def test_now_is_the_hour_or_the_end_of_a_recording(settings, source, lake):
    live, recorded = city({"pm25": [entry()]}), city({"pm25": [entry()]}, replay=True)
    assert city_now(recorded, lake, Clock()) == NOW.replace(minute=0)
    source.values["1"] = hourly(START, 7)
    ingest_city(recorded, settings, start=START, clock=Clock())
    assert city_now(recorded, lake, Clock()) == START + timedelta(hours=7)
    assert city_now(live, lake, Clock()) == NOW.replace(minute=0)


def test_a_live_source_may_give_the_hour_in_progress(source, settings, lake, monkeypatch):
    source.TRAITS = Traits(live=True)
    source.values["1"] = hourly(NOW.replace(minute=0), 1)
    place = city({"pm25": [entry()]})
    assert ingest_city(place, settings, clock=Clock()).inserted == 1
    assert lake.last_timestamp("x") == NOW.replace(minute=0)
    ingest_city(place, settings, start=START, end=START + timedelta(hours=1), clock=Clock())
    assert len(source.asked) == 1, "the past cannot be asked of a live source"


def test_one_answer_for_several_signals_is_fetched_once(source, settings, monkeypatch):
    source.TRAITS = Traits(one_answer=True)
    source.values["1"] = hourly(START, 3)
    place = city({"pm25": [entry()], "no2": [entry()], "humidity_pct": [entry("2")]})
    source.values["2"] = hourly(START, 3)
    report = ingest_city(place, settings, start=START, clock=Clock())
    assert [station for _, station, _ in source.asked] == ["1", "2"]
    assert report.rows_by_signal == {"pm25": 3, "no2": 3, "humidity_pct": 3}


def test_madrid_from_its_recording(settings, shared_dir, lake):
    path = shared_dir / "data" / "madrid.parquet"
    place = city(
        {
            "pm25": [file_config(path, column="pm25")],
            "energy_mwh": [file_config(path, column="energy_mwh", share=0.08)],
            "traffic_index": [file_config(path, column="traffic", transform="hour_of_week_ratio")],
        },
        replay=True,
    )
    report = ingest_city(place, settings, clock=Clock())
    recorded = pd.read_parquet(path).set_index("timestamp")
    frame = lake.read("x")
    np.testing.assert_array_equal(frame["pm25"], recorded["pm25"])
    np.testing.assert_allclose(frame["energy_mwh"], recorded["energy_mwh"] * 0.08)
    assert 0.9 < frame["traffic_index"].median() < 1.1
    assert report.inserted == len(recorded)
    again = ingest_city(place, settings, clock=Clock(NOW + timedelta(days=1)))
    assert (again.inserted, again.updated, again.version) == (0, 0, report.version)
