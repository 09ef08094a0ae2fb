"""Fixtures that every layer of tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the folder of real recordings beside the checkout; skip where it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real recordings are not here: {SHARED} is missing")
    return SHARED
