"""How a night's work is spread: here, or over processes that begin and end with the night."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.waiting import eventually
from urbanwm.errors import DataUnavailable
from urbanwm.settings import load_settings
from urbanwm.spread import local_spread, require_all, serial

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path):
    return load_settings(home=tmp_path / "home")


def double(number):
    if number < 0:
        raise DataUnavailable(f"{number} is negative", field="number", value=number)
    return 2 * number


def own_process(_):
    time.sleep(0.05)
    return os.getpid()


def note_process_and_wait(path):
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(120)


KILLED_NIGHT = """
import sys
from pathlib import Path
from tests.unit.test_spread import note_process_and_wait
from urbanwm.spread import local_spread
from urbanwm.settings import load_settings

with local_spread(load_settings().model_copy(update={"night_workers": 2})) as spread:
    spread("wait", note_process_and_wait, [Path(sys.argv[1])] * 2)
"""


def alive(pid):
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


@pytest.fixture
def two_workers(settings):
    with local_spread(settings.model_copy(update={"night_workers": 2})) as spread:
        yield spread


class TestSpread:
    def test_a_failure_takes_its_own_place_and_no_other(self):
        found = serial("double", double, [1, -1, 3])
        assert (found[0], found[2]) == (2, 6)
        assert isinstance(found[1], DataUnavailable)
        with pytest.raises(DataUnavailable):
            require_all(found)

    def test_a_defect_of_our_own_is_raised(self):
        with pytest.raises(TypeError):
            serial("double", double, ["one"])

    def test_one_worker_is_this_process(self, settings):
        with local_spread(settings.model_copy(update={"night_workers": 1})) as spread:
            assert spread is serial

    def test_processes_return_the_same_in_the_same_order(self, two_workers):
        found = two_workers("double", double, [1, -1, 3])
        assert (found[0], found[2]) == (2, 6)
        assert str(found[1]) == str(serial("double", double, [-1])[0])

    def test_the_same_processes_take_one_set_of_pieces_after_the_other(self, two_workers):
        first, second = (set(two_workers("ask", own_process, range(4))) for _ in range(2))
        assert os.getpid() not in first
        assert len(first | second) <= 2

    def test_workers_end_with_a_night_that_is_killed(self, tmp_path):
        pids = tmp_path / "pids"
        night = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", KILLED_NIGHT, str(pids)], cwd=REPOSITORY
        )
        eventually(lambda: pids.is_file() and len(pids.read_text().split()) == 2)
        night.kill()
        night.wait()
        eventually(lambda: not any(map(alive, pids.read_text().split())))

    def test_an_error_travels_between_processes_whole(self):
        error = DataUnavailable("too short", field="city", value="demo", allowed="30 days")
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.field, again.value, again.allowed) == (
            str(error),
            "city",
            "demo",
            "30 days",
        )
