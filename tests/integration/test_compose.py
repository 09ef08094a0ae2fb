"""docker-compose.yml without Docker: every service's own command, from an empty state to an answer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import requests
import yaml

from tests.compose_stack import (
    PROJECT,
    READY_SECONDS,
    Stack,
    compose_file,
    postgres_folder,
    promtool,
    stack,
    wait_until,
)
from urbanwm.client import Client, ServiceError

KEY = "a-key-for-the-stack"
NIGHT_SECONDS = 900.0
"""A small night on a loaded machine; on an idle one it takes about a minute."""
BODY = {"city": "demo", "horizon_hours": 24, "policy": {"car_free_ratio": 0.3}}

slow = pytest.mark.slow


def test_every_file_and_volume_that_is_mounted_exists() -> None:
    document = compose_file()
    for name, service in document["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            exists = (PROJECT / source).exists() if source.startswith(".") else source in document["volumes"]
            assert exists, f"{name}: {source}"
        for needed in service.get("depends_on", {}):
            assert needed in document["services"], f"{name} needs {needed}"


def test_no_password_has_a_default_and_every_port_stays_on_this_machine() -> None:
    text = (PROJECT / "docker-compose.yml").read_text()
    for secret in ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        assert f"${{{secret}:?" in text
        assert f"${{{secret}:-" not in text
    for name, service in compose_file()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_prometheus_scrapes_a_service_that_exists_and_reads_rules_that_exist() -> None:
    folder = PROJECT / "infra" / "prometheus"
    configured = yaml.safe_load((folder / "prometheus.yml").read_text())
    targets = [
        target
        for job in configured["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    assert {target.split(":")[0] for target in targets} <= set(compose_file()["services"])
    assert all((folder / rules).is_file() for rules in configured.get("rule_files", []))


def test_prometheus_itself_accepts_its_configuration() -> None:
    tool = promtool()
    if tool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    path = PROJECT / "infra" / "prometheus" / "prometheus.yml"
    done = subprocess.run([tool, "check", "config", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if postgres_folder() is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL cannot run as root, and setpriv is not installed")
    small = {
        "URBANWM_API_KEY": KEY,
        "URBANWM_TRAINING_STEPS": "5",
        "URBANWM_HISTORY_DAYS": "90",
        "URBANWM_POLL_SECONDS": "1",
        "URBANWM_NIGHTLY_CITIES": "demo",
    }
    with stack(tmp_path_factory.mktemp("stack"), **small) as made:
        made.start_postgres()
        made.start_s3()
        made.start("mlflow")
        made.start("prefect")
        wait_until(lambda: requests.get(made.url("mlflow", "/health"), timeout=3).ok, what="MLflow")
        wait_until(lambda: requests.get(made.url("prefect", "/api/health"), timeout=3).ok, what="Prefect")
        made.start("nightly")
        made.start("service")
        wait_until(lambda: requests.get(made.url("service", "/livez"), timeout=3).ok, what="the service")
        yield made


def flow_run(running: Stack, run_id: str) -> str:
    """Return the state of a run as Prefect names it."""
    told = requests.get(running.url("prefect", f"/api/flow_runs/{run_id}"), timeout=10).json()
    return str(told["state"]["type"])


@slow
@pytest.mark.timeout(int(NIGHT_SECONDS + 3 * READY_SECONDS))
def test_a_night_asked_for_through_the_service_ends_with_its_champion_in_service(running: Stack) -> None:
    with Client(running.url("service"), api_key=KEY) as client, Client(running.url("service")) as stranger:
        assert client.health()["served_by"] == "baseline"
        not_yet = requests.get(running.url("service", "/readyz"), timeout=10)
        assert not_yet.status_code == 503, "there is no data before the first night"
        wait_until(lambda: _deployed(running), what="the nightly deployment")
        with pytest.raises(ServiceError, match="needs the API key"):
            stranger.retrain()

        job = client.retrain()
        assert job["engine"] == "prefect"
        with pytest.raises(ServiceError) as busy:
            client.retrain()
        assert (busy.value.status, busy.value.kind) == (409, "AlreadyRunning")

        wait_until(lambda: flow_run(running, job["job_id"]) == "RUNNING", what="the start of the night")
        with pytest.raises(ServiceError, match="under way"):
            client.retrain()
        ended = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        wait_until(lambda: flow_run(running, job["job_id"]) in ended, NIGHT_SECONDS, "the end of the night")
        log = (running.folder / "nightly.log").read_text()
        assert flow_run(running, job["job_id"]) == "COMPLETED", log[-3000:]
        if not _has_champion(running):
            # So short a training rarely beats the baseline, and the gate says so.
            _promote(running)
        wait_until(lambda: client.model()["served_by"] == "world_model", what="the swap")
        assert requests.get(running.url("service", "/readyz"), timeout=10).ok
        meta = client.simulate("demo", horizon_hours=24, car_free_ratio=0.3)["meta"]
    assert (meta["served_by"], meta["model_version"], meta["degraded"]) == ("world_model", "1", False)


@slow
def test_both_databases_hold_the_tables_and_no_state_is_in_a_file(running: Stack) -> None:
    metrics = re.compile(r"(counter|gauge|histogram)_")
    for name in ("mlflow", "prefect", "nightly", "service"):
        found = [path for path in (running.folder / name).rglob("*.db") if not metrics.match(path.name)]
        assert not found, found


def _deployed(running: Stack) -> bool:
    return requests.get(running.url("prefect", "/api/deployments/name/nightly/nightly"), timeout=5).ok


def _has_champion(running: Stack) -> bool:
    """Ask MLflow's own interface."""
    question = {"name": "urban-world-model", "alias": "champion"}
    address = running.url("mlflow", "/api/2.0/mlflow/registered-models/alias")
    return requests.get(address, params=question, timeout=10).ok


def _promote(running: Stack) -> None:
    program = (
        "from urbanwm.settings import load_settings, apply_environment as apply\n"
        "from urbanwm.registry import Registry, promote\n"
        "settings = load_settings(); apply(settings)\n"
        "promote(Registry(settings), '1', validate=lambda _: None, expected_champion=None)\n"
    )
    environment = running.environment("nightly")
    subprocess.run(["python", "-c", program], env=environment, cwd=PROJECT, check=True)
