"""Fixtures of the fault tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def asked_for(pytestconfig: pytest.Config) -> None:
    """Skip what costs minutes of computing unless the slow tests were asked for by name."""
    if "slow" not in (pytestconfig.option.markexpr or ""):
        pytest.skip("takes minutes; run with -m slow")
