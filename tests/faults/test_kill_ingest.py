"""kill -9 at random moments of ingest and upkeep: nothing acknowledged is lost, and a re-run completes it."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from urbanwm.ingest.raw_archive import RawArchive
from urbanwm.lake import Forecasts, Lake

REPOSITORY = Path(__file__).resolve().parents[2]
HOURS = 24 * 200

WORKER = textwrap.dedent(
    """
    import sys
    from datetime import UTC, datetime, timedelta
    from pathlib import Path

    import urbanwm.ingest.plan
    from tests.fake_source import Config, FakeSource, city
    from urbanwm.ingest import ingest_city, maintain_lake
    from urbanwm.lake import Lake, upkeep
    from urbanwm.settings import load_settings

    # Upkeep after every month, and without the day's grace: files are replaced and deleted all the time.
    upkeep.CRUMBS_PER_PARTITION = upkeep.REPLACED_FILES_WORTH_A_VACUUM = 1
    upkeep.KeptTable.vacuum.__defaults__ = (0,)
    home, hours = Path(sys.argv[1]), int(sys.argv[2])
    start = datetime(2025, 1, 1, tzinfo=UTC)
    source = FakeSource()
    for station, level in (("1", 10.5), ("2", 30.5)):
        source.values[station] = lambda ctx, level=level: {
            start + timedelta(hours=i): level + i % 13 for i in range(hours + 3)
        }
    source.keeps_forecasts = True
    urbanwm.ingest.plan.source_module = lambda name: source
    place = city({name: [Config(source="fake", station=s)] for name, s in (("pm25", "1"), ("no2", "2"))})
    settings = load_settings(home=home)
    lake = Lake(settings.lake_uri)

    def acknowledge(what, done, total):
        # Written after the commit: these hours were promised to the caller.
        print("ACK", what.split()[0], len(lake.read("x")[what.split()[0]].dropna()), flush=True)
        maintain_lake(settings, {1})

    print("READY", flush=True)
    now = start + timedelta(hours=hours)
    ingest_city(place, settings, start=start, clock=lambda: now, progress=acknowledge)
    print("DONE", flush=True)
    """
)


def start_worker(home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(home), str(HOURS)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def killed_after(home: Path, seconds: float) -> tuple[dict[str, int], bool]:
    """Run an ingest, kill it `seconds` after it was ready; return what it acknowledged and if it ended."""
    worker = start_worker(home)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "READY\n"
    time.sleep(seconds)
    worker.send_signal(signal.SIGKILL)
    lines, _ = worker.communicate()
    acknowledged: dict[str, int] = {}
    complete = [line for line in lines.splitlines(keepends=True) if line.endswith("\n")]
    for word in (line.split() for line in complete if line.startswith("ACK")):
        acknowledged[word[1]] = int(word[2])
    return acknowledged, "DONE\n" in complete


def assert_unharmed(home: Path, acknowledged: dict[str, int]) -> None:
    lake = Lake(home / "lake" / "observations")
    for name, hours in acknowledged.items():
        values = lake.read("x")[name].dropna()
        assert len(values) >= hours
        assert values.index.is_unique
    for _, _, raw in RawArchive(home / "raw").iterate():
        assert raw.body.startswith(b"[")


def kill_repeatedly(home: Path, times: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for _ in range(times):
        acknowledged, _ = killed_after(home, float(generator.uniform(0.0, 2.5)))
        assert_unharmed(home, acknowledged)
    worker = start_worker(home)
    lines, _ = worker.communicate(timeout=300)
    assert "DONE" in lines
    frame = Lake(home / "lake" / "observations").read("x")
    expected = pd.date_range("2025-01-01", periods=HOURS, freq="h", tz="UTC")
    assert frame.index.equals(expected.as_unit("us"))
    np.testing.assert_array_equal(frame["pm25"], 10.5 + np.arange(HOURS) % 13)
    np.testing.assert_array_equal(frame["no2"], 30.5 + np.arange(HOURS) % 13)
    last = frame.index[-1]
    ahead = Forecasts(home / "lake" / "forecasts").read_known_ahead("x", last + pd.Timedelta(hours=1), 3)
    assert ahead["pm25"].dropna().tolist() == [10.5 + (HOURS + step) % 13 for step in (1, 2)]
    assert len(Lake(home / "lake" / "observations").read("x", version=1)) > 0


@pytest.mark.slow
def test_an_ingest_that_is_killed_again_and_again_is_completed_by_the_next_one(tmp_path):
    kill_repeatedly(tmp_path / "home", times=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills_in_ten_homes_lose_nothing(tmp_path, pytestconfig):
    if "slow" not in (pytestconfig.option.markexpr or ""):
        pytest.skip("fifty kills take minutes; run with -m slow")
    for home in range(10):
        kill_repeatedly(tmp_path / str(home), times=5, seed=100 + home)
