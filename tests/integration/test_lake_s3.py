"""The same lake in an S3-compatible object store."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tests.lake_batches import START, batch, observation, series
from urbanwm.ingest import LakeUpkeep, maintain_lake
from urbanwm.lake import Commit, Forecasts, Lake
from urbanwm.lake.upkeep import KeptTable
from urbanwm.settings import load_settings

boto3 = pytest.importorskip("boto3")
pytest.importorskip("moto.server")

BUCKET = "urbanwm-test"
START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the local object store did not start")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A local object store in a process of its own: the engine holds the interpreter lock while it reads."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until_listening(port)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(timeout=30)


@pytest.fixture
def lake(endpoint, monkeypatch, request) -> Lake:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    client.close()
    settings = load_settings(lake_uri=f"s3://{BUCKET}/{request.node.name}/observations")
    return Lake(settings.lake_uri, settings.storage_options)


def test_write_correct_read_compact_and_vacuum_in_an_object_store(lake):
    assert lake.version() == -1
    first = lake.upsert(series([1, 2, 3]))
    assert first.inserted == 3
    assert lake.upsert(series([1, 2, 3])) == Commit(first.version)
    second = lake.upsert(batch(observation(1, 20, known=90), observation(4, 5)))
    assert (second.inserted, second.updated) == (1, 1)
    lake.upsert(batch(observation(3, 0)))
    assert lake.read("x", version=first.version)["pm25"].tolist() == [1, 2, 3]
    before = lake.read_provenance("x")
    assert lake.compact() == 1
    assert lake.read_provenance("x").equals(before)
    lake.vacuum([second.version], retention_hours=0)
    assert lake.read_provenance("x").equals(before)
    assert lake.read("x", version=second.version)["pm25"].iloc[1] == 20
    assert lake.cities() == ["x"]


def test_writers_at_once_lose_nothing_in_an_object_store(lake):
    lake.upsert(batch(observation(0, 0)))
    with ThreadPoolExecutor(4) as pool:
        commits = list(pool.map(lambda hour: lake.upsert(batch(observation(hour, hour))), range(1, 13)))
    assert sum(commit.inserted for commit in commits) == 12
    assert lake.read("x")["pm25"].tolist() == list(range(13))


def test_a_night_of_forecasts_and_upkeep_in_an_object_store(lake, endpoint, monkeypatch, tmp_path):
    monkeypatch.setattr("urbanwm.lake.upkeep.REPLACED_FILES_WORTH_A_VACUUM", 2)
    monkeypatch.setattr(KeptTable.vacuum, "__defaults__", (0,))
    settings = load_settings(home=tmp_path, lake_uri=lake.uri)
    forecasts = Forecasts(settings.lake_forecasts_uri, settings.storage_options)
    versions = [lake.upsert(batch(observation(0, value, known=value))).version for value in (1, 2, 3, 4)]
    for issued in (1, 2):
        forecasts.add(batch(*(observation(hour, 10 * issued, known=issued) for hour in (2, 3))))
    again = batch(observation(2, 10, known=1))
    assert forecasts.add(again) == Commit(forecasts.version())
    done = maintain_lake(settings, {versions[1]})
    assert done.deleted_files > 0
    assert lake.read("x", version=versions[1])["pm25"].tolist() == [2]
    assert maintain_lake(settings, {versions[1]}) == LakeUpkeep(done.version)
    assert forecasts.read_known_ahead("x", START + timedelta(hours=2), 2)["pm25"].tolist() == [20, 20]
    assert forecasts.read_known_ahead("x", START + timedelta(hours=1), 3)["pm25"].tolist()[1:] == [10, 10]
