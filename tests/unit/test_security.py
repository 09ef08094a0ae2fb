"""Keys, limits, headers, the queue, and what may be written to a log."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from serving import security
from serving.body import BODY_LIMIT_BYTES
from serving.envelope import ClientGone, DeadlineExceeded, Overloaded
from serving.retrain import Job, Retrainer
from serving.work import ADMITTED_ALWAYS, Checkpoint, WorkQueue
from tests.serving_fakes import API_KEY, World, cached, history, serving

JSON = {"content-type": "application/json"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path, champion=cached("4"), frame=history()) as made:
        yield made


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    jobs: list[Job] = []

    def start(self: Retrainer) -> Job:
        jobs.append(Job("abc", "local", "started"))
        return jobs[-1]

    monkeypatch.setattr(Retrainer, "start", start)
    return jobs


def test_retrain_without_a_key_is_unauthorised(world: World, started: list[Job]) -> None:
    response = world.client.post("/api/retrain")
    assert (response.status_code, response.json()["error"]["type"]) == (401, "Unauthorised")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert not started


def test_retrain_with_a_wrong_key_is_forbidden(world: World, started: list[Job]) -> None:
    for headers in ({"authorization": "Bearer no"}, {"x-api-key": "no"}, {"x-api-key": API_KEY + "x"}):
        assert world.client.post("/api/retrain", headers=headers).status_code == 403
    assert not started


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {API_KEY}"}, {"x-api-key": API_KEY}])
def test_retrain_with_the_key_is_accepted(world: World, started: list[Job], headers: dict[str, str]) -> None:
    response = world.client.post("/api/retrain", headers=headers)
    assert (response.status_code, response.json()) == (
        202,
        {"job_id": "abc", "engine": "local", "status": "started"},
    )


def test_retrain_is_off_while_the_service_has_no_key(tmp_path: Path, started: list[Job]) -> None:
    with serving(tmp_path, frame=history(), api_key=None) as world:
        assert world.client.post("/api/retrain", headers={"x-api-key": ""}).status_code == 403
    assert not started


def test_read_routes_can_be_protected_too(tmp_path: Path) -> None:
    with serving(tmp_path, frame=history(), protect_reads=True) as world:
        assert world.client.get("/api/cities").status_code == 401
        assert world.client.get("/api/cities", headers={"x-api-key": API_KEY}).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_only_json_is_read(world: World, kind: str) -> None:
    response = world.client.post(
        "/api/simulate", content=b'{"city": "lahore"}', headers={"content-type": kind}
    )
    assert (response.status_code, response.json()["error"]["type"]) == (415, "NotJson")


def test_a_large_body_is_refused_by_its_declared_length(world: World) -> None:
    response = world.client.post("/api/simulate", content=b" " * (BODY_LIMIT_BYTES + 1), headers=JSON)
    assert (response.status_code, response.json()["error"]["type"]) == (413, "BodyTooLarge")


def test_a_streamed_body_is_counted_and_not_read_to_its_end(world: World) -> None:
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            sent.append(1)
            yield b" " * 65_536

    response = world.client.post("/api/simulate", content=endless(), headers=JSON)
    assert response.status_code == 413


def test_every_answer_carries_the_security_headers_and_a_request_id(world: World) -> None:
    for path in ("/", "/api/health", "/nowhere"):
        headers = world.client.get(path).headers
        assert set(map(str.lower, security.SECURITY_HEADERS)) <= set(headers)
        assert len(headers["x-request-id"]) == 16


def test_a_request_id_is_kept_only_if_it_is_harmless(world: World) -> None:
    def returned(given: str) -> str:
        return world.client.get("/api/health", headers={"x-request-id": given}).headers["x-request-id"]

    assert returned("trace-1") == "trace-1"
    assert returned('"><script>') != '"><script>'
    assert returned("x" * 65) != "x" * 65


def test_an_unexpected_failure_is_a_plain_500_and_its_text_goes_nowhere(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret is xyzzy")

    monkeypatch.setattr(type(world.histories), "snapshot", broken)
    monkeypatch.setattr(security, "log", structlog.get_logger())
    with capture_logs() as lines:
        response = world.client.post("/api/simulate", json={"city": "lahore"})
    assert (response.status_code, response.json()["error"]["type"]) == (500, "InternalContractBroken")
    assert "xyzzy" not in response.text + str(lines)
    assert {"RuntimeError"} == {line["error"] for line in lines if line["event"] == "unexpected"}


def test_a_log_line_names_route_status_and_who_answered_but_no_input(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "log", structlog.get_logger())
    with capture_logs() as lines:
        world.client.post("/api/simulate", json={"city": "lahore", "seed": 123454321})
        world.client.post("/api/simulate", json={"city": "lahore", "confidential": 1})
    good, bad = lines
    assert (good["route"], good["status"], good["served_by"], good["rung"]) == (
        "/api/simulate",
        200,
        "world_model",
        0,
    )
    assert (bad["status"], bad["error"]) == (422, "BadInput")
    assert "123454321" not in str(lines)
    assert "confidential" not in str(lines)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    release = threading.Event()

    async def scene() -> None:
        queue = WorkQueue(5, admitted_max=2)
        busy = [asyncio.create_task(queue.run(lambda _: release.wait())) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded) as refused:
            await queue.run(lambda _: release.wait())
        assert int(refused.value.headers["Retry-After"]) >= 1
        release.set()
        await asyncio.gather(*busy)
        await asyncio.sleep(0.05)
        assert await queue.run(lambda _: 1) == 1
        queue.close()

    asyncio.run(scene())


def test_a_deadline_drops_waiting_work_and_keeps_the_slot_of_running_work() -> None:
    release = threading.Event()
    began: list[str] = []

    async def scene() -> None:
        queue = WorkQueue(0.1, admitted_max=2)
        running = asyncio.create_task(queue.run(lambda _: release.wait()))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(queue.run(lambda _: began.append("late")))
        for task in (running, waiting):
            with pytest.raises(DeadlineExceeded):
                await task
        await asyncio.sleep(0.02)
        assert queue._admitted == 1
        release.set()
        await asyncio.sleep(0.05)
        assert queue._admitted == 0
        queue.close()

    asyncio.run(scene())
    assert not began


def test_work_that_outlives_its_deadline_ends_at_its_next_checkpoint() -> None:
    ended = threading.Event()

    def search(checkpoint: Checkpoint) -> None:
        try:
            while True:
                checkpoint()
                threading.Event().wait(0.005)
        finally:
            ended.set()

    async def scene() -> None:
        queue = WorkQueue(0.1, admitted_max=1)
        with pytest.raises(DeadlineExceeded):
            await queue.run(search)
        assert await asyncio.to_thread(ended.wait, 2)
        await asyncio.sleep(0.02)
        assert await queue.run(lambda _: "the thread is free") == "the thread is free"
        queue.close()

    asyncio.run(scene())


def test_work_that_takes_long_shortens_the_queue_and_names_the_wait() -> None:
    async def scene() -> None:
        queue = WorkQueue(5, patience_seconds=1.0)
        queue._usual_seconds = 0.5
        release = threading.Event()
        busy = [asyncio.create_task(queue.run(lambda _: release.wait())) for _ in range(ADMITTED_ALWAYS)]
        await asyncio.sleep(0.02)
        with pytest.raises(Overloaded) as refused:
            queue.check()
        assert refused.value.headers["Retry-After"] == str(math.ceil(ADMITTED_ALWAYS * 0.5))
        queue._usual_seconds = 0.001
        queue.check()
        release.set()
        await asyncio.gather(*busy)
        queue.close()

    asyncio.run(scene())


def test_the_usual_duration_follows_what_is_measured() -> None:
    async def scene() -> None:
        queue = WorkQueue(5)
        for _ in range(30):
            await queue.run(lambda _: threading.Event().wait(0.005))
        assert 0.003 < queue._usual_seconds < 0.2
        queue.close()

    asyncio.run(scene())


def test_work_for_a_client_that_hung_up_is_dropped_and_its_place_is_free() -> None:
    release, begun = threading.Event(), []

    async def scene() -> None:
        queue = WorkQueue(5, admitted_max=2)
        running = asyncio.create_task(queue.run(lambda _: release.wait()))
        await asyncio.sleep(0)
        with pytest.raises(ClientGone):
            await queue.run(lambda _: begun.append("nobody waits"), gone=asyncio.sleep(0.01))
        await asyncio.sleep(0.02)
        queue.check()
        release.set()
        assert await running
        queue.close()

    asyncio.run(scene())
    assert not begun


def test_a_refusal_under_load_reads_no_body_and_is_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkQueue, "check", busy)
    monkeypatch.setattr(security, "log", structlog.get_logger())
    with capture_logs() as lines:
        response = world.client.post("/api/simulate", content=b"not even JSON", headers=JSON)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert response.json()["error"]["type"] == "Overloaded"
    assert (lines[0]["route"], lines[0]["status"], lines[0]["error"]) == ("/api/simulate", 429, "Overloaded")
    assert world.client.get("/api/health").status_code == 200


def busy(_: WorkQueue) -> None:
    raise Overloaded("busy", headers={"Retry-After": "1"})


@pytest.mark.parametrize(("length", "closes"), [(1000, False), (100_000, True)])
def test_a_connection_with_much_of_a_refused_body_to_come_is_closed(
    world: World, monkeypatch: pytest.MonkeyPatch, length: int, closes: bool
) -> None:
    monkeypatch.setattr(WorkQueue, "check", busy)
    response = world.client.post("/api/simulate", content=b" " * length, headers=JSON)
    assert (response.headers.get("connection") == "close") is closes


def test_a_search_or_a_city_that_must_be_read_first_waits_on_a_queue_of_its_own(world: World) -> None:
    assert world.answers.is_slow({"city": "lahore"})
    world.simulate()
    assert not world.answers.is_slow({"city": "Lahore"})
    assert world.answers.is_slow({"city": "lahore", "scenarios": [{}] * 5})
    for odd in ({}, {"city": 3}, {"city": None, "scenarios": 1}):
        assert world.answers.is_slow(odd)


def test_a_made_up_method_is_not_a_label_of_its_own(world: World) -> None:
    world.client.request("BREW", "/api/health")
    text = world.client.get("/metrics").text
    assert "BREW" not in text
    assert 'method="other"' in text


def test_a_search_is_given_up_when_nobody_waits_for_it(tmp_path: Path) -> None:
    with serving(tmp_path, frame=history()) as world:
        calls = []

        def checkpoint() -> None:
            calls.append(1)
            if len(calls) > 3:
                raise DeadlineExceeded("too late")

        with pytest.raises(DeadlineExceeded):
            world.answers.optimize({"city": "lahore", "horizon_hours": 6, "eval_budget": 200}, checkpoint)
        assert len(calls) == 4


def test_only_one_local_retrain_runs_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, frame=history()) as world:
        monkeypatch.setattr(
            "serving.retrain.COMMAND", ("-c", "import sys; sys.stdin.read(); import time; time.sleep(1)")
        )
        first = world.client.post("/api/retrain", headers={"x-api-key": API_KEY})
        second = world.client.post("/api/retrain", headers={"x-api-key": API_KEY})
    assert (first.status_code, second.status_code) == (202, 409)
    assert second.json()["error"]["type"] == "AlreadyRunning"


def test_retrain_through_an_unreachable_prefect_server_is_unavailable(tmp_path: Path) -> None:
    with serving(tmp_path, frame=history(), prefect_api_url="http://127.0.0.1:9/api") as world:
        response = world.client.post("/api/retrain", headers={"x-api-key": API_KEY})
    assert (response.status_code, response.json()["error"]["type"]) == (503, "Unavailable")
