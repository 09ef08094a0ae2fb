from __future__ import annotations

import pytest
import responses

from tests.contract.answers import HTML, ask, document, fixture, parse, utc, values
from urbanwm.errors import (
    BadInput,
    MalformedPayload,
    NoData,
    RateLimited,
    RequestRefused,
    StationUnknown,
    UpstreamUnavailable,
)
from urbanwm.sources.carbon_intensity import Config

NAME = "carbon_intensity"


def generation():
    return document(NAME, "national_generation.json")


def region(region_id, slots):
    return {"regionid": region_id, "shortname": "London", "data": slots}


def test_half_hours_are_averaged_and_a_single_one_is_flagged():
    parsed = parse(NAME, generation())
    assert values(parsed, "renewable_share") == {"2026-02-01T11": 0.3, "2026-02-01T12": 0.4}
    assert parsed.rows["flags"].tolist() == ["half_hour", ""]


def test_a_repeated_half_hour_counts_once():
    answer = generation()
    answer["data"].append(answer["data"][1])
    parsed = parse(NAME, answer)
    assert values(parsed, "renewable_share")["2026-02-01T12"] == 0.4
    assert parsed.dropped == {"duplicate": 1}


def test_only_measured_intensity_is_an_observation():
    parsed = parse(NAME, fixture(NAME, "national_intensity.json"))
    assert values(parsed, "carbon_intensity_g_kwh") == {"2026-02-01T12": 190.0}
    assert parsed.dropped == {"missing": 1}


@pytest.mark.parametrize("wrap", [lambda one: [one], lambda one: one])
def test_a_regions_half_hours_are_found_one_level_down_and_are_a_model(wrap):
    parsed = parse(NAME, {"data": wrap(region(13, generation()["data"]))})
    assert values(parsed, "renewable_share")["2026-02-01T12"] == 0.4
    assert parsed.rows["flags"].tolist() == ["model,half_hour", "model"]
    assert parsed.notes["region"] == "13"


def test_one_region_is_picked_from_an_answer_about_all():
    slot = generation()["data"][1]
    other = {"regionid": 1, "generationmix": [{"fuel": "gas", "perc": 100}]}
    answer = {
        "data": [{"from": slot["from"], "to": slot["to"], "regions": [other, {"regionid": 13, **slot}]}]
    }
    assert values(parse(NAME, answer, region_id=13), "renewable_share") == {"2026-02-01T12": 0.35}
    with pytest.raises(MalformedPayload, match="several regions"):
        parse(NAME, answer)


def test_a_present_half_hour_comes_as_an_object_and_not_a_list():
    assert len(parse(NAME, {"data": generation()["data"][0]}).rows) == 1


def test_a_mix_that_does_not_add_up_is_counted():
    answer = generation()
    for entry in answer["data"][0]["generationmix"]:
        entry["perc"] = 0
    answer["data"][1]["generationmix"][0]["perc"] = None
    parsed = parse(NAME, answer)
    assert values(parsed, "renewable_share") == {"2026-02-01T12": 0.45}
    assert parsed.dropped == {"incomplete_mix": 2}


def test_half_hours_to_come_and_without_a_time_are_dropped():
    answer = generation()
    answer["data"][0]["from"] = None
    parsed = parse(NAME, answer, received_at="2026-02-01T12:10")
    assert parsed.dropped == {"future": 1, "no_time": 1}
    assert values(parsed, "renewable_share") == {"2026-02-01T12": 0.35}


def test_a_backfilled_hour_was_known_an_hour_after_it_ended():
    assert parse(NAME, generation()).rows["available_at"].iloc[0] == utc("2026-02-01T13:00")


@pytest.mark.parametrize(
    ("body", "status", "error", "retryable"),
    [
        (
            {"error": {"code": "400 Bad Request", "message": "Please enter a valid start date"}},
            400,
            RequestRefused,
            False,
        ),
        (
            {"error": {"code": "400 Bad Request", "message": "Please enter a valid start date"}},
            200,
            RequestRefused,
            False,
        ),
        (
            {"error": {"code": "400 Bad Request", "message": "Please enter a valid postcode"}},
            400,
            StationUnknown,
            False,
        ),
        (
            {"error": {"code": "500 Internal Server Error", "message": "Try later"}},
            500,
            UpstreamUnavailable,
            True,
        ),
        (
            {"error": {"code": "500 Internal Server Error", "message": "Try later"}},
            200,
            UpstreamUnavailable,
            True,
        ),
        (HTML, 429, RateLimited, True),
        (HTML, 200, UpstreamUnavailable, True),
        (b'{"data": [{"from": "2026-0', 200, MalformedPayload, True),
        ({"data": []}, 200, NoData, True),
        ({"data": [{"regionid": 13, "data": []}]}, 200, NoData, True),
        ({"data": ["x"]}, 200, MalformedPayload, False),
        ({"data": "x"}, 200, MalformedPayload, False),
        ([], 200, MalformedPayload, False),
    ],
)
def test_a_failed_answer_is_named(body, status, error, retryable):
    with pytest.raises(error) as caught:
        parse(NAME, body, status=status)
    assert caught.value.retryable is retryable


@responses.activate
def test_fetch_asks_for_fourteen_days_at_most():
    base = "https://api.carbonintensity.org.uk/regional/intensity"
    for period in ("2026-01-01T00:00Z/2026-01-15T00:00Z", "2026-01-15T00:00Z/2026-01-20T00:00Z"):
        responses.get(f"{base}/{period}/regionid/13", json={"data": []})
    assert len(list(ask(NAME, "renewable_share", "2026-01-01", "2026-01-20", region_id=13))) == 2


@responses.activate
@pytest.mark.parametrize(
    ("signal", "options", "path"),
    [
        ("renewable_share", {}, "generation/{0}"),
        ("renewable_share", {"postcode": "RG1"}, "regional/intensity/{0}/postcode/RG1"),
        ("carbon_intensity_g_kwh", {}, "intensity/{0}"),
    ],
)
def test_each_question_has_its_path(signal, options, path):
    period = "2026-01-01T00:00Z/2026-01-02T00:00Z"
    responses.get(f"https://api.carbonintensity.org.uk/{path.format(period)}", json={"data": []})
    assert len(list(ask(NAME, signal, "2026-01-01", "2026-01-02", **options))) == 1


def test_a_region_has_no_measured_intensity():
    with pytest.raises(BadInput, match="carbon_intensity_g_kwh"):
        next(ask(NAME, "carbon_intensity_g_kwh", "2026-01-01", "2026-01-02", region_id=13))


def test_region_and_postcode_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        Config(source=NAME, region_id=1, postcode="RG1")
    assert Config(source=NAME, postcode="RG1").label == "carbon_intensity:RG1"
    assert Config(source=NAME).label == "carbon_intensity:gb"


def test_recorded_region_gives_its_half_hour(shared_dir):
    parsed = parse(NAME, (shared_dir / "api" / "carbonintensity_regional_postcode.json").read_bytes())
    assert values(parsed, "renewable_share") == {"2026-09-29T12": 0.596}
