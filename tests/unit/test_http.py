"""The HTTP layer: polite, bounded, and unable to keep a secret anywhere it could be read."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import requests
import responses

from urbanwm import errors
from urbanwm.sources.base import RawPayload
from urbanwm.sources.http import Politeness, check_status, excerpt, get, retry_after_seconds
from urbanwm.sources.quota import Quotas, rest_seconds

URL = "https://upstream.example/data"
NOW = datetime(2026, 1, 15, 8, tzinfo=UTC)
KEY = "very-secret-key"


class Waits:
    """Records what would have been slept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def ask(waits: Waits | None = None, **options: Any) -> RawPayload:
    options = {"secret_params": {"token": KEY}, "jitter": lambda: 1.0, "quotas": Quotas(), **options}
    return get(URL, source="test", clock=lambda: NOW, sleep=waits or Waits(), **options)


@responses.activate
def test_an_answer_is_returned_as_received() -> None:
    responses.get(
        URL, body=b"\x00\xffbytes", headers={"ETag": "e1", "Set-Cookie": "session=1", "X-RateLimit-Used": "3"}
    )
    raw = ask(params={"city": "a b"})
    assert raw.body == b"\x00\xffbytes"
    assert raw.status == 200
    assert raw.fetched_at == NOW
    assert raw.request == {"city": "a b"}
    assert raw.url == f"{URL}?city=a+b"
    assert raw.headers["etag"] == "e1"
    assert raw.headers["x-ratelimit-used"] == "3"
    assert "set-cookie" not in raw.headers


@responses.activate
def test_the_key_is_sent_and_not_kept() -> None:
    responses.get(URL, body=b"{}")
    raw = ask(secret_headers={"X-API-Key": KEY})
    request = responses.calls[0].request
    assert f"token={KEY}" in str(request.url)
    assert request.headers["X-API-Key"] == KEY
    assert KEY not in repr(raw)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, errors.RequestRefused, False),
        (401, errors.KeyRefused, False),
        (403, errors.KeyRefused, False),
        (404, errors.RequestRefused, False),
        (408, errors.UpstreamUnavailable, True),
        (422, errors.RequestRefused, False),
        (429, errors.RateLimited, True),
        (500, errors.UpstreamUnavailable, True),
        (503, errors.UpstreamUnavailable, True),
    ],
)
@responses.activate
def test_a_status_becomes_a_named_error_and_only_passing_trouble_is_retried(
    status: int, kind: type[errors.SourceError], retryable: bool
) -> None:
    responses.get(URL, status=status, body=f"reason {KEY}")
    waits = Waits()
    with pytest.raises(kind, match="reason") as caught:
        ask(waits)
    assert caught.value.retryable is retryable
    assert caught.value.source == "test"
    assert len(responses.calls) == (4 if retryable else 1)
    assert len(waits.seconds) == len(responses.calls) - 1
    assert KEY not in str(caught.value)


@responses.activate
def test_a_status_that_the_caller_accepts_is_returned() -> None:
    responses.get(URL, status=400, body=b"<no data>")
    assert ask(accept={400}).status == 400


@responses.activate
def test_trouble_that_passes_ends_in_an_answer() -> None:
    responses.get(URL, status=503)
    responses.get(URL, body=requests.ConnectionError("reset"))
    responses.get(URL, body=b"ok")
    waits = Waits()
    assert ask(waits).body == b"ok"
    assert waits.seconds == [1.0, 2.0]


@responses.activate
def test_waits_double_and_are_spread_at_random() -> None:
    responses.get(URL, status=500)
    waits = Waits()
    with pytest.raises(errors.UpstreamUnavailable):
        ask(waits, jitter=lambda: 0.0)
    assert waits.seconds == [0.5, 1.0, 2.0]


@responses.activate
def test_the_wait_that_the_upstream_asks_for_is_honoured() -> None:
    responses.get(URL, status=429, headers={"Retry-After": "7"})
    responses.get(URL, body=b"ok")
    waits = Waits()
    ask(waits)
    assert waits.seconds == [7.0]


@responses.activate
def test_a_wait_beyond_patience_ends_the_attempts_at_once() -> None:
    responses.get(URL, status=429, headers={"Retry-After": "3600"})
    waits = Waits()
    with pytest.raises(errors.RateLimited):
        ask(waits)
    assert waits.seconds == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("30", 30.0),
        (" 5 ", 5.0),
        ("Thu, 15 Jan 2026 08:00:10 GMT", 10.0),
        ("Thu, 15 Jan 2026 07:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@pytest.mark.parametrize("failure", [requests.ConnectTimeout, requests.ReadTimeout, requests.ConnectionError])
@responses.activate
def test_a_broken_connection_is_an_outage_that_does_not_show_the_key(failure: type[Exception]) -> None:
    responses.get(URL, body=failure(f"https://upstream.example/data?token={KEY}"))
    with pytest.raises(errors.UpstreamUnavailable) as caught:
        ask(politeness=Politeness(attempts=2))
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert caught.value.__context__ is None


@responses.activate
def test_an_answer_without_end_is_refused() -> None:
    responses.get(URL, body=b"x" * 1000)
    with pytest.raises(errors.MalformedPayload, match="larger than 10 bytes"):
        ask(politeness=Politeness(most_bytes=10))


def test_an_excerpt_is_one_short_line_without_secrets() -> None:
    text = excerpt(b"<html>\n  " + KEY.encode() + b"\n" + b"a" * 500, hidden=[KEY, ""])
    assert "\n" not in text
    assert KEY not in text
    assert len(text) <= 201


def test_a_recorded_failure_is_named_by_its_status() -> None:
    with pytest.raises(errors.RateLimited, match="HTTP 429"):
        check_status(RawPayload("test", URL, 429, {}, b"slow down", NOW))
    check_status(RawPayload("test", URL, 204, {}, b"", NOW))


class _Silent(BaseHTTPRequestHandler):
    """Answers, or does not answer in time."""

    def do_GET(self) -> None:
        if self.path.startswith("/slow"):
            self.server.released.wait(5)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def local_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Silent) as server:
        server.released = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.released.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def test_no_log_record_holds_the_key_even_at_debug(
    local_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        get(f"{local_server}/fast", source="test", clock=lambda: NOW, secret_params={"token": KEY})
    assert KEY not in caplog.text


def test_a_silent_upstream_is_given_up_on_in_time(local_server: str) -> None:
    politeness = Politeness(attempts=1, read_seconds=0.1)
    with pytest.raises(errors.UpstreamUnavailable, match="no answer within"):
        get(f"{local_server}/slow", source="test", clock=lambda: NOW, politeness=politeness)


def test_a_backoff_never_exceeds_its_cap() -> None:
    politeness = Politeness(
        attempts=20, first_wait_seconds=1, longest_wait_seconds=timedelta(minutes=1).seconds
    )
    assert max(politeness.backoff_seconds(attempt, 1.0) for attempt in range(1, 20)) == 60.0


# --- quotas ---


@responses.activate
def test_a_host_out_of_reach_is_not_waited_for_again_for_each_signal() -> None:
    responses.get(URL, body=requests.ConnectionError("down"))
    clock = [100.0]
    quotas, waits = Quotas(monotonic=lambda: clock[0]), Waits()

    def attempts() -> int:
        before = len(responses.calls)
        with pytest.raises(errors.UpstreamUnavailable):
            ask(waits, quotas=quotas)
        return len(responses.calls) - before

    assert [attempts(), attempts(), attempts()] == [4, 1, 1]
    clock[0] += 61.0
    assert attempts() == 4


@responses.activate
def test_a_host_that_answers_at_all_keeps_its_attempts() -> None:
    responses.get(URL, body=requests.ConnectionError("down"))
    quotas = Quotas()
    with pytest.raises(errors.UpstreamUnavailable):
        ask(quotas=quotas)
    responses.replace("GET", URL, status=503)
    for count in (1, 4):  # an error is an answer: the host is there
        responses.calls.reset()
        with pytest.raises(errors.UpstreamUnavailable):
            ask(quotas=quotas)
        assert len(responses.calls) == count


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "31"}, 31),
        ({"ratelimit-remaining": "0;w=60", "ratelimit-reset": "8"}, 8),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp()) + 45)}, 45),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "31"}, 0),
        ({"x-ratelimit-remaining": "0"}, 0),
        ({"x-ratelimit-remaining": "none", "x-ratelimit-reset": "soon"}, 0),
        ({}, 0),
    ],
)
def test_headers_say_how_long_an_upstream_wants_to_rest(headers: dict[str, str], seconds: float) -> None:
    assert rest_seconds(headers, NOW) == seconds


def used_up(reset: int) -> dict[str, str]:
    return {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset)}


@responses.activate
def test_a_used_up_quota_is_waited_for_before_the_next_request() -> None:
    responses.get(URL, body=b"{}", headers=used_up(20))
    waits, quotas = Waits(), Quotas(monotonic=lambda: 100.0)
    for _ in range(2):
        ask(waits, quotas=quotas)
    assert waits.seconds == [20]
    assert quotas.wait_seconds("another source") == 0


def test_an_answer_of_another_service_of_the_source_does_not_free_a_used_up_quota() -> None:
    quotas = Quotas(monotonic=lambda: 100.0)
    quotas.note("openaq", {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9"}, NOW)
    quotas.note("openaq", {"etag": "from the archive"}, NOW)
    assert quotas.wait_seconds("openaq") == 9
    quotas.note("openaq", {"x-ratelimit-remaining": "60", "x-ratelimit-reset": "60"}, NOW)
    assert quotas.wait_seconds("openaq") == 0


@responses.activate
def test_a_quota_that_returns_in_an_hour_ends_the_asking() -> None:
    responses.get(URL, body=b"{}", headers=used_up(3600))
    waits, quotas = Waits(), Quotas(monotonic=lambda: 100.0)
    ask(waits, quotas=quotas)
    with pytest.raises(errors.RateLimited, match="3600 s") as caught:
        ask(waits, quotas=quotas)
    assert caught.value.retryable
    assert len(responses.calls) == 1
    assert waits.seconds == []
