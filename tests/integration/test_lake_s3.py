"""The same lake in an S3-compatible object store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lake_batches import batch, observation, series
from urbanwm.lake import Commit, Lake
from urbanwm.settings import load_settings

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")

BUCKET = "urbanwm-test"


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[str]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


@pytest.fixture
def lake(endpoint, monkeypatch) -> Lake:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    settings = load_settings(lake_uri=f"s3://{BUCKET}/lake/observations")
    return Lake(settings.lake_uri, settings.storage_options)


def test_write_correct_read_compact_and_vacuum_in_an_object_store(lake):
    assert lake.version() == -1
    first = lake.upsert(series([1, 2, 3]))
    assert first.inserted == 3
    assert lake.upsert(series([1, 2, 3])) == Commit(first.version, 0, 0)
    second = lake.upsert(batch(observation(1, 20, known=90), observation(4, 5)))
    assert (second.inserted, second.updated) == (1, 1)
    lake.upsert(batch(observation(-1, 0)))
    assert lake.read("x", version=first.version)["pm25"].tolist() == [1, 2, 3]
    before = lake.read_provenance("x")
    assert lake.compact() == 1
    assert lake.read_provenance("x").equals(before)
    lake.vacuum(second.version, retention_hours=0)
    assert lake.read_provenance("x").equals(before)
    assert lake.read("x", version=second.version)["pm25"].iloc[1] == 20
    assert lake.cities() == ["x"]


def test_writers_at_once_lose_nothing_in_an_object_store(lake):
    lake.upsert(batch(observation(0, 0)))
    with ThreadPoolExecutor(4) as pool:
        commits = list(pool.map(lambda hour: lake.upsert(batch(observation(hour, hour))), range(1, 13)))
    assert sum(commit.inserted for commit in commits) == 12
    assert lake.read("x")["pm25"].tolist() == list(range(13))
