"""The same night on one machine and on a local Dask cluster of two workers: identical tables."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.recorded_cities import NOW, assert_same_lakes, write_cities
from urbanwm.cities import load_cities
from urbanwm.ingest import ingest_cities
from urbanwm.settings import load_settings

distributed = pytest.importorskip("distributed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

WORKERS = 2


def fixed_clock() -> datetime:
    """Return the present; a function of a module, so that it reaches the workers by its name."""
    return NOW


def test_a_dask_cluster_of_two_workers_ingests_the_same_lake(tmp_path):
    cities_dir = write_cities(tmp_path / "cities")
    here, there = (load_settings(home=tmp_path / name, cities_dir=cities_dir) for name in ("here", "there"))
    cities = list(load_cities(here).values())
    expected = ingest_cities(cities, here, clock=fixed_clock)
    cluster = distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        assert len(client.scheduler_info()["workers"]) == WORKERS
        found = ingest_cities(
            cities,
            there,
            clock=fixed_clock,
            runner=lambda work, every: client.gather(client.map(work, every)),
        )
    assert [report.to_dict() for report in found] == [report.to_dict() for report in expected]
    assert found[-1].failure is not None
    assert "maple.parquet cannot be read" in found[-1].failure["message"]
    assert_same_lakes(here, there)
