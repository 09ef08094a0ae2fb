from __future__ import annotations

import zoneinfo
from pathlib import Path

import pytest

from urbanwm.cities import City, load_cities, load_city, nightly_city_names, read_city
from urbanwm.errors import BadInput, UnknownCity
from urbanwm.settings import load_settings
from urbanwm.zones import zone_names

GOOD = """
name: somewhere
timezone: Europe/Madrid
location: {latitude: 40.4, longitude: -3.7}
signals:
  pm25: [{source: synthetic}]
"""


def city_from(tmp_path: Path, text: str) -> City:
    path = tmp_path / "city.yaml"
    path.write_text(text)
    return read_city(path)


def test_a_city_file_is_read(tmp_path):
    city = city_from(tmp_path, GOOD)
    assert city.zone.key == "Europe/Madrid"
    assert city.targets() == ["pm25"]
    assert not city.replay


@pytest.mark.parametrize(
    ("zone", "country"), [("Europe/Madrid", "ES"), ("America/Chicago", "US"), ("UTC", None)]
)
def test_without_a_calendar_the_national_holidays_of_the_zone_hold(tmp_path, zone, country):
    city = city_from(tmp_path, GOOD.replace("Europe/Madrid", zone))
    assert (city.holidays.country if city.holidays else None) == country


def test_a_calendar_in_the_file_wins(tmp_path):
    city = city_from(tmp_path, GOOD + "holidays: {country: PT}\n")
    assert city.holidays is not None
    assert city.holidays.country == "PT"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("timezone: Europe/Madrid", "timezone: Europe/Madird", "Europe/Madrid"),
        ("latitude: 40.4", "latitude: 140.4", "location.latitude"),
        ("latitude: 40.4", "latitude: .nan", "location.latitude"),
        ("name: somewhere", "name: Some Where", "name"),
        ("timezone", "timezon", "timezone"),
        ("pm25:", "pm2_5:", "pm25"),
        ("source: synthetic", "source: sinthetic", "synthetic"),
        ("{source: synthetic}", "{source: synthetic, sed: 3}", "seed"),
        ("[{source: synthetic}]", "{source: synthetic}", "signals.pm25"),
        ("{source: synthetic}", "{sauce: synthetic}", "source"),
    ],
)
def test_a_mistake_in_a_city_file_is_named(tmp_path, old, new, named):
    with pytest.raises(BadInput) as failure:
        city_from(tmp_path, GOOD.replace(old, new))
    assert named in str(failure.value)


@pytest.mark.parametrize("zone", ["Europe", "../etc/passwd", "/etc/localtime", "posixrules", "''"])
def test_a_zone_that_is_not_one_names_field_value_and_what_is_allowed(tmp_path, zone):
    with pytest.raises(BadInput) as failure:
        city_from(tmp_path, GOOD.replace("Europe/Madrid", zone))
    assert failure.value.field == "timezone"
    assert failure.value.value == zone.strip("'")
    assert "IANA time zone" in str(failure.value.allowed)


def test_reading_a_city_never_opens_the_whole_time_zone_database(tmp_path, monkeypatch):
    def walked() -> set[str]:
        raise AssertionError("six hundred files were opened to check one name")

    monkeypatch.setattr(zoneinfo, "available_timezones", walked)
    assert city_from(tmp_path, GOOD).zone.key == "Europe/Madrid"
    assert set(zone_names()) >= {"UTC", "Europe/Madrid", "America/New_York", "Asia/Karachi"}


@pytest.mark.parametrize("text", ["", "- a list", "a: [unclosed", "\x00"])
def test_a_file_that_is_not_a_city_is_refused(tmp_path, text):
    with pytest.raises(BadInput):
        city_from(tmp_path, text)


def test_a_city_is_found_whatever_the_case():
    assert load_city("Demo", load_settings()).name == "demo"


def test_an_unknown_city_names_the_nearest():
    with pytest.raises(UnknownCity, match="demo"):
        load_city("dmeo", load_settings())


def test_two_files_may_not_share_a_name(tmp_path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(BadInput, match="two city files"):
        load_cities(load_settings(cities_dir=tmp_path))


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_folder_without_cities_is_refused(tmp_path, kind):
    folder = tmp_path / kind
    if kind == "empty":
        folder.mkdir()
    with pytest.raises(BadInput, match="URBANWM_CITIES"):
        load_cities(load_settings(cities_dir=folder))


def test_every_built_in_city_is_valid_and_the_demo_says_that_it_is_simulated():
    cities = load_cities(load_settings())
    assert cities["demo"].simulated
    assert all(city.targets() for city in cities.values())
    assert len([city for city in cities.values() if not city.simulated]) >= 2


def test_the_nightly_run_takes_the_demo_or_every_city_of_the_users_folder(tmp_path):
    assert nightly_city_names(load_settings()) == ["demo"]
    (tmp_path / "a.yaml").write_text(GOOD)
    assert nightly_city_names(load_settings(cities_dir=tmp_path)) == ["somewhere"]
    assert nightly_city_names(load_settings(nightly_cities="Demo")) == ["demo"]
