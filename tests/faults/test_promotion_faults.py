"""The registry dies, files rot, processes are killed: the champion stays one valid, loadable version."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from tests.registry_support import accept, make_registry, make_settings, make_template, register
from urbanwm.errors import BundleInvalid, GateRefused, UpstreamUnavailable
from urbanwm.registry import ChampionCache, Registry, directory_digest, promote, rollback

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def registry(tmp_path, template):
    """Return a registry with versions 1 and 2, of which 1 is champion."""
    made = make_registry(tmp_path / "home", template)
    for text in ("one", "two"):
        register(made, tmp_path / text, text)
    promote(made, "1", validate=accept, expected_champion=None)
    return made


def _promote_and_die(home, fatal_call):
    """Promote version 2 in a process that kills itself at the n-th write to the registry."""
    registry = Registry(make_settings(home))
    calls = iter(range(100))

    def deadly(original):
        def wrapper(*arguments, **named):
            if next(calls) == fatal_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return wrapper

    for name in ("set_alias", "delete_alias", "tag_version"):
        setattr(registry, name, deadly(getattr(registry, name)))
    promote(registry, "2", validate=accept, expected_champion="1")


@pytest.mark.slow
@pytest.mark.parametrize("fatal_call", range(5))
def test_a_promotion_killed_at_any_write_leaves_a_loadable_champion(registry, tmp_path, fatal_call):
    process = multiprocessing.get_context("spawn").Process(
        target=_promote_and_die, args=(tmp_path / "home", fatal_call)
    )
    process.start()
    process.join(60)
    assert process.exitcode == KILLED
    champion = registry.champion()
    assert champion.version in {"1", "2"}
    fetched = registry.download(champion, tmp_path / "check")
    assert directory_digest(fetched) == champion.digest
    promote(registry, "2", validate=accept, expected_champion=champion.version)
    assert registry.champion().version == "2"
    assert rollback(registry, validate=accept, reason="drill").version == "1"


@pytest.mark.parametrize("failing", ["set_alias", "tag_version", "download"])
def test_a_registry_lost_during_promotion_is_named_and_nothing_is_half_promoted(
    registry, monkeypatch, failing
):
    def lost(*arguments, **named):
        raise UpstreamUnavailable("connection refused", source="mlflow")

    monkeypatch.setattr(registry, failing, lost)
    with pytest.raises(UpstreamUnavailable):
        promote(registry, "2", validate=accept, expected_champion="1")
    assert registry.champion().version == "1"


def test_the_cache_serves_on_when_the_database_is_deleted(registry, tmp_path):
    cache = ChampionCache(tmp_path / "cache", registry)
    cache.sync()
    (tmp_path / "home" / "mlflow" / "mlflow.db").unlink()
    fresh = ChampionCache(tmp_path / "cache", Registry(make_settings(tmp_path / "home")))
    entry = fresh.sync()
    assert (entry.version, entry.stale) == ("1", True)
    assert "no model registry" in entry.reason


def test_a_corrupt_database_is_a_named_error_and_the_cache_serves_on(registry, tmp_path):
    cache = ChampionCache(tmp_path / "cache", registry)
    cache.sync()
    (tmp_path / "home" / "mlflow" / "mlflow.db").write_bytes(b"not a database" * 1000)
    broken = Registry(make_settings(tmp_path / "home"))
    with pytest.raises(UpstreamUnavailable):
        broken.champion()
    assert ChampionCache(tmp_path / "cache", broken).sync().stale


def test_a_new_champion_with_damaged_files_leaves_the_old_one_in_the_cache(registry, tmp_path):
    cache = ChampionCache(tmp_path / "cache", registry)
    cache.sync()
    promoted = promote(registry, "2", validate=accept, expected_champion="1")
    stored = tmp_path / "home/mlflow/artifacts" / promoted.run_id / "artifacts/bundle/inner/weights.txt"
    stored.write_text("rotten")
    entry = cache.sync()
    assert (entry.version, entry.stale) == ("1", True)
    assert "not those that were registered" in entry.reason
    assert not [item for item in (tmp_path / "cache").iterdir() if item.name.startswith((".fetch", "2-"))]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"current": 3}', '{"current": {"path": "x"}}'])
def test_an_unreadable_pointer_file_is_healed_by_the_next_sync(registry, tmp_path, content):
    cache = ChampionCache(tmp_path / "cache", registry)
    cache.sync()
    (tmp_path / "cache" / "champions.json").write_text(content)
    assert cache.current() is None
    assert cache.sync().version == "1"
    assert cache.current().version == "1"


def test_a_half_downloaded_bundle_is_never_visible(registry, tmp_path, monkeypatch):
    def torn(run_id, path, destination):
        target = tmp_path / "cache" / Path(destination).name / "bundle"
        target.mkdir(parents=True, exist_ok=True)
        (target / "bundle.json").write_text("half")
        return str(target)

    monkeypatch.setattr(registry.client, "download_artifacts", torn)
    with pytest.raises(BundleInvalid):
        registry.download(registry.champion(), tmp_path / "cache" / "1-x")
    assert not (tmp_path / "cache" / "1-x").exists()


def test_rollback_to_a_damaged_bundle_is_refused_and_the_champion_stays(registry, tmp_path):
    promote(registry, "2", validate=accept, expected_champion="1")
    stored = (
        tmp_path / "home/mlflow/artifacts" / registry.version("1").run_id / "artifacts/bundle/bundle.json"
    )
    stored.unlink()
    with pytest.raises(BundleInvalid):
        rollback(registry, validate=accept, reason="x")
    assert registry.champion().version == "2"


def _race(home, version, results):
    try:
        promote(Registry(make_settings(home)), version, validate=accept, expected_champion="1")
        results.put("promoted")
    except GateRefused:
        results.put("refused")


@pytest.mark.slow
def test_of_two_promotions_against_the_same_champion_one_wins(registry, tmp_path):
    register(registry, tmp_path / "three", "three")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_race, args=(tmp_path / "home", version, results)) for version in ("2", "3")
    ]
    for process in processes:
        process.start()
    outcomes = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert outcomes == ["promoted", "refused"]
    assert registry.previous().version == "1"


def test_a_database_whose_making_was_killed_is_made_anew(tmp_path, monkeypatch):
    from mlflow.store.db import utils

    def dies(engine):
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE guardrails (guardrail_id VARCHAR(36))")
        raise KeyboardInterrupt

    settings = make_settings(tmp_path / "home")
    with monkeypatch.context() as killed:
        killed.setattr(utils, "_initialize_tables", dies)
        with pytest.raises(KeyboardInterrupt):
            Registry(settings).list_versions()
    assert not Registry(settings).exists
    assert Registry(settings).list_versions() == []
    assert [path.name for path in (settings.home / "mlflow").iterdir()] == ["mlflow.db"]
