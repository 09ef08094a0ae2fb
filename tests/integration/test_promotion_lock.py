"""The promotion lock among machines: an advisory lock of the registry's own PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose_stack import POSTGRES_USER, PROJECT, SECRETS, free_port, postgres_folder, stack
from urbanwm.errors import UpstreamUnavailable
from urbanwm.registry.lock import promotion_lock

pytestmark = pytest.mark.slow

PASSWORD = SECRETS["POSTGRES_PASSWORD"]
HOLDER = """
import sys
from pathlib import Path
from urbanwm.registry.lock import promotion_lock
with promotion_lock(sys.argv[1], Path(sys.argv[2]), 10.0):
    print("HELD", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a PostgreSQL that serves nobody else."""
    pytest.importorskip("psycopg2")
    if postgres_folder() is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL cannot run as root, and setpriv is not installed")
    with stack(tmp_path_factory.mktemp("lock")) as made:
        made.start_postgres()
        yield f"postgresql://{POSTGRES_USER}:{PASSWORD}@127.0.0.1:{made.ports['postgres']}/postgres"


def test_of_two_machines_one_promotes_at_a_time(database: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with (
        promotion_lock(database, here, 5.0),
        pytest.raises(UpstreamUnavailable, match="another machine has held the promotion lock"),
        promotion_lock(database, there, 0.5),
    ):
        pass
    with promotion_lock(database, there, 0.5):
        pass


def test_a_machine_that_waits_promotes_when_the_other_is_done(database: str, tmp_path: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with promotion_lock(database, tmp_path / "there", 30.0):
            order.append("there")

    waiting = threading.Thread(target=wait)
    with promotion_lock(database, tmp_path / "here", 5.0):
        waiting.start()
        waiting.join(0.5)
        order.append("here")
    waiting.join(30.0)
    assert order == ["here", "there"]


def test_a_holder_that_was_killed_lets_go(database: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, database, str(tmp_path / "there")]
    with subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "HELD\n"
        with (
            pytest.raises(UpstreamUnavailable, match="another machine"),
            promotion_lock(database, tmp_path / "here", 0.5),
        ):
            pass
        holder.kill()
    with promotion_lock(database, tmp_path / "here", 10.0):
        pass


def test_a_database_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2")
    address = f"postgresql://{POSTGRES_USER}:{PASSWORD}@127.0.0.1:{free_port()}/postgres"
    with pytest.raises(UpstreamUnavailable) as away, promotion_lock(address, tmp_path, 1.0):
        pass
    assert PASSWORD not in str(away.value)
