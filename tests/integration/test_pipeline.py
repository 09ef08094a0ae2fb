"""One small night for real: synthetic data in, a few optimiser steps, a decision, a champion."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.night_support import small_night
from urbanwm.errors import BadInput, BundleInvalid
from urbanwm.evaluation.stamps import Stamps
from urbanwm.last_night import read_last_night
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline import list_models, reproduce, run_nightly, run_promote, run_rollback, run_train
from urbanwm.pipeline import promote as promote_module
from urbanwm.registry import ChampionCache, Registry

pytestmark = pytest.mark.slow

AS_OF = datetime(2026, 4, 20, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("night")
    return small_night(folder, {"smallville": 3}, also=("temperature_c",), history_days=60, training_steps=2)


@pytest.fixture(scope="module")
def night(settings):
    return run_nightly(settings, as_of=AS_OF)


def test_the_night_trains_judges_and_says_so(night):
    assert night.errors == []
    assert night.ingest[0].inserted > 0
    assert night.training.version == "1"
    assert night.promotion.reasons
    assert night.training.metrics["test/pm25/mae"] > 0


def test_the_run_has_lineage_scores_pictures_and_the_bundle(settings, night):
    client = Registry(settings).client
    run = client.get_run(night.training.run_id)
    assert run.info.status == "FINISHED"
    assert len(run.data.params) < 25
    assert {"git_sha", "git_dirty", "lock_hash", "seed", "dataset_version", "config_hash"} <= set(
        run.data.tags
    )
    assert {"train/loss", "val/score", "skill/energy_mwh/h48", "test/traffic_index/mae_h24"} <= set(
        run.data.metrics
    )
    source = json.loads(run.inputs.dataset_inputs[0].dataset.source)
    assert source == {"path": settings.lake_uri, "delta_table_version": night.training.dataset_version}
    assert {"val/pm25/mae_h24", "val/energy_mwh/mae_h48", "val/best_score"} <= set(run.data.metrics)
    for folder in ("bundle", "config", "evaluation", "figures", "gate"):
        assert client.list_artifacts(run.info.run_id, folder), folder
    kept = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert "model_card.md" in kept
    assert "bundle/model_card.md" in {item.path for item in client.list_artifacts(run.info.run_id, "bundle")}
    gate = {item.path for item in client.list_artifacts(run.info.run_id, "gate")}
    assert gate == {"gate/behaviour.json", "gate/decision.json", "gate/score_ratios.png"}


def test_the_night_is_a_run_of_its_own_with_the_candidates_below_it(settings, night):
    client = Registry(settings).client
    parent = client.get_run(night.run_id)
    child = client.get_run(night.training.run_id)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == "FINISHED"
    assert {"git_sha", "data_digest", "dataset_version", "decision", "chosen", "night_of"} <= set(
        parent.data.tags
    )
    assert {"test/pm25/mae", "skill/energy_mwh/h48", "promoted", "gate/baseline/ratio"} <= set(
        parent.data.metrics
    )
    assert len(parent.data.params) < 25
    pictures = {item.path for item in client.list_artifacts(parent.info.run_id, "data/smallville")}
    assert pictures == {"data/smallville/coverage.png", "data/smallville/quality.md"}


def test_the_night_is_remembered_and_forecasts_are_kept(settings, night):
    last = read_last_night(settings)
    assert (last.status, last.as_of) == ("done", AS_OF)
    assert list(settings.forecasts_dir.rglob("*.parquet"))


def test_a_second_night_adds_no_row_no_run_and_no_version(settings, night):
    runs = len(Registry(settings).client.search_runs(["1"]))
    again = run_nightly(settings, as_of=AS_OF)
    assert again.status == "nothing new"
    assert again.ingest[0].version == night.ingest[0].version
    assert again.training.reused
    assert again.training.version == night.training.version
    assert again.promotion.promoted == night.promotion.promoted
    assert again.promotion.reasons == night.promotion.reasons
    assert len(list_models(settings)) == 1
    assert len(Registry(settings).client.search_runs(["1"])) == runs


def test_nothing_of_the_training_stays_in_the_working_folder(settings, night):
    assert list(settings.runs_dir.iterdir()) == []


def test_an_override_is_recorded_and_the_champion_is_served_from_the_cache(settings, night):
    outcome = run_promote(settings, version="1", override_by="Ada", reason="drill")
    assert outcome.promoted
    champion = ChampionCache(settings.cache_dir, Registry(settings)).sync()
    Bundle.load(champion.path).smoke_test()
    assert champion.run_id == night.training.run_id
    assert not Stamps(settings.cache_dir).has(champion.digest)  # nothing vouches for what the gate refused
    if outcome.overridden_by:
        assert Registry(settings).version("1").tags["overridden_by"] == "Ada"


def test_a_challenger_meets_the_champion_on_its_own_hours_and_a_rollback_is_not_undone(
    settings, night, monkeypatch
):
    run_promote(settings, version="1", override_by="Ada", reason="drill")
    challenger = run_train(["smallville"], settings, until=AS_OF, steps=3)
    judge = promote_module._judge
    monkeypatch.setattr(promote_module, "_judge", lambda *asked: replace(judge(*asked), promote=True))
    outcome = run_promote(settings, version=challenger.version)
    assert set(outcome.evidence["against"]) == {"champion", "baseline"}
    # The gate ran the behaviour suite: a service beside it need not do so again.
    assert Stamps(settings.cache_dir).has(
        ChampionCache(settings.cache_dir, Registry(settings)).current().digest
    )
    assert run_rollback(settings)["champion"] == "1"
    again = run_promote(settings, version=challenger.version)
    assert not again.promoted
    assert "taken out of service" in again.reasons[0]


def test_a_damaged_bundle_is_refused_even_with_an_override(settings, night):
    version = run_train(["smallville"], settings, until=AS_OF, steps=4)
    before = Registry(settings).champion()
    artifacts = settings.artifacts_dir / version.run_id / "artifacts" / "bundle"
    weights = next(path for path in Path(artifacts).iterdir() if path.suffix == ".onnx")
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BundleInvalid):
        run_promote(settings, version=version.version, override_by="Ada", reason="drill")
    after = Registry(settings).champion()
    assert (after and after.version) == (before and before.version)
    assert Registry(settings).version(version.version).to_dict()["decision"] == "refused"


def test_the_next_night_also_trains_the_champion_on_and_chooses_one_of_both(settings, night):
    run_promote(settings, version="1", override_by="Ada", reason="drill")
    champion = Registry(settings).champion()
    report = run_nightly(settings, as_of=AS_OF + timedelta(days=1))
    assert [item.label for item in report.candidates] == ["urban", "warm"]
    assert report.candidates[1].start == champion.version
    assert report.training in report.candidates
    tags = {item.version: item.tags for item in Registry(settings).list_versions()}
    loser = next(item for item in report.candidates if item != report.training)
    assert tags[loser.version]["decision"] == "not chosen"
    assert "champion/pm25/mae" in report.training.metrics
    versions = len(list_models(settings))
    again = run_nightly(settings, as_of=AS_OF + timedelta(days=1))
    assert again.status == "nothing new"
    assert [item.version for item in again.candidates] == [item.version for item in report.candidates]
    assert len(list_models(settings)) == versions


def test_a_recorded_run_can_be_done_again_to_the_bit(settings, night):
    before = len(list_models(settings))
    found = reproduce(settings, night.training.run_id)
    assert (found.agrees, found.identical_weights, found.worst, found.data) == (True, True, 0.0, "same")
    assert found.metrics["test/pm25/mae"]["then"] == night.training.metrics["test/pm25/mae"]
    assert len(list_models(settings)) == before


def test_a_run_that_trained_nothing_cannot_be_reproduced(settings, night):
    with pytest.raises(BadInput, match="trained no model"):
        reproduce(settings, night.run_id)


def test_two_workers_give_the_same_night_as_one(settings, night, tmp_path):
    """The second worker helps the training, forecasts and draws; it leaves nothing running."""
    other = small_night(
        tmp_path,
        {"smallville": 3},
        also=("temperature_c",),
        history_days=60,
        training_steps=2,
        night_workers=2,
    )
    again = run_nightly(other, as_of=AS_OF)
    assert again.errors == []
    assert again.training.metrics == night.training.metrics
    assert multiprocessing.active_children() == []
