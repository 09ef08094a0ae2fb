"""A night killed in the middle is finished by the next one, without doing work twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
from datetime import UTC, datetime

import pytest

from tests.night_support import small_night
from urbanwm.pipeline import list_models, run_nightly
from urbanwm.registry import Registry

pytestmark = pytest.mark.slow

AS_OF = datetime(2026, 4, 20, 9, 30, tzinfo=UTC)


def settings_below(folder):
    return small_night(folder, {"smallville": 3}, history_days=45, training_steps=2)


def _die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)


def _night_that_dies(folder, module_name, function):
    import importlib

    setattr(importlib.import_module(module_name), function, _die)
    run_nightly(settings_below(folder), as_of=AS_OF)


@pytest.mark.parametrize(
    ("module_name", "function", "run_states"),
    [
        pytest.param(
            "urbanwm.model.export", "export_bundle", ["FINISHED", "FINISHED", "KILLED"], id="after training"
        ),
        pytest.param(
            "urbanwm.pipeline.training_night",
            "held_out_tables",
            ["FINISHED", "FINISHED"],
            id="before the forecasts",
        ),
        pytest.param("urbanwm.pipeline.night", "run_promote", ["FINISHED", "FINISHED"], id="before the gate"),
        pytest.param(
            "urbanwm.pipeline.decision", "finish_night", ["FINISHED", "FINISHED"], id="before the record"
        ),
    ],
)
def test_a_night_killed_anywhere_is_finished_by_the_next(
    tmp_path, module_name, function, run_states, request
):
    if function in ("held_out_tables", "run_promote"):
        request.getfixturevalue("asked_for")
    arguments = (tmp_path, module_name, function)
    process = multiprocessing.get_context("spawn").Process(target=_night_that_dies, args=arguments)
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    settings = settings_below(tmp_path)
    lake_version = run_nightly(settings, as_of=AS_OF).training.dataset_version
    report = run_nightly(settings, as_of=AS_OF)
    assert report.status == "nothing new"
    assert report.ingest[0].version == lake_version
    assert len(list_models(settings)) == 1
    runs = Registry(settings).client.search_runs(["1"], "tags.stage != 'monitor'")
    assert sorted(run.info.status for run in runs) == run_states
