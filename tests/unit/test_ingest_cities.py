"""Many cities at once: one merge, one report each, and what was known ahead kept apart."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pandas as pd
import pytest
import requests
import responses

import urbanwm.ingest.plan
import urbanwm.ingest.run
import urbanwm.ingest.store
from tests.fake_source import START, Config, FakeSource, city
from urbanwm.cities import City
from urbanwm.errors import LakeConflict, UpstreamUnavailable
from urbanwm.ingest import IngestReport, gather_city, ingest_cities, ingest_city, maintain_lake, merge_cities
from urbanwm.lake import Forecasts, Lake
from urbanwm.lake.upkeep import KeptTable
from urbanwm.settings import Settings, load_settings
from urbanwm.sources import open_meteo
from urbanwm.sources.open_meteo import ENDPOINTS

HOUR = timedelta(hours=1)
NOW = START + 10 * HOUR


def at(moment: datetime) -> Callable[[], datetime]:
    return lambda: moment


@pytest.fixture
def forecasts(settings) -> Forecasts:
    return Forecasts(settings.lake_forecasts_uri)


def hourly(level: float, first: datetime = START, count: int = 13) -> Callable:
    return lambda ctx: {first + i * HOUR: level + i for i in range(count)}


def entry(station: str, **options: object) -> Config:
    return Config(source="fake", station=station, **options)


def three_cities(source: FakeSource) -> list[City]:
    source.values |= {str(number): hourly(10.5 * (number + 1)) for number in range(3)}
    return [city({"pm25": [entry(str(number))]}, name=f"c{number}") for number in range(3)]


def test_three_cities_are_one_merge_and_three_reports(source, settings, lake):
    reports = ingest_cities(three_cities(source), settings, clock=at(NOW))
    assert lake.version() == 1  # the empty table is version 0
    assert [(report.city, report.inserted, report.version) for report in reports] == [
        ("c0", 10, 1),
        ("c1", 10, 1),
        ("c2", 10, 1),
    ]
    assert [report.last_timestamp for report in reports] == [NOW - HOUR] * 3
    again = ingest_cities(three_cities(source), settings, clock=at(NOW))
    assert lake.version() == 1
    assert {report.inserted + report.updated for report in again} == {0}


def test_the_result_does_not_depend_on_who_gathers(source, settings, lake, tmp_path):
    cities = three_cities(source)
    ingest_cities(cities, settings, clock=at(NOW))
    other = load_settings(home=tmp_path / "other", history_days=14)
    with ThreadPoolExecutor(3) as pool:
        ingest_cities(cities, other, clock=at(NOW), runner=pool.map)
    for place in cities:
        expected = lake.read_provenance(place.name)
        pd.testing.assert_frame_equal(Lake(other.lake_uri).read_provenance(place.name), expected)


def test_a_city_that_fails_leaves_the_others(source, settings, lake):
    cities = three_cities(source)
    source.failures["1"] = UpstreamUnavailable("fake: maintenance", source="fake")
    first, failed, last = ingest_cities(cities, settings, clock=at(NOW))
    assert first.failure is None
    assert last.inserted == 10
    assert failed.failure is not None
    assert "no data at all for c1: fake:1 (pm25): fake: maintenance" in failed.failure["message"]
    assert failed.retryable
    assert lake.cities() == ["c0", "c2"]


def test_a_city_known_before_reports_the_source_and_goes_on(source, settings):
    cities = three_cities(source)
    ingest_cities(cities, settings, clock=at(NOW))
    source.failures["1"] = UpstreamUnavailable("fake: maintenance", source="fake")
    failed = ingest_cities(cities, settings, clock=at(NOW + HOUR))[1]
    assert (failed.failure, failed.inserted) == (None, 0)
    assert [error["message"] for error in failed.errors] == ["fake: maintenance"]


def test_a_merge_that_loses_to_other_writers_is_in_every_report(source, settings, monkeypatch):
    def busy(*arguments: object) -> None:
        raise LakeConflict("other writers kept changing the lake")

    monkeypatch.setattr(urbanwm.ingest.run, "store", busy)
    reports = ingest_cities(three_cities(source), settings, clock=at(NOW))
    assert {report.failure["type"] for report in reports} == {"LakeConflict"}
    assert all(report.retryable for report in reports)


def test_what_was_gathered_elsewhere_travels_and_is_merged_here(source, settings, lake):
    parts = [gather_city(place, settings, clock=at(NOW)) for place in three_cities(source)]
    assert lake.version() == -1
    reports: list[IngestReport] = merge_cities(pickle.loads(pickle.dumps(parts)), settings, at(NOW))
    assert [report.inserted for report in reports] == [10, 10, 10]


def test_hours_to_come_are_forecasts_and_never_observations(source, settings, lake, forecasts):
    source.keeps_forecasts = True
    source.values["1"] = hourly(5.25)
    report = ingest_city(city({"temperature_c": [entry("1")]}), settings, clock=at(NOW))
    assert (report.inserted, report.forecasts) == (10, 2)
    assert lake.last_timestamp("x") == NOW - HOUR
    issued = forecasts.issued("x", start=START, end=NOW + 9 * HOUR)
    assert issued["timestamp"].tolist() == [pd.Timestamp(NOW + HOUR), pd.Timestamp(NOW + 2 * HOUR)]
    assert set(issued["available_at"]) == {pd.Timestamp(NOW)}
    assert set(issued["flags"]) == {"model,forecast"}
    assert ingest_city(city({"temperature_c": [entry("1")]}), settings, clock=at(NOW)).forecasts == 0


def test_the_next_run_is_added_and_the_earlier_one_stays(source, settings, forecasts):
    source.keeps_forecasts = True
    place = city({"temperature_c": [entry("1")]})
    for hours, level in ((0, 5.25), (1, 7.25)):
        source.values["1"] = hourly(level, count=14)
        ingest_city(place, settings, clock=at(NOW + hours * HOUR))
    seen = [
        forecasts.read_known_ahead("x", NOW + hours * HOUR, 3)["temperature_c"].tolist() for hours in (0, 1)
    ]
    assert seen[0][1:] == [16.25, 17.25]
    assert seen[1][1:] == [19.25, 20.25]


def test_forecasts_are_rebuilt_from_raw_as_they_were(source, settings, forecasts, tmp_path):
    source.keeps_forecasts = True
    place = city({"temperature_c": [entry("1")]})
    # The third answer repeats the second: it says nothing that was not known then.
    for hours, level in ((0, 5.25), (1, 7.25), (1.5, 7.25)):
        source.values["1"] = hourly(level, count=14)
        ingest_city(place, settings, clock=at(NOW + hours * HOUR))
    window = {"start": START, "end": NOW + 9 * HOUR}
    before = forecasts.issued("x", **window)
    assert len(before) == 4
    other = load_settings(home=tmp_path / "other", history_days=14)
    shutil.copytree(settings.raw_dir, other.raw_dir)
    ingest_city(place, other, clock=at(NOW), from_raw=True)
    pd.testing.assert_frame_equal(Forecasts(other.lake_forecasts_uri).issued("x", **window), before)


def test_a_run_killed_between_the_two_merges_is_completed_by_the_next(
    source, settings, forecasts, monkeypatch
):
    source.keeps_forecasts = True
    source.values["1"] = hourly(5.25)
    place = city({"temperature_c": [entry("1")]})
    with monkeypatch.context() as patch:
        patch.setattr(urbanwm.ingest.store, "forecasts_of", lambda settings: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest_city(place, settings, clock=at(NOW))
    assert forecasts.version() == -1
    assert ingest_city(place, settings, clock=at(NOW + timedelta(minutes=5))).forecasts == 2
    assert set(forecasts.issued("x", start=START, end=NOW + 9 * HOUR)["available_at"]) == {pd.Timestamp(NOW)}


def test_another_share_of_the_zone_corrects_the_whole_record(source, settings, lake):
    """Twelve times the share would be dropped as another unit, were it taken for the same source."""
    days = 40
    first = NOW - timedelta(days=days)
    source.values["1"] = lambda ctx: {
        first + i * HOUR: 1000.5 + i % 24 for i in range(days * 24) if ctx.window.start <= first + i * HOUR
    }
    old, new = (city({"energy_mwh": [entry("1", share=share)]}) for share in (0.05, 0.6))
    ingest_city(old, settings, start=first, clock=at(NOW))
    report = ingest_city(new, settings, clock=at(NOW))
    assert report.dropped == {}
    assert report.updated == days * 24
    stored = lake.read_provenance("x")
    assert set(stored["source"]) == {"fake:1*0.6"}
    assert stored["value"].tolist() == [0.6 * (1000.5 + i % 24) for i in range(days * 24)]
    assert ingest_city(new, settings, clock=at(NOW)).updated == 0


def test_answers_archived_under_another_share_are_read_with_the_present_one(source, settings, lake):
    source.values["1"] = hourly(1000.5)
    ingest_city(city({"energy_mwh": [entry("1", share=0.5)]}), settings, clock=at(NOW))
    report = ingest_city(
        city({"energy_mwh": [entry("1", share=0.1)]}), settings, from_raw=True, clock=at(NOW)
    )
    assert report.updated == 10
    assert lake.read("x")["energy_mwh"].iloc[0] == pytest.approx(100.05)


def many_nights(source: FakeSource, settings: Settings, nights: int) -> list[int]:
    versions = []
    for night in range(nights):
        source.values["1"] = hourly(5.25 + night / 100, count=12 + night)
        report = ingest_city(city({"pm25": [entry("1")]}), settings, clock=at(NOW + night * HOUR))
        versions.append(report.version)
    return versions


def test_upkeep_waits_until_it_is_worth_it_and_then_changes_no_value(source, settings, lake):
    versions = many_nights(source, settings, 4)
    assert maintain_lake(settings, set(versions)).compacted == 0
    assert lake.version() == versions[-1]


def test_upkeep_deletes_what_no_version_in_use_needs(source, settings, lake, monkeypatch):
    monkeypatch.setattr("urbanwm.lake.upkeep.REPLACED_FILES_WORTH_A_VACUUM", 4)
    monkeypatch.setattr(KeptTable.vacuum, "__defaults__", (0,))  # no need to wait a day
    versions = many_nights(source, settings, 8)
    champion = versions[2]
    before, then = lake.read("x")["pm25"], lake.read("x", version=champion)["pm25"]
    done = maintain_lake(settings, {champion, 10_000})
    assert done.deleted_files > 0
    assert done.unknown_versions == (10_000,)
    pd.testing.assert_series_equal(lake.read("x", version=champion)["pm25"], then)
    pd.testing.assert_series_equal(lake.read("x")["pm25"], before)
    assert maintain_lake(settings, {champion}).version == done.version


def test_upkeep_of_many_small_files_puts_them_together_once(source, settings, lake, monkeypatch):
    monkeypatch.setattr("urbanwm.lake.upkeep.CRUMBS_PER_PARTITION", 2)
    for day in range(6):
        source.values["1"] = hourly(5.25, START + timedelta(days=day), 5)
        place = city({"pm25": [entry("1")]})
        first = START + timedelta(days=day)
        ingest_city(place, settings, start=first, end=first + 5 * HOUR, clock=at(NOW + timedelta(days=day)))
    before = lake.read_provenance("x")
    done = maintain_lake(settings)
    assert (done.compacted, done.deleted_files) == (1, 0)
    pd.testing.assert_frame_equal(lake.read_provenance("x"), before)
    assert maintain_lake(settings) == type(done)(done.version)


def test_upkeep_of_no_lake_at_all_does_nothing(settings):
    assert maintain_lake(settings, set()).version == -1


def modelled(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
    """Answer like Open-Meteo's air quality: every hour of the days asked for."""
    first, last = (request.params[name] for name in ("start_date", "end_date"))
    hours = pd.date_range(first, pd.Timestamp(last) + timedelta(hours=23), freq="h")
    values = [round(5.3 + hour.hour / 7, 3) for hour in hours]
    times = [hour.strftime("%Y-%m-%dT%H:%M") for hour in hours]
    document = {"utc_offset_seconds": 0, "timezone": "GMT", "hourly_units": {"pm2_5": "µg/m³"}}
    return 200, {}, json.dumps({**document, "hourly": {"time": times, "pm2_5": values}})


@responses.activate
def test_modelled_air_quality_is_labelled_as_modelled_everywhere(settings, lake, forecasts):
    responses.add_callback(responses.GET, ENDPOINTS["air_quality"], modelled)
    config = open_meteo.Config(source="open_meteo", product="air_quality", forecast_days=2)
    report = ingest_city(city({"pm25": [config]}), settings, clock=at(NOW))
    stored = lake.read_provenance("x")
    assert (report.errors, report.dropped) == ([], {})
    assert stored["timestamp"].max() == pd.Timestamp(NOW - HOUR)
    assert set(stored["source"]) == {"open_meteo:cams"}
    assert set(stored["flags"]) == {"model"}
    issued = forecasts.issued("x", start=START, end=NOW + timedelta(days=9))
    assert issued["timestamp"].min() == pd.Timestamp(NOW + HOUR)
    assert issued["timestamp"].max() > pd.Timestamp(NOW + timedelta(days=2))
    assert set(issued["flags"]) == {"model,forecast"}
    # Two months were asked for; only the one that ends now reaches ahead.
    assert [call.request.params["end_date"] for call in responses.calls] == ["2025-03-01", "2025-03-03"]
