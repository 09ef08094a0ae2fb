"""Runs, versions, aliases, promotion, rollback and the champion cache on a real MLflow database."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.registry_support import NOW, accept, make_registry, make_settings, make_template, refuse, register
from urbanwm.errors import BadInput, BundleInvalid, GateRefused, UpstreamUnavailable
from urbanwm.registry import ChampionCache, Registry, directory_digest, promote, rollback


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def registry(tmp_path, template):
    return make_registry(tmp_path / "home", template)


def _promote(registry, version, validate=accept):
    champion = registry.champion()
    return promote(
        registry, version, validate=validate, expected_champion=champion.version if champion else None
    )


def test_a_run_keeps_parameters_metrics_lineage_and_files(registry, tmp_path):
    frame = pd.DataFrame(
        {"pm25": [1.0, 2.0]},
        index=pd.date_range("2026-01-01", periods=2, freq="h", tz="UTC", name="timestamp"),
    )
    with registry.start_run("train", {"git_sha": "abc"}) as run:
        run.log_params({"training.steps": 5})
        run.log_history([(0, {"loss/total": 2.0}), (5, {"loss/total": 1.0, "loss/kl": float("nan")})])
        run.log_dataset(frame, name="demo", uri="/lake", version=3, digest="d1")
        run.log_json({"promote": True}, "gate/decision.json")
        run.log_frame(frame.reset_index(), "evaluation/backtest.parquet")
    stored = registry.client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"training.steps": "5"}
    assert stored.data.metrics == {"loss/total": 1.0}
    dataset = stored.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest, dataset.source_type) == ("demo", "d1", "delta_table")
    assert json.loads(dataset.source)["delta_table_version"] == 3
    assert {item.path for item in registry.client.list_artifacts(run.run_id)} == {"gate", "evaluation"}


def test_a_run_that_raises_is_failed_and_says_why(registry):
    with pytest.raises(ZeroDivisionError), registry.start_run("train", {}) as run:
        _ = 1 / 0
    stored = registry.client.get_run(run.run_id)
    assert stored.info.status == "FAILED"
    assert "division by zero" in stored.data.tags["error"]


def test_a_run_whose_process_died_is_ended_and_others_are_left_alone(registry):
    dead = registry.start_run("train", {"night_key": "k1"})
    other = registry.start_run("train", {"night_key": "k2"})
    with registry.start_run("train", {"night_key": "k1"}) as finished:
        pass
    assert registry.end_abandoned_runs({"night_key": "k1"}) == 1
    states = [registry.client.get_run(run.run_id).info.status for run in (dead, other, finished)]
    assert states == ["KILLED", "RUNNING", "FINISHED"]


def test_a_file_of_a_run_is_fetched_and_an_unknown_run_is_named(registry, tmp_path):
    with registry.start_run("train", {}) as run:
        run.log_json({"a": 1}, "gate/decision.json")
    assert json.loads(registry.fetch(run.run_id, "gate/decision.json", tmp_path).read_text()) == {"a": 1}
    with pytest.raises(BadInput, match="no run 'nobody'"):
        registry.fetch("nobody", "bundle", tmp_path)


def test_artifacts_lie_under_home_whatever_the_working_directory(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    version = register(registry, tmp_path / "b1", "one")
    assert version.source.startswith((tmp_path / "home" / "mlflow" / "artifacts").as_uri())
    assert {path.name for path in tmp_path.iterdir()} == {"home", "b1"}


def test_versions_are_text_and_carry_digest_scores_and_lineage(registry, tmp_path):
    version = register(registry, tmp_path / "b1", "one")
    assert version.version == "1"
    assert version.digest == directory_digest(tmp_path / "b1")
    document = registry.list_versions()[0].to_dict()
    assert document["aliases"] == ["challenger"]
    assert document["dataset_version"] == "7"
    assert document["scores"] == {"test/pm25/mae": 3.5}


def test_a_version_without_a_digest_is_not_registered(registry):
    with registry.start_run("train", {}) as run:
        pass
    with pytest.raises(BadInput, match="digest"):
        registry.register(run.run_id, {}, {})
    assert registry.list_versions() == []


def test_an_unknown_version_is_named_with_the_known_ones(registry, tmp_path):
    register(registry, tmp_path / "b1", "one")
    with pytest.raises(BadInput, match="no version 9") as caught:
        registry.version("9")
    assert caught.value.allowed == ["1"]


def test_there_is_no_champion_before_the_first_promotion(registry, tmp_path):
    assert registry.champion() is None
    register(registry, tmp_path / "b1", "one")
    assert registry.champion() is None


def test_promotion_moves_champion_and_keeps_previous(registry, tmp_path):
    for text in ("one", "two"):
        version = register(registry, tmp_path / text, text)
        _promote(registry, version.version)
    assert registry.champion().version == "2"
    assert registry.previous().version == "1"
    assert registry.by_alias("challenger") is None
    assert [item.to_dict()["decision"] for item in registry.list_versions()] == ["promoted", "promoted"]


def test_promoting_the_champion_again_changes_nothing(registry, tmp_path):
    _promote(registry, register(registry, tmp_path / "one", "one").version)
    assert _promote(registry, "1").version == "1"
    assert registry.previous() is None


def test_a_bundle_that_fails_its_smoke_test_is_not_promoted(registry, tmp_path):
    version = register(registry, tmp_path / "one", "one")
    with pytest.raises(BundleInvalid, match="answered wrongly"):
        _promote(registry, version.version, validate=refuse)
    assert registry.champion() is None


def test_a_bundle_whose_files_were_altered_is_not_promoted(registry, tmp_path):
    version = register(registry, tmp_path / "one", "one")
    stored = tmp_path / "home/mlflow/artifacts" / version.run_id / "artifacts/bundle/bundle.json"
    stored.write_text("{}")
    with pytest.raises(BundleInvalid, match="not those that were registered"):
        _promote(registry, version.version)
    assert registry.champion() is None


def test_promotion_is_refused_if_the_champion_changed_meanwhile(registry, tmp_path):
    for text in ("one", "two"):
        register(registry, tmp_path / text, text)
    _promote(registry, "1")
    with pytest.raises(GateRefused, match="changed while"):
        promote(registry, "2", validate=accept, expected_champion=None)
    assert registry.champion().version == "1"


def test_rollback_swaps_champion_and_previous_and_back(registry, tmp_path):
    for text in ("one", "two"):
        _promote(registry, register(registry, tmp_path / text, text).version)
    assert rollback(registry, validate=accept, reason="worse live").version == "1"
    assert (registry.champion().version, registry.previous().version) == ("1", "2")
    assert registry.version("2").to_dict()["decision"] == "rolled back: worse live"
    rollback(registry, validate=accept, reason="mistake")
    assert (registry.champion().version, registry.previous().version) == ("2", "1")


def test_rollback_without_a_previous_champion_is_refused(registry, tmp_path):
    with pytest.raises(GateRefused, match="no previous champion"):
        rollback(registry, validate=accept, reason="x")
    _promote(registry, register(registry, tmp_path / "one", "one").version)
    with pytest.raises(GateRefused, match="no previous champion"):
        rollback(registry, validate=accept, reason="x")


def test_a_reader_does_not_create_a_registry(tmp_path):
    registry = Registry(make_settings(tmp_path / "nowhere"))
    with pytest.raises(UpstreamUnavailable, match="no model registry") as caught:
        registry.champion()
    assert caught.value.retryable
    assert not (tmp_path / "nowhere" / "mlflow").exists()


class TestChampionCache:
    """The cache between registry and service."""

    @pytest.fixture
    def served(self, registry, tmp_path):
        _promote(registry, register(registry, tmp_path / "one", "one").version)
        return ChampionCache(tmp_path / "cache", registry)

    def test_it_downloads_the_champion_once(self, served, monkeypatch):
        first = served.sync()
        assert (first.version, first.dataset_version, first.stale) == ("1", "7", False)
        assert first.metrics == {"test/pm25/mae": 3.5}
        assert directory_digest(first.path) == first.digest
        monkeypatch.setattr(Registry, "download", None)
        assert served.sync() == first
        assert served.current() == first

    def test_it_follows_a_promotion_and_keeps_the_predecessor(self, served, registry, tmp_path):
        served.sync()
        _promote(registry, register(registry, tmp_path / "two", "two").version)
        assert served.sync().version == "2"
        assert served.previous().version == "1"
        _promote(registry, register(registry, tmp_path / "three", "three").version)
        served.sync()
        folders = {item.name.split("-")[0] for item in (tmp_path / "cache").iterdir() if item.is_dir()}
        assert folders == {"2", "3"}

    def test_it_follows_a_rollback(self, served, registry, tmp_path):
        served.sync()
        _promote(registry, register(registry, tmp_path / "two", "two").version)
        served.sync()
        rollback(registry, validate=accept, reason="worse")
        assert (served.sync().version, served.previous().version) == ("1", "2")

    def test_without_registry_and_cache_there_is_nothing(self, tmp_path):
        cache = ChampionCache(tmp_path / "cache", Registry(make_settings(tmp_path / "nowhere")))
        assert cache.sync() is None

    def test_a_champion_alias_taken_away_leaves_the_cached_one_marked_stale(self, served, registry):
        served.sync()
        registry.delete_alias("champion")
        entry = served.sync()
        assert entry.stale
        assert "names no champion" in entry.reason

    def test_a_bundle_damaged_on_disk_is_fetched_again_after_discard(self, served):
        entry = served.sync()
        (entry.path / "bundle.json").write_text("{}")
        served.discard(entry)
        assert served.current() is None
        assert directory_digest(served.sync().path) == entry.digest


def test_the_clock_stamps_metrics(registry):
    with registry.start_run("train", {}) as run:
        run.log_metrics({"loss": 1.0}, step=3)
    point = registry.client.get_metric_history(run.run_id, "loss")[0]
    assert (point.step, point.timestamp) == (3, int(NOW.timestamp() * 1000))
