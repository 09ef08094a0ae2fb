"""A real service under requests that nobody polite sends: no 5xx, no hang, no growth."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import pytest

from serving.connections import HEAD_SECONDS
from tests.hostile import Case, Heard, cases, request, send
from tests.service_process import FULL_SIZE, RunningService, add_champion, prepare_home, running_service

pytestmark = pytest.mark.slow
REQUESTS = 5000 if FULL_SIZE else 500
"""URBANWM_FULL_SIZE=1 sends them all; they take some minutes."""
SENDERS = 4
GROWTH_MIB = 50
WORKER_MIB = 350
MIB = 1024 * 1024
DOCUMENTED_5XX = {503}
SLOW_CONNECTIONS = 20
ENDLESS_MIB = 64


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    home = tmp_path_factory.mktemp("home")
    prepare_home(home)
    add_champion(home)
    with running_service(home, URBANWM_API_KEY="k" * 20) as made:
        yield made


@pytest.fixture(scope="module")
def address(service: RunningService) -> tuple[str, int]:
    host, port = service.url.removeprefix("http://").split(":")
    return host, int(port)


def worker_mib(service: RunningService) -> float:
    """Return the resident memory of the process that answers, MiB."""
    return max(child.memory_info().rss for child in psutil.Process(service.process.pid).children()) / MIB


def fault(case: Case, heard: list[Heard]) -> str | None:
    """Return what is wrong with the answers to one case."""
    if len(heard) > case.answers:
        return f"{len(heard)} answers"
    for answer in heard:
        if answer.status >= 500 and answer.status not in DOCUMENTED_5XX:
            return f"status {answer.status}"
        if answer.status < 400 or case.raw.startswith(b"HEAD "):
            continue
        try:
            told = json.loads(answer.body)
        except ValueError:
            return f"no envelope at {answer.status}: {answer.body[:100]!r}"
        if set(told) != {"error"} or set(told["error"]) < {"type", "message", "field", "allowed"}:
            return f"another envelope at {answer.status}: {answer.body[:200]!r}"
        if (
            answer.status in {429, 503}
            and told["error"]["type"] == "Overloaded"
            and "retry-after" not in answer.headers
        ):
            return "busy without Retry-After"
    return None


def test_hostile_requests_find_no_5xx_no_hang_and_no_growth(
    service: RunningService, address: tuple[str, int]
) -> None:
    for case in cases(200, seed=1):
        send(case, *address)
    before = worker_mib(service)
    statuses: Counter[int] = Counter()

    def attack(case: Case) -> str | None:
        heard = send(case, *address)
        statuses.update(answer.status for answer in heard)
        wrong = fault(case, heard)
        return wrong and f"{wrong}: {case.name} {case.raw[:400]!r}"

    with ThreadPoolExecutor(SENDERS) as pool:
        wrongs = [wrong for wrong in pool.map(attack, cases(REQUESTS, seed=2)) if wrong]
    assert not wrongs, "\n".join(wrongs[:20])
    assert {200, 404, 405, 413, 415, 422} <= set(statuses)
    assert worker_mib(service) - before < GROWTH_MIB
    if FULL_SIZE:  # a fresh environment compiles its modules in this process, which is no leak
        assert worker_mib(service) < WORKER_MIB
    assert service.get("/api/health").status_code == 200
    log = service.log.read_text()
    assert "Traceback" not in log
    assert "unexpected" not in log


def test_clients_that_send_a_byte_at_a_time_hold_nobody_up(
    service: RunningService, address: tuple[str, int]
) -> None:
    stop = threading.Event()
    whole = request("POST", "/api/simulate", body=b'{"city": "demo"}')

    def drip(connection: socket.socket) -> None:
        with connection:
            for place in range(len(whole) - 1):
                if stop.wait(0.05):
                    return
                connection.sendall(whole[place : place + 1])

    connections = [socket.create_connection(address, timeout=10) for _ in range(SLOW_CONNECTIONS)]
    drips = [threading.Thread(target=drip, args=(connection,)) for connection in connections]
    for thread in drips:
        thread.start()
    time.sleep(0.5)
    began = time.perf_counter()
    assert service.post("/api/simulate", {"city": "demo", "horizon_hours": 2}).status_code == 200
    assert time.perf_counter() - began < 5
    stop.set()
    for thread in drips:
        thread.join()


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_a_wish_for_a_websocket_is_answered_as_if_it_were_not_there(
    address: tuple[str, int], body: bytes
) -> None:
    raw = request("POST", "/api/simulate", "Upgrade: websocket", "Connection: Upgrade", body=body)
    (heard,) = send(Case("upgrade", raw), *address)
    assert heard.status in {415, 422}


def test_a_head_that_never_ends_closes_the_connection(address: tuple[str, int]) -> None:
    began = time.monotonic()
    assert send(Case("half", b"POST /api/simulate HTTP/1.1\r\nHos"), *address) == []
    assert HEAD_SECONDS - 1 < time.monotonic() - began < 2 * HEAD_SECONDS


@pytest.mark.parametrize("path", ["/api/simulate", "/api/health", "/nowhere", "/readyz"])
def test_a_body_without_end_is_cut_off_wherever_it_is_sent(address: tuple[str, int], path: str) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    sent = 0
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < ENDLESS_MIB * MIB:
                connection.sendall(chunk)
                sent += len(chunk)
    assert sent < ENDLESS_MIB * MIB


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
def test_a_number_that_is_not_finite_is_refused_and_named(service: RunningService, number: str) -> None:
    body = f'{{"city": "demo", "policy": {{"car_free_ratio": {number}}}}}'
    response = service.post("/api/simulate", data=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["field"]) == (422, "policy.car_free_ratio")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/metrics", "/docs.json", "/schema.json"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_servers_own_routes_refuse_in_our_envelope(
    address: tuple[str, int], path: str, method: str
) -> None:
    heard = send(Case("method", request(method, path)), *address)
    assert heard[0].status == 405
    assert fault(Case("method", b""), heard) is None


def test_no_path_leads_into_the_file_system(address: tuple[str, int]) -> None:
    for path in ("/service.log", "/%2e%2e/service.log", "/static/..%2f..%2fservice.log", "/assets/../x"):
        heard = send(Case("path", request("GET", path)), *address)
        assert heard[0].status == 404
