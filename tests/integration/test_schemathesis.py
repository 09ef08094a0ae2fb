"""Schemathesis against the service: whatever the OpenAPI document allows or forbids, it keeps its word."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.service_process import FULL_SIZE, RunningService, add_champion, prepare_home, running_service

BUDGET_SECONDS = 1800 if FULL_SIZE else 40
"""URBANWM_FULL_SIZE=1 spends the half hour."""
GROWTH_MIB = 50
KEY = "k" * 20
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUDGET_SECONDS + 300)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    home = tmp_path_factory.mktemp("home")
    prepare_home(home)
    add_champion(home)
    with running_service(home, URBANWM_API_KEY=KEY) as made:
        yield made


def worker_mib(service: RunningService) -> float:
    return max(child.memory_info().rss for child in psutil.Process(service.process.pid).children()) / 2**20


def attack(service: RunningService, folder: Path, seconds: int) -> str:
    """Let Schemathesis make up requests for some seconds; return what it has to say against the answers."""
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/openapi.json"),
        *("--checks", ",".join(CHECKS), "--seed", "1", "--max-time", str(seconds)),
        *("--request-timeout", "20", "--warnings", "off", "--continue-on-failure", "--no-shrink"),
        *("--suppress-health-check", "all"),
        # It would start a night; what it refuses is tested elsewhere.
        *("--exclude-path", "/api/retrain"),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout[-8000:] + done.stderr[-2000:]


def test_what_the_document_promises_holds_for_whatever_schemathesis_makes_up(
    service: RunningService, tmp_path: Path
) -> None:
    for _ in range(20):
        service.post("/api/simulate", {"city": "demo"})
    before = worker_mib(service)
    complaints = attack(service, tmp_path, BUDGET_SECONDS)
    assert not complaints, complaints
    assert worker_mib(service) - before < GROWTH_MIB
    assert service.get("/readyz").status_code == 200
    assert "Traceback" not in service.log.read_text()
