"""`/readyz` over HTTP: no model is no reason to turn requests away, no data is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.service_process import READY_SECONDS, RunningService, fill_lake, running_service, write_cities

pytestmark = pytest.mark.slow
STATE = {"pm25": 20.0, "energy_mwh": 500.0, "traffic_index": 1.0}


def readiness(service: RunningService) -> tuple[int, dict]:
    response = service.get("/readyz")
    return response.status_code, response.json()


def test_without_data_the_service_says_why_it_is_not_ready_and_with_data_the_baseline_is(
    tmp_path: Path,
) -> None:
    write_cities(tmp_path)
    with running_service(tmp_path, probe="/livez") as service:
        status, body = readiness(service)
        assert (status, body["error"]["type"]) == (503, "Unavailable")
        while "registry" in readiness(service)[1]["error"]["message"]:
            time.sleep(0.2)
        assert "no city has data" in readiness(service)[1]["error"]["message"]
        assert service.get("/api/health").status_code == 200
        assert service.post("/api/simulate", {"city": "demo"}).status_code == 503
        own = service.post("/api/simulate", {"city": "demo", "initial_state": STATE})
        assert own.json()["meta"]["rung"] == 4

        fill_lake(tmp_path)
        filled = time.monotonic()
        while readiness(service)[0] != 200 and time.monotonic() - filled < READY_SECONDS:
            time.sleep(0.2)
        assert readiness(service) == (
            200,
            {"status": "ready", "served_by": "baseline", "model_version": None},
        )
        assert service.post("/api/simulate", {"city": "demo"}).json()["meta"]["served_by"] == "baseline"
