"""kill -9 at random moments of a night: one valid champion at all times, and no work done twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tests.night_support import small_night
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline.plan import KEY_TAG
from urbanwm.registry import ChampionCache, Registry

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
FIRST = datetime(2026, 4, 20, 9, 30, tzinfo=UTC)
SECONDS_OF_A_NIGHT = 25.0
"""A night of this size takes about so long on a busy machine; kills fall anywhere in it."""
WORKER = textwrap.dedent(
    """
    import sys
    from datetime import datetime
    from pathlib import Path

    from tests.faults.test_night_kills import settings_below
    from urbanwm.pipeline import behaviour_jobs, evaluation, night, run_nightly
    from urbanwm.registry import RunLog

    RunLog.log_figure = lambda *arguments: None
    evaluation._log_card = lambda *arguments: None
    behaviour_jobs.behaviour_failures = lambda *arguments: []
    night.write_night_report = lambda settings, *rest: settings.home / "report.html"
    print("READY", flush=True)
    settings = settings_below(Path(sys.argv[1]), int(sys.argv[3]))
    report = run_nightly(settings, as_of=datetime.fromisoformat(sys.argv[2]))
    print("DONE", report.status, *report.errors, flush=True)
    """
)


def settings_below(folder, workers=1):
    return small_night(
        folder,
        {"smallville": 3},
        history_days=45,
        training_steps=4,
        candidates=["urban"],
        night_workers=workers,
        # Whoever is not worse by half may serve, so that promotions happen under the kills.
        gate_margin=0.5,
    )


def start(folder: Path, moment: datetime, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", WORKER, str(folder), moment.isoformat(), str(workers)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def killed_after(folder: Path, moment: datetime, seconds: float, workers: int) -> bool:
    """Run a night, kill it `seconds` after it was ready, and return whether it had ended by then."""
    worker = start(folder, moment, workers)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "READY\n"
    time.sleep(seconds)
    worker.send_signal(signal.SIGKILL)
    return "DONE" in worker.communicate()[0]


def assert_sound(folder: Path) -> None:
    """Look at what every other process could see at this moment."""
    settings = settings_below(folder)
    registry = Registry(settings)
    if not registry.exists:
        return
    holders = [item for item in registry.list_versions() if "champion" in item.aliases]
    assert len(holders) <= 1
    if holders:
        Bundle.load(ChampionCache(settings.cache_dir, registry).sync().path).smoke_test()


def kill_repeatedly(folder: Path, times: int, seed: int, workers: int = 1) -> None:
    generator = np.random.default_rng(seed)
    for _ in range(times):
        killed_after(folder, FIRST, float(generator.uniform(0.0, SECONDS_OF_A_NIGHT)), workers)
        assert_sound(folder)
    output, _ = start(folder, FIRST, workers).communicate(timeout=600)
    assert "DONE" in output, output
    assert "failed" not in output
    assert_sound(folder)
    registry = Registry(settings_below(folder))
    trained = Counter(item.tags[KEY_TAG] for item in registry.list_versions())
    assert len(trained) == len(settings_below(folder).candidates)
    assert set(trained.values()) == {1}
    runs = registry.client.search_runs(["1"])
    assert "RUNNING" not in {run.info.status for run in runs}
    finished = Counter(run.data.tags["stage"] for run in runs if run.info.status == "FINISHED")
    assert (finished["train"], finished["night"]) == (len(trained), 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_night_that_is_killed_is_finished_by_the_next_one(tmp_path, workers):
    kill_repeatedly(tmp_path, times=1, seed=5, workers=workers)


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("asked_for")
def test_thirty_kills_in_five_homes_leave_one_champion_and_no_double_work(tmp_path):
    for home in range(5):
        kill_repeatedly(tmp_path / str(home), times=6, seed=200 + home, workers=1 + home % 2)
