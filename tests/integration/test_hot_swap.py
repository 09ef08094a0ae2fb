"""Promotions and rollbacks in a real registry while a real service is under load, and then the ruins."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.registry_support import accept, make_registry, make_template
from tests.service_process import FULL_SIZE, RunningService, prepare_home, running_service, untrained_bundle
from urbanwm.registry import Registry, directory_digest, promote, rollback

pytestmark = pytest.mark.slow
PROMOTIONS, ROLLBACKS = (30, 10) if FULL_SIZE else (6, 2)
"""With URBANWM_FULL_SIZE=1 all of them; each rollback is followed by one more promotion."""
BUNDLES = 3
POLL_SECONDS = 0.3
SWAP_SECONDS = 20.0
"""One poll period, and the time to load and examine, on a loaded machine."""
ASKERS = 3
BODY = {"city": "demo", "horizon_hours": 24, "policy": {"car_free_ratio": 0.3}}


def register_all(home: Path, registry: Registry) -> list[str]:
    """Register a few untrained models and return their versions."""
    versions = []
    for number in range(1, BUNDLES + 1):
        bundle = untrained_bundle(home, number)
        with registry.start_run(f"train {number}", {"stage": "train"}) as run:
            run.log_folder(bundle, "bundle")
        tags = {"bundle_digest": directory_digest(bundle), "dataset_version": 1}
        versions.append(registry.register(run.run_id, tags, {}).version)
    return versions


@contextmanager
def load(service: RunningService, seen: list[tuple[int, str, str]]) -> Iterator[None]:
    """Ask without a pause from a few threads, and note status, version and run of every answer."""
    stop = threading.Event()

    def ask(seed: int) -> None:
        chance = random.Random(seed)
        with requests.Session() as session:
            while not stop.is_set():
                body = {**BODY, "seed": chance.randrange(1000)}
                response = session.post(f"{service.url}/api/simulate", json=body, timeout=30)
                meta = response.json().get("meta", {})
                seen.append((response.status_code, meta.get("model_version"), meta.get("run_id")))

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(ASKERS)]
    for asker in askers:
        asker.start()
    try:
        yield
    finally:
        stop.set()
        for asker in askers:
            asker.join()


def wait_for(service: RunningService, wanted: dict[str, object]) -> None:
    """Wait until the service says so of its model."""
    deadline = time.monotonic() + SWAP_SECONDS
    while time.monotonic() < deadline:
        told = service.get("/api/model").json()
        if {key: told[key] for key in wanted} == wanted:
            return
        time.sleep(0.05)
    raise AssertionError(f"the service never said {wanted}: {told}")


def ask_until(service: RunningService, word: str) -> dict:
    """Ask until a reason has the word; every answer is a good one."""
    deadline = time.monotonic() + SWAP_SECONDS
    while True:
        response = service.post("/api/simulate", BODY)
        assert response.status_code == 200
        meta = response.json()["meta"]
        if any(word in reason for reason in meta["reasons"]):
            return meta
        assert time.monotonic() < deadline, meta["reasons"]
        time.sleep(0.1)


def test_promotions_and_rollbacks_cost_no_request_and_the_ruins_still_answer(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepare_home(home)
    registry = make_registry(home, make_template(tmp_path / "template"))
    versions = register_all(home, registry)
    runs = {version: registry.version(version).run_id for version in versions}
    seen: list[tuple[int, str, str]] = []

    promote(registry, versions[0], validate=accept, expected_champion=None)
    with running_service(home, URBANWM_POLL_SECONDS=str(POLL_SECONDS)) as service:
        wait_for(service, {"model_version": versions[0], "confirmed_by_registry": True})
        with load(service, seen):
            for number in range(1, PROMOTIONS + 1):
                present, coming = versions[(number - 1) % BUNDLES], versions[number % BUNDLES]
                promote(registry, coming, validate=accept, expected_champion=present)
                wait_for(service, {"model_version": coming})
                if number % (PROMOTIONS // ROLLBACKS) == 0:
                    rollback(registry, validate=accept, reason="a test")
                    wait_for(service, {"model_version": present})
                    promote(registry, coming, validate=accept, expected_champion=present)
                    wait_for(service, {"model_version": coming})
            serving = registry.champion()
            shutil.rmtree(home / "mlflow")
            shutil.rmtree(home / "lake")
            assert serving is not None
            wait_for(service, {"model_version": serving.version, "confirmed_by_registry": False})
        assert len(seen) > PROMOTIONS
        assert {status for status, *_ in seen} == {200}
        assert {(version, run) for _, version, run in seen} == set(runs.items())

        meta = ask_until(service, "lake")
        assert (meta["served_by"], meta["model_version"]) == ("world_model", serving.version)
        assert (meta["rung"], meta["degraded"]) == (2, True)
        assert any("registry" in reason for reason in meta["reasons"])
