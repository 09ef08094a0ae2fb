from __future__ import annotations

import pytest
import responses

from tests.contract.answers import HTML, KEY, ask, document, fixture, parse, values
from urbanwm.errors import (
    BadInput,
    KeyMissing,
    KeyRefused,
    MalformedPayload,
    RateLimited,
    RequestRefused,
    StationTooFar,
    UpstreamUnavailable,
)
from urbanwm.sources.tomtom import Config

NAME = "tomtom"


def segment(**changes):
    answer = document(NAME, "segment.json")
    answer["flowSegmentData"].update(changes)
    return answer


def test_the_index_is_the_extra_travel_time_in_the_hour_of_the_fetch_and_names_its_form():
    parsed = parse(NAME, fixture(NAME, "segment.json"), received_at="2026-05-05T08:47")
    assert values(parsed, "traffic_index") == {"2026-05-05T08": 0.5}
    assert parsed.rows["flags"].tolist() == ["travel_time_form"]
    assert parsed.notes["form"] == "travel_time"


@pytest.mark.parametrize(
    ("changes", "index"),
    [
        ({"currentTravelTime": 100}, 0.0),
        ({"currentTravelTime": 90}, 0.0),
        ({"currentTravelTime": 900}, 2.0),
        ({"currentTravelTime": None}, 0.5),
        ({"freeFlowTravelTime": 0, "currentSpeed": "30"}, 1.0),
    ],
)
def test_the_index_is_clipped_and_falls_back_to_the_speeds(changes, index):
    assert list(values(parse(NAME, segment(**changes)), "traffic_index").values()) == [index]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"confidence": 0.49}, "low_confidence"),
        ({"confidence": None}, "low_confidence"),
        ({"roadClosure": True, "currentSpeed": 0}, "road_closure"),
        ({"currentTravelTime": 0, "currentSpeed": 0}, "missing"),
    ],
)
def test_what_does_not_tell_the_traffic_is_dropped_and_counted(changes, reason):
    parsed = parse(NAME, segment(**changes))
    assert len(parsed.rows) == 0
    assert parsed.dropped == {reason: 1}


@pytest.mark.parametrize(
    ("body", "status", "error", "retryable"),
    [
        (b"<h1>Developer Inactive</h1>", 403, KeyRefused, False),
        (
            {"httpStatusCode": 403, "detailedError": {"code": "Forbidden", "message": "You are not allowed"}},
            403,
            KeyRefused,
            False,
        ),
        (b"<h1>Developer Over Qps</h1>", 403, RateLimited, True),
        (b"<h1>Developer Over Rate</h1>", 403, RateLimited, True),
        (
            {"error": "Point too far from nearest existing segment.", "httpStatusCode": 400},
            400,
            StationTooFar,
            False,
        ),
        ({"error": "Invalid unit", "httpStatusCode": 400}, 400, RequestRefused, False),
        (b"", 429, RateLimited, True),
        (HTML, 503, UpstreamUnavailable, True),
        (HTML, 200, UpstreamUnavailable, True),
        (b'{"flowSegmentData": {"frc": "FR', 200, MalformedPayload, True),
        ({"results": []}, 200, MalformedPayload, False),
        ([], 200, MalformedPayload, False),
    ],
)
def test_a_failed_answer_is_named(body, status, error, retryable):
    with pytest.raises(error) as caught:
        parse(NAME, body, status=status)
    assert caught.value.retryable is retryable


@responses.activate
def test_fetch_asks_at_the_citys_point_and_keeps_the_key_out():
    responses.get(
        "https://api.tomtom.com/traffic/services/4/flowSegmentData/absolute/10/json",
        json=document(NAME, "segment.json"),
    )
    (raw,) = ask(NAME, "traffic_index", "2026-05-05T08:00", "2026-05-05T09:00")
    assert raw.request["point"] == "40.4168,-3.7038"
    assert KEY not in repr(raw)


def test_fetch_needs_a_key_and_a_known_signal():
    with pytest.raises(KeyMissing, match="TOMTOM_API_KEY"):
        next(ask(NAME, "traffic_index", "2026-05-05", "2026-05-06", with_keys=False))
    with pytest.raises(BadInput, match="pm25"):
        next(ask(NAME, "pm25", "2026-05-05", "2026-05-06"))


def test_the_label_names_the_form_and_the_point():
    assert Config(source=NAME).label == "tomtom:travel_time"
    point = Config(source=NAME, latitude=52.4107, longitude=4.84239)
    assert point.label == "tomtom:travel_time@52.4107,4.8424"
