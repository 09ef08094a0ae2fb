"""A short replay on a simulated city: nights go on from each other, and a repetition changes nothing."""

from __future__ import annotations

from datetime import date

import pytest

from tests.night_support import small_night
from urbanwm.lake import Lake
from urbanwm.pipeline import list_models
from urbanwm.pipeline.replay import replay_settings, run_replay

pytestmark = pytest.mark.slow

FIRST = date(2026, 4, 20)
NIGHTS = 2
REPETITION_SECONDS = 60.0
"""A repeated night takes 10 s; this leaves room for a busy machine."""


def test_a_replay_goes_on_from_night_to_night_and_repeated_it_changes_nothing(tmp_path):
    live = small_night(
        tmp_path,
        {"smallville": 3},
        history_days=45,
        training_steps=2,
        candidates=["urban"],
        retrain_every_nights=NIGHTS,
    )
    settings = replay_settings(live, ["smallville"], FIRST, None)
    first = run_replay(settings, ["smallville"], FIRST, NIGHTS)
    assert [night.errors for night in first.nights] == [[], []]
    assert [night.rows_new for night in first.nights][1:] == [24]
    assert [night.version for night in first.nights] == ["1", None]
    versions, rows = list_models(settings), len(Lake(settings.lake_uri).read("smallville"))

    again = run_replay(settings, ["smallville"], FIRST, NIGHTS)
    assert [(night.status, night.rows_new, night.rows_corrected) for night in again.nights] == [
        ("nothing new", 0, 0)
    ] * NIGHTS
    assert max(night.seconds for night in again.nights) < REPETITION_SECONDS
    assert list_models(settings) == versions
    assert len(Lake(settings.lake_uri).read("smallville")) == rows
    assert not live.lake_uri.startswith(str(settings.home))
    assert not (live.home / "lake").exists()
