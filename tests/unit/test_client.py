"""The client: what it sends, what it retries, and what it makes of a refusal."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import requests
import responses

from urbanwm import client as client_module
from urbanwm.client import Client, ServiceError
from urbanwm.errors import BadInput

URL = "http://service:3000"
BUSY = {"error": {"type": "Overloaded", "message": "the service is busy", "field": None, "allowed": None}}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    noted: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", noted.append)
    return noted


@responses.activate
def test_scenarios_are_sent_and_a_table_is_asked_for_by_its_type() -> None:
    sent = responses.post(f"{URL}/api/simulate", json={"simulated": []})
    with Client(URL) as client:
        client.simulate("lahore", scenarios=[{"policy": {"car_free_ratio": 0.5}}])
        assert client.simulate_csv({"city": "lahore"}) == '{"simulated": []}'
    assert json.loads(sent.calls[0].request.body)["scenarios"] == [{"policy": {"car_free_ratio": 0.5}}]
    assert sent.calls[1].request.headers["Accept"] == "text/csv"


@responses.activate
def test_what_is_left_out_is_not_sent() -> None:
    sent = responses.post(f"{URL}/api/simulate", json={"simulated": []})
    with Client(URL) as client:
        client.simulate("lahore", car_free_ratio=0.0, start_time=datetime(2026, 3, 1, tzinfo=UTC))
    assert json.loads(sent.calls[0].request.body) == {
        "city": "lahore",
        "horizon_hours": 48,
        "policy": {"car_free_ratio": 0.0},
        "start_time": "2026-03-01T00:00:00+00:00",
        "uncertainty_samples": 20,
    }


@responses.activate
def test_a_busy_service_is_asked_again_after_the_time_it_names(waits: list[float]) -> None:
    responses.post(f"{URL}/api/simulate", json=BUSY, status=429, headers={"Retry-After": "3"})
    responses.post(f"{URL}/api/simulate", json=BUSY, status=503)
    responses.post(f"{URL}/api/simulate", json={"city": "lahore"})
    assert Client(URL).simulate("lahore")["city"] == "lahore"
    assert waits == [3.0, 1.0]


@responses.activate
def test_a_wrong_request_is_not_repeated_and_keeps_the_services_words(waits: list[float]) -> None:
    error = {"type": "BadInput", "message": "no", "field": "horizon_hours", "allowed": "1 to 168"}
    responses.post(f"{URL}/api/simulate", json={"error": error}, status=422)
    with pytest.raises(ServiceError) as refused:
        Client(URL).simulate("lahore", horizon_hours=0)
    assert (refused.value.status, refused.value.kind, refused.value.field) == (
        422,
        "BadInput",
        "horizon_hours",
    )
    assert not waits


@responses.activate
def test_a_service_that_stays_away_is_reported_after_the_last_attempt(waits: list[float]) -> None:
    responses.get(f"{URL}/api/health", body=requests.ConnectionError())
    with pytest.raises(ServiceError, match="does not answer") as refused:
        Client(URL, attempts=3).health()
    assert (refused.value.retryable, refused.value.status) == (True, 0)
    assert waits == [0.5, 1.0]


@responses.activate
def test_retrain_is_sent_once_and_with_the_key(waits: list[float]) -> None:
    sent = responses.post(f"{URL}/api/retrain", json=BUSY, status=503)
    with pytest.raises(ServiceError):
        Client(URL, api_key="secret").retrain()
    assert sent.call_count == 1
    assert sent.calls[0].request.headers["Authorization"] == "Bearer secret"
    assert not waits


@responses.activate
def test_an_answer_that_is_not_ours_is_an_error_too() -> None:
    responses.get(f"{URL}/api/model", body="<html>proxy</html>", status=404)
    with pytest.raises(ServiceError, match="status 404"):
        Client(URL).model()


def test_a_start_without_a_zone_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(BadInput, match="no time zone"):
        Client(URL).simulate("lahore", start_time=datetime(2026, 3, 1))  # noqa: DTZ001
