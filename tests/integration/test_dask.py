"""The same night on threads and on a local Dask cluster of two workers: identical tables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from urbanwm.cities import load_cities
from urbanwm.ingest import ingest_cities
from urbanwm.lake import Lake
from urbanwm.settings import Settings, load_settings

distributed = pytest.importorskip("distributed")
pytest.importorskip("prefect_dask")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("prefect"),
    # Prefect, its server, Dask and SQLAlchemy warn about each other's versions; none of it is ours to change.
    pytest.mark.filterwarnings("ignore"),
]

NOW = datetime(2025, 3, 1, tzinfo=UTC)
NAMES = ["alder", "birch", "cedar", "maple"]
WORKERS = 2
HOURS = 24 * 20


def midday() -> datetime:
    """Return a fixed present; a function of a module, so that it reaches the workers by its name."""
    return NOW


@pytest.fixture
def cities_dir(tmp_path) -> Path:
    """Return four recorded cities; the file of the last one is missing."""
    folder = tmp_path / "cities"
    folder.mkdir()
    generator = np.random.default_rng(7)
    for name in NAMES:
        hours = pd.date_range(end=NOW, periods=HOURS, freq="h", inclusive="left")
        record = pd.DataFrame({"timestamp": hours, "pm25": generator.uniform(3, 40, len(hours)).round(2)})
        record["energy_mwh"] = generator.uniform(400, 600, len(hours)).round(1)
        if name != NAMES[-1]:
            record.to_parquet(folder / f"{name}.parquet")
        source = [{"source": "file", "path": f"{name}.parquet"}]
        place = {"latitude": 50.0, "longitude": 10.0}
        document = {"name": name, "timezone": "Europe/Berlin", "location": place, "replay": True}
        document["signals"] = {"pm25": source, "energy_mwh": source}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
    return folder


def home(tmp_path: Path, cities_dir: Path, name: str) -> Settings:
    return load_settings(home=tmp_path / name, cities_dir=cities_dir, workers=WORKERS)


def assert_same_lakes(one: Settings, other: Settings) -> None:
    assert Lake(one.lake_uri).cities() == Lake(other.lake_uri).cities() == NAMES[:3]
    for name in NAMES[:3]:
        expected = Lake(one.lake_uri).read_provenance(name)
        assert len(expected) > HOURS
        pd.testing.assert_frame_equal(Lake(other.lake_uri).read_provenance(name), expected)


def test_a_dask_cluster_of_two_workers_ingests_the_same_lake(tmp_path, cities_dir):
    here, there = (home(tmp_path, cities_dir, name) for name in ("here", "there"))
    cities = list(load_cities(here).values())
    expected = ingest_cities(cities, here, clock=midday)
    cluster = distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        assert len(client.scheduler_info()["workers"]) == WORKERS
        found = ingest_cities(
            cities, there, clock=midday, runner=lambda work, every: client.gather(client.map(work, every))
        )
    assert [report.to_dict() for report in found] == [report.to_dict() for report in expected]
    assert found[-1].failure is not None
    assert "maple.parquet cannot be read" in found[-1].failure["message"]
    assert_same_lakes(here, there)


def test_the_ingest_flow_gives_the_same_lake_on_threads_and_on_dask(tmp_path, cities_dir, monkeypatch):
    from prefect.testing.utilities import prefect_test_harness

    from flows.ingest import ingest

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    monkeypatch.setenv("URBANWM_CITIES", str(cities_dir))
    monkeypatch.setenv("URBANWM_WORKERS", str(WORKERS))
    outcomes = {}
    with prefect_test_harness(server_startup_timeout=300):
        for runner in ("threads", "dask"):
            monkeypatch.setenv("URBANWM_HOME", str(tmp_path / runner))
            monkeypatch.setenv("URBANWM_TASK_RUNNER", runner)
            outcomes[runner] = ingest(NAMES, NOW.isoformat())
    assert outcomes["dask"] == outcomes["threads"]
    assert [outcome.inserted for outcome in outcomes["dask"]] == [HOURS, HOURS, HOURS, 0]
    assert_same_lakes(*(home(tmp_path, cities_dir, runner) for runner in ("threads", "dask")))
