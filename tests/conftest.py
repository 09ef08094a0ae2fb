"""Fixtures that every layer of tests may use."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _restored_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _environment_stays_as_it_was() -> Iterator[None]:
    """Undo what `apply_environment` exports, so that one test's state folder is not the next one's."""
    yield from _restored_environment()


@pytest.fixture(autouse=True, scope="module")
def _environment_of_a_module_stays_in_it() -> Iterator[None]:
    """Undo what a module's shared fixtures export, which come before the first test."""
    yield from _restored_environment()


@pytest.fixture(autouse=True)
def _sockets_of_killed_servers_are_collected_here(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect what a test with real servers left, so that its sockets are not another test's warning."""
    yield
    if request.path.parent.name in {"integration", "faults", "browser"}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the folder of real recordings beside the checkout; skip where it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real recordings are not here: {SHARED} is missing")
    return SHARED
