"""One real `bentoml serve` with a model from the champion cache and a registry that is not there."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service_process import STOP_SECONDS, RunningService, add_champion, prepare_home, running_service
from urbanwm.client import Client, ServiceError

pytestmark = pytest.mark.slow
KEY = "a-key-for-tests"
SWAP_SECONDS = 20.0
"""One poll period of 1 s and the time to load, on a loaded machine."""
BODY = {
    "city": "demo",
    "horizon_hours": 24,
    "policy": {"car_free_ratio": 0.3, "renewable_mix": 0.5},
    "seed": 5,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    home = tmp_path_factory.mktemp("home")
    prepare_home(home)
    add_champion(home)
    with running_service(home, URBANWM_API_KEY=KEY, URBANWM_POLL_SECONDS="1") as made:
        yield made


def test_the_cached_champion_answers_although_there_is_no_registry(service: RunningService) -> None:
    answer = service.post("/api/simulate", BODY).json()
    meta = answer["meta"]
    assert (meta["served_by"], meta["model_version"], meta["rung"], meta["degraded"]) == (
        "world_model",
        "1",
        2,
        True,
    )
    assert any("registry" in reason for reason in meta["reasons"])
    assert len(answer["simulated"]) == 24
    assert all(0 <= row["traffic_index"] <= 2 and row["pm25"] >= 0 for row in answer["simulated"])


def test_the_same_question_has_the_same_bytes_over_http(service: RunningService) -> None:
    assert service.post("/api/simulate", BODY).content == service.post("/api/simulate", BODY).content


EARLIER_POLICY = {
    "car_free_ratio": 0.2,
    "renewable_mix": 0.4,
    "dynamic_pricing": True,
    "stricter_car_bans": False,
    "gdp_activity_index": 1.0,
    "commercial_load_factor": 1.0,
}


def test_the_earlier_implementations_bodies_are_answered_with_the_fields_its_page_reads(
    service: RunningService,
) -> None:
    body = {"city": "Demo", "start_time": "2026-02-20T10:00:00Z", "horizon_hours": 24}
    answer = service.post("/api/simulate", {**body, "policy": EARLIER_POLICY}).json()
    assert [row["hour"] for row in answer["simulated"]] == list(range(24))
    for row in answer["simulated"]:
        read = ("pm25", "energy_mwh", "traffic_index", "pm25_std", "energy_std", "traffic_std")
        assert all(isinstance(row[name], float) for name in read)
        assert row["timestamp"].startswith("2026-02-2")
    assert {"generated_at", "note", "policy_effective"} <= set(answer["meta"])
    assert answer["policy"].items() >= {"car_free_ratio": 0.2, "renewable_mix": 0.4}.items()

    points = service.get("/api/explain/latent_sample", params={"city": "demo"}).json()["points"]
    assert all(set(point) >= {"x", "y", "label", "weight"} for point in points)

    wanted = {**body, "weights": {"pm25": 1.0, "energy": 0.5, "traffic": 0.5}, "eval_budget": 8}
    found = service.post("/api/optimize", wanted).json()
    assert set(found["policy"]) >= {"car_free_ratio", "renewable_mix"}
    assert isinstance(found["score"], float)
    assert 1 <= found["candidates_tested"] <= 8


def test_latents_come_from_the_model(service: RunningService) -> None:
    answer = service.post("/api/latent", BODY).json()
    assert [len(answer["z"]), len(answer["z"][0])] == [25, 128]
    assert [len(answer["h"]), len(answer["h"][0])] == [25, 256]
    assert len(service.get("/api/explain/latent_sample?city=demo").json()["points"]) == 168


def test_a_city_without_data_is_answered_from_the_callers_state_or_not_at_all(
    service: RunningService,
) -> None:
    response = service.post("/api/simulate", {"city": "silent"})
    assert (response.status_code, response.json()["error"]["type"]) == (503, "DataUnavailable")
    state = {"pm25": 20, "energy_mwh": 500, "traffic_index": 1}
    meta = service.post("/api/simulate", {"city": "silent", "initial_state": state}).json()["meta"]
    assert (meta["served_by"], meta["rung"], meta["degraded"]) == ("baseline", 4, True)


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/healthz", "/metrics", "/docs.json", "/openapi.json", "/"]
)
def test_the_probes_and_pages_of_the_server_are_there(service: RunningService, path: str) -> None:
    assert service.get(path).status_code == 200


def test_our_metrics_are_among_the_servers(service: RunningService) -> None:
    service.post("/api/simulate", BODY)
    text = service.get("/metrics").text
    assert 'urbanwm_answers_total{city="demo",model_version="1",rung="2",served_by="world_model"}' in text
    assert "urbanwm_request_seconds_bucket" in text


@pytest.mark.parametrize(
    ("path", "status"), [("/nothing", 404), ("/api/nothing", 404), ("/api/simulate", 405)]
)
def test_the_servers_own_refusals_carry_the_envelope(service: RunningService, path: str, status: int) -> None:
    response = service.get(path)
    assert response.status_code == status
    assert set(response.json()["error"]) >= {"type", "message", "field", "allowed"}
    assert response.headers["x-content-type-options"] == "nosniff"


def test_an_endless_chunked_body_is_refused_early(service: RunningService) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST /api/simulate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        sent = 0
        try:
            for _ in range(200):
                connection.sendall(chunk)
                sent += len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 200 * len(chunk) or b"413" in connection.recv(1000)


def test_retrain_needs_the_key(service: RunningService) -> None:
    assert service.post("/api/retrain").status_code == 401
    assert service.post("/api/retrain", headers={"Authorization": "Bearer no"}).status_code == 403


def test_the_client_speaks_to_the_service(service: RunningService) -> None:
    with Client(service.url) as client:
        answer = client.simulate("demo", horizon_hours=24, car_free_ratio=0.3, renewable_mix=0.5, seed=5)
        assert answer["simulated"] == service.post("/api/simulate", BODY).json()["simulated"]
        assert len(client.latent(BODY)["z"]) == 25
        assert {city["name"] for city in client.cities()} == {"demo", "silent"}
        assert client.health()["served_by"] == client.model()["served_by"] == "world_model"
        assert (
            client.optimize({"city": "demo", "horizon_hours": 6, "eval_budget": 4})["candidates_tested"] <= 4
        )
        with pytest.raises(ServiceError) as refused:
            client.simulate("nowhere")
        assert (refused.value.status, refused.value.kind, refused.value.retryable) == (
            404,
            "UnknownCity",
            False,
        )
        with pytest.raises(ServiceError):
            client.retrain()


def test_every_line_of_ours_in_the_log_is_json_without_input(service: RunningService) -> None:
    service.post("/api/simulate", {"city": "demo", "a_very_private_key": 1})
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    assert {"request_id", "route", "status", "milliseconds"} <= set(lines[-1])
    assert "a_very_private_key" not in service.log.read_text()
    assert "Traceback" not in service.log.read_text()


def test_a_promotion_under_load_costs_no_request_and_mixes_no_versions(service: RunningService) -> None:
    seen: list[tuple[int, str, str]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            response = service.post("/api/simulate", {**BODY, "policy": {}})
            meta = response.json()["meta"]
            seen.append((response.status_code, meta["model_version"], meta["run_id"]))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    add_champion(service.log.parent, "2")
    promoted = time.monotonic()
    while seen[-1][1] != "2" and time.monotonic() - promoted < SWAP_SECONDS:
        time.sleep(0.1)
    stop.set()
    for asker in askers:
        asker.join()
    assert set(seen) == {(200, "1", "run-1"), (200, "2", "run-2")}


def test_sigterm_under_load_loses_no_answer_and_leaves_no_process(tmp_path: Path) -> None:
    prepare_home(tmp_path)
    statuses: list[int] = []
    with running_service(tmp_path) as service:
        stop = threading.Event()

        def ask() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    statuses.append(service.post("/api/simulate", {**BODY, "seed": number}).status_code)
                except OSError:
                    return

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        time.sleep(2)
        began = time.perf_counter()
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(STOP_SECONDS * 3)
        seconds = time.perf_counter() - began
        stop.set()
        for asker in askers:
            asker.join()
    assert statuses
    assert set(statuses) == {200}
    assert seconds < STOP_SECONDS
    with pytest.raises(ProcessLookupError):
        os.killpg(service.process.pid, 0)
