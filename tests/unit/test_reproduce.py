"""When a repeated training counts as the same: data, scores, and what differed in code."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from urbanwm.pipeline.plan import KEY_TAG
from urbanwm.provenance import collect_provenance, document_hash
from urbanwm.registry import FoundRun
from urbanwm.settings import load_settings

THEN = {"test/pm25/mae": 4.0, "test/energy_mwh/mae": 50.0, "baseline/pm25/mae": 6.0}


@pytest.fixture
def again(monkeypatch, tmp_path):
    """Return a call that reproduces a recorded run whose repetition has the given scores."""
    # The package names the function like its module.
    module = importlib.import_module("urbanwm.pipeline.reproduce")
    digests = {"demo": "abc"}

    def run(now, *, digest=None, tags=None, tolerance=0.01, identical=False):
        noted = {KEY_TAG: "k", "data_digest": digest or document_hash(digests), **(tags or {})}
        found = FoundRun("r1", "FINISHED", noted, {}, THEN)
        stand_ins = {
            "_training_run": lambda registry, run: found,
            "_fetch_json": lambda *arguments: {"lake_version": 3, "cities": {}},
            "read_window": lambda window, settings: {"demo": SimpleNamespace(digest="abc")},
            "_train_again": lambda *arguments: tmp_path,
            "held_out_tables": lambda *arguments: {},
            "score_metrics": lambda tables: now,
            "_same_weights": lambda *arguments: identical,
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(module, name, stand_in)
        return module.reproduce(load_settings(home=tmp_path), "r1", tolerance=tolerance)

    return run


def test_the_same_scores_agree(again):
    found = again(THEN, identical=True)
    assert (found.agrees, found.worst, found.identical_weights) == (True, 0.0, True)
    assert set(found.metrics) == {"test/pm25/mae", "test/energy_mwh/mae"}


def test_a_score_beyond_the_tolerance_does_not_agree_and_is_named(again):
    found = again(THEN | {"test/pm25/mae": 4.2})
    assert not found.agrees
    assert found.worst == pytest.approx(0.05)
    assert found.reasons[0] == "test/pm25/mae: 4 then, 4.2 now"
    assert again(THEN | {"test/pm25/mae": 4.2}, tolerance=0.1).agrees


def test_no_score_to_compare_is_no_agreement(again):
    assert not again({}).agrees


def test_other_data_do_not_agree_and_nothing_is_trained(again):
    found = again(THEN, digest="other")
    assert not found.agrees
    assert found.metrics == {}
    assert "the data differ" in found.reasons[0]


def test_other_code_is_said_and_does_not_decide(again):
    present = collect_provenance().tags()
    found = again(THEN, tags={"git_sha": "0" * 40, "python": present["python"], "package.torch": "1.0"})
    assert found.agrees
    assert found.code["git_sha"]["then"] == "0" * 40
    assert found.code["package.torch"]["then"] == "1.0"
    assert "python" not in found.code
