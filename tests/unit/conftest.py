"""Fixtures that several unit tests of the ingest share."""

from __future__ import annotations

from pathlib import Path

import pytest

import urbanwm.ingest.plan
from tests.fake_source import FakeSource
from urbanwm.lake import Lake
from urbanwm.settings import Settings, load_settings
from urbanwm.sources import source_module


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with a home of their own and a history of two weeks."""
    return load_settings(home=tmp_path / "home", history_days=14)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    """Return the lake of `settings`; empty."""
    return Lake(settings.lake_uri)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> FakeSource:
    """Return what answers for the source named `fake`."""
    fake = FakeSource()
    monkeypatch.setattr(
        urbanwm.ingest.plan, "source_module", lambda name: fake if name == "fake" else source_module(name)
    )
    return fake
