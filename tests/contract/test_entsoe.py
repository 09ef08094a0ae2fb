from __future__ import annotations

import io
import zipfile

import pytest
import responses

from tests.contract.answers import HTML, KEY, ask, fixture, parse, utc, values
from urbanwm.errors import (
    BadInput,
    KeyMissing,
    KeyRefused,
    MalformedPayload,
    NoData,
    RateLimited,
    RequestRefused,
    UpstreamUnavailable,
)
from urbanwm.sources.entsoe import Config

NAME = "entsoe"
ZONE = "10YES-REE------0"


def load():
    return fixture(NAME, "load_quarter_hours_A03.xml")


def generation():
    return fixture(NAME, "generation_A75.xml")


def acknowledgement(text):
    known = b"No matching data found for Data item Actual Total Load [6.1.A] (10YES-REE------0)."
    return fixture(NAME, "acknowledgement.xml").replace(known, text.encode())


def zipped(*bodies):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, body in enumerate(bodies):
            archive.writestr(f"{number}.xml", body)
    return buffer.getvalue()


def test_left_out_positions_repeat_the_value_before_them_until_the_interval_ends():
    parsed = parse(NAME, load())
    assert values(parsed, "energy_mwh") == {
        "2026-01-10T22": 24500.0,  # 24000, 24000, 25000, 25000
        "2026-01-10T23": 25750.0,  # 25000, 26000, 26000, 26000
        "2026-01-11T00": 23000.0,
        "2026-01-11T01": 23000.0,
        "2026-01-11T02": 22000.0,
    }
    assert not parsed.dropped


def test_without_the_variable_curve_type_a_left_out_position_is_a_gap():
    parsed = parse(NAME, load().replace(b"A03</curveType>", b"A01</curveType>"))
    assert list(values(parsed, "energy_mwh")) == ["2026-01-11T00", "2026-01-11T02"]
    assert parsed.dropped == {"incomplete_hour": 2}


def test_three_of_four_quarter_hours_are_enough_for_an_hour():
    body = load().replace(b"A03</curveType>", b"A01</curveType>")
    body = body.replace(b"<position>6<", b"<position>2<")
    assert values(parse(NAME, body), "energy_mwh")["2026-01-10T22"] == 25000.0


def test_the_version_in_the_namespace_does_not_matter():
    body = load().replace(b"generationloaddocument:3:0", b"generationloaddocument:4:2")
    assert len(parse(NAME, body).rows) == 5


def test_the_citys_share_is_applied_flagged_and_named():
    parsed = parse(NAME, load(), share=0.1, domain=ZONE)
    assert values(parsed, "energy_mwh")["2026-01-11T00"] == 2300.0
    assert set(parsed.rows["flags"]) == {"zone_share"}
    assert Config(source=NAME, domain=ZONE, share=0.1).label == f"entsoe:{ZONE}*0.1"


def test_renewable_share_ignores_consumption_and_storage_and_averages_half_hours():
    parsed = parse(NAME, generation())
    # 10 h: gas 6000, solar (1000 + 3000) / 2, wind 2000; 11 h: gas 4000, solar 4000, wind 2000
    assert values(parsed, "renewable_share") == {"2026-01-10T10": 0.4, "2026-01-10T11": 0.6}
    assert parsed.dropped == {"consumption_series": 1}


def test_an_hour_in_which_a_large_type_is_missing_has_no_share():
    body = generation().replace(
        b"<Point><position>2</position><quantity>4000</quantity></Point></Period>", b"</Period>", 1
    )
    parsed = parse(NAME, body)
    assert list(values(parsed, "renewable_share")) == ["2026-01-10T10"]
    assert parsed.dropped["incomplete_mix"] == 1


def test_generation_is_not_consumption():
    with pytest.raises(NoData):
        parse(NAME, generation(), signal="energy_mwh")


def test_values_that_are_no_load_are_counted():
    body = load().replace(b"<quantity>23000<", b"<quantity>0<").replace(b"<quantity>22000<", b"<quantity>?<")
    parsed = parse(NAME, body)
    assert list(values(parsed, "energy_mwh")) == ["2026-01-10T22", "2026-01-10T23"]
    assert parsed.dropped == {"missing": 1, "not_positive": 3}


def test_power_in_another_unit_is_counted_and_not_guessed():
    assert parse(NAME, load().replace(b">MAW<", b">KWT<")).dropped == {"unknown_unit": 1}


def test_hours_that_have_not_begun_are_dropped():
    parsed = parse(NAME, load(), received_at="2026-01-10T23:10")
    assert list(values(parsed, "energy_mwh")) == ["2026-01-10T22", "2026-01-10T23"]
    assert parsed.dropped == {"future": 3}
    assert parsed.rows["available_at"].isna().all()


def test_generation_of_a_backfill_was_known_later_than_load():
    assert parse(NAME, load()).rows["available_at"].iloc[0] == utc("2026-01-11T01:00")
    assert parse(NAME, generation()).rows["available_at"].iloc[0] == utc("2026-01-11T03:00")


def test_documents_in_a_zip_archive_are_read_together():
    later = load().replace(b"2026-01-1", b"2026-01-2")
    assert len(parse(NAME, zipped(load(), later)).rows) == 10


def test_a_damaged_zip_archive_is_named_and_can_be_asked_for_again():
    with pytest.raises(MalformedPayload) as caught:
        parse(NAME, zipped(load())[:-40])
    assert caught.value.retryable


def test_entities_are_refused_and_not_expanded():
    bomb = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>'
    with pytest.raises(MalformedPayload, match="entities"):
        parse(NAME, bomb)


@pytest.mark.parametrize(
    ("text", "status", "error", "retryable"),
    [
        ("No matching data found for Data item", 200, NoData, True),
        ("No matching data found for Data item", 400, NoData, True),
        ("The amount of requested data exceeds allowed limit.", 200, RequestRefused, False),
        ("The amount of requested data exceeds allowed limit.", 400, RequestRefused, False),
        ("Unauthorized. Missing or invalid security token", 401, KeyRefused, False),
        ("Missing or invalid security token", 200, KeyRefused, False),
        ("Too many requests, max allowed requests is 400 per minute", 429, RateLimited, True),
        ("Unexpected error", 503, UpstreamUnavailable, True),
        ("Delivered time interval is not valid", 400, RequestRefused, False),
    ],
)
def test_an_acknowledgement_is_named_by_its_text(text, status, error, retryable):
    with pytest.raises(error) as caught:
        parse(NAME, acknowledgement(text), status=status)
    assert caught.value.retryable is retryable


@pytest.mark.parametrize(
    ("body", "status", "error", "retryable"),
    [
        (HTML, 200, UpstreamUnavailable, True),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x">\n<html></html>', 200, UpstreamUnavailable, True),
        (HTML, 401, KeyRefused, False),
        (b"Unauthorized", 401, KeyRefused, False),
        (b"", 503, UpstreamUnavailable, True),
        (b"", 200, MalformedPayload, True),
        (b"<GL_MarketDocument><TimeSeries><Peri", 200, MalformedPayload, True),
        (b"<Publication_MarketDocument/>", 200, MalformedPayload, False),
        (b"<GL_MarketDocument><type>A65</type></GL_MarketDocument>", 200, NoData, True),
        (b"<GL_MarketDocument><type>A68</type></GL_MarketDocument>", 200, MalformedPayload, False),
        (
            b"<GL_MarketDocument><process.processType>A01</process.processType></GL_MarketDocument>",
            200,
            MalformedPayload,
            False,
        ),
    ],
)
def test_a_failed_answer_is_named(body, status, error, retryable):
    with pytest.raises(error) as caught:
        parse(NAME, body, status=status)
    assert caught.value.retryable is retryable


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b">PT15M<", b">P1Y<"),
        (b"2026-01-11T00:00Z</end>", b"2026-01-09T00:00Z</end>"),
        (b"<start>2026-01-10T22:00Z</start>", b"<start>yesterday</start>"),
    ],
)
def test_a_period_without_a_usable_interval_is_malformed(old, new):
    with pytest.raises(MalformedPayload, match="period"):
        parse(NAME, load().replace(old, new))


@responses.activate
def test_fetch_asks_for_at_most_a_year_and_keeps_the_token_out():
    responses.get("https://web-api.tp.entsoe.eu/api", body=load())
    raws = list(ask(NAME, "energy_mwh", "2024-01-01", "2026-01-01", domain=ZONE))
    assert [raw.request["periodStart"] for raw in raws] == ["202401010000", "202412310000", "202512310000"]
    assert raws[0].request["documentType"] == "A65"
    assert all(KEY not in repr(raw) for raw in raws)


@responses.activate
def test_fetch_hands_over_the_acknowledgement_that_comes_with_status_400():
    responses.get("https://web-api.tp.entsoe.eu/api", body=fixture(NAME, "acknowledgement.xml"), status=400)
    (raw,) = ask(NAME, "renewable_share", "2026-01-01", "2026-01-02", domain=ZONE)
    assert raw.request["documentType"] == "A75"
    with pytest.raises(NoData):
        parse(NAME, raw.body, status=raw.status)


def test_fetch_needs_a_token_a_zone_and_a_known_signal():
    with pytest.raises(KeyMissing, match="ENTSOE_API_KEY"):
        next(ask(NAME, "energy_mwh", "2026-01-01", "2026-01-02", with_keys=False, domain=ZONE))
    with pytest.raises(BadInput, match="zone"):
        next(ask(NAME, "energy_mwh", "2026-01-01", "2026-01-02"))
    with pytest.raises(BadInput, match="pm25"):
        next(ask(NAME, "pm25", "2026-01-01", "2026-01-02", domain=ZONE))


def test_recorded_load_starts_its_hours_at_the_interval(shared_dir):
    body = (shared_dir / "api" / "entsoe_load_A65_DK1_PT60M_A01.xml").read_bytes()
    found = values(parse(NAME, body), "energy_mwh")
    assert len(found) == 47
    assert list(found.items())[:2] == [("2023-12-28T15", 3031.0), ("2023-12-28T16", 3152.0)]


def test_recorded_acknowledgement_is_no_data(shared_dir):
    with pytest.raises(NoData):
        parse(NAME, (shared_dir / "api" / "entsoe_ack_no_matching_data.xml").read_bytes())
