"""Two processes write the same year of one lake at once: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tests.lake_batches import START
from urbanwm.lake import Forecasts, Lake

REPOSITORY = Path(__file__).resolve().parents[2]
CONTESTED_HOURS = 10

WRITER = textwrap.dedent(
    """
    import sys
    from tests.lake_batches import batch, observation
    from urbanwm.lake import Forecasts, Lake

    uri, writer, commits, contested = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    lake, forecasts = Lake(uri), Forecasts(uri + "-forecasts")
    for i in range(commits):
        own = observation(contested + 2 * i + writer, i)
        fought_for = observation(i % contested, 10 * i + writer)
        lake.upsert(batch(own, fought_for))
        # Both writers bring the same issue, and each one of its own.
        same = observation(contested, i, known=-1 - i)
        forecasts.add(batch(same, observation(contested, i, known=i, source=str(writer))))
    """
)


def write_at_once(uri: Path, commits: int) -> None:
    arguments = [str(commits), str(CONTESTED_HOURS)]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(uri), str(writer), *arguments], cwd=REPOSITORY)
        for writer in (0, 1)
    ]
    assert [writer.wait(timeout=1500) for writer in writers] == [0, 0]


def assert_complete(uri: Path, commits: int) -> None:
    rows = pa.table(DeltaTable(str(uri)).to_pyarrow_table(columns=["city", "timestamp"]))
    assert rows.num_rows == CONTESTED_HOURS + 2 * commits
    assert len(rows.group_by(["city", "timestamp"]).aggregate([])) == rows.num_rows
    values = Lake(uri).read("x")["pm25"].to_numpy()
    last_round = np.arange(commits - CONTESTED_HOURS, commits)
    winners = {i % CONTESTED_HOURS: 10.0 * i + 1 for i in last_round}
    assert values[:CONTESTED_HOURS].tolist() == [winners[hour] for hour in range(CONTESTED_HOURS)]
    np.testing.assert_array_equal(values[CONTESTED_HOURS:], np.repeat(np.arange(commits), 2))
    issued = Forecasts(f"{uri}-forecasts").issued("x", start=START, end=START + timedelta(days=9))
    assert not issued.duplicated(["timestamp", "signal", "source", "available_at"]).any()
    assert issued["source"].value_counts().to_dict() == {"a": commits, "0": commits, "1": commits}


@pytest.mark.slow
def test_two_writers_lose_nothing_and_duplicate_nothing(tmp_path):
    uri = tmp_path / "observations"
    write_at_once(uri, commits=20)
    assert_complete(uri, commits=20)
    before = Lake(uri).read_provenance("x")
    Lake(uri).compact()
    assert Lake(uri).read_provenance("x").equals(before)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_writers_with_two_hundred_commits_each(tmp_path, pytestconfig):
    if "slow" not in (pytestconfig.option.markexpr or ""):
        pytest.skip("four hundred commits take a minute or more; run with -m slow")
    write_at_once(tmp_path / "observations", commits=200)
    assert_complete(tmp_path / "observations", commits=200)
