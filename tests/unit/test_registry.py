"""Versions, digests and the champion cache, without a database: tests/integration has MLflow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.registry_support import NOW, make_bundle
from urbanwm.errors import BundleInvalid, UpstreamUnavailable
from urbanwm.registry import ChampionCache, ModelVersion, directory_digest


class FakeRegistry:
    """A registry in memory: who is champion, and what its files say."""

    def __init__(self):
        self.texts = {}
        self.alias = None
        self.down = False
        self.downloads = 0

    def promote(self, version, text, tmp_path):
        self.texts[version] = text
        folder = make_bundle(tmp_path / f"source-{version}-{text}", text)
        tags = {
            "bundle_digest": directory_digest(folder),
            "dataset_version": "7",
            "scores": '{"test/pm25/mae": 3.5}',
        }
        self.alias = ModelVersion(version, f"run-{version}", NOW, source="here", tags=tags)

    def champion(self):
        if self.down:
            raise UpstreamUnavailable("connection refused", source="mlflow")
        return self.alias

    def download(self, version, destination):
        if self.down:
            raise UpstreamUnavailable("connection refused", source="mlflow")
        self.downloads += 1
        return make_bundle(destination, self.texts[version.version])


@pytest.fixture
def registry(tmp_path):
    made = FakeRegistry()
    made.promote("1", "one", tmp_path)
    return made


@pytest.fixture
def cache(registry, tmp_path):
    return ChampionCache(tmp_path / "cache", registry)


def test_importing_the_registry_imports_neither_mlflow_nor_torch():
    code = "import sys, urbanwm.registry; print(sorted({'mlflow', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_digest_depends_on_names_and_contents_and_not_on_the_place(tmp_path):
    first, copy = make_bundle(tmp_path / "a" / "bundle"), make_bundle(tmp_path / "b" / "other")
    assert directory_digest(first) == directory_digest(copy)
    (copy / "bundle.json").rename(copy / "renamed.json")
    assert directory_digest(first) != directory_digest(copy)


@pytest.mark.parametrize("change", ["more", ""])
def test_the_digest_sees_a_changed_or_added_file(tmp_path, change):
    bundle = make_bundle(tmp_path / "bundle")
    before = directory_digest(bundle)
    (bundle / ("inner/weights.txt" if change else "extra.txt")).write_text(change)
    assert directory_digest(bundle) != before


def test_a_version_prints_its_scores_and_lineage():
    tags = {"scores": '{"test/pm25/mae": 3.5}', "dataset_version": "7", "decision": "promoted"}
    document = ModelVersion("1", "r", NOW, "s", aliases=("champion", "challenger"), tags=tags).to_dict()
    assert document["scores"] == {"test/pm25/mae": 3.5}
    assert document["aliases"] == ["challenger", "champion"]
    assert (document["dataset_version"], document["decision"]) == ("7", "promoted")
    assert json.loads(json.dumps(document)) == document


def test_the_champion_is_downloaded_once(cache, registry):
    first = cache.sync()
    assert (first.version, first.dataset_version, first.metrics) == ("1", "7", {"test/pm25/mae": 3.5})
    assert cache.sync() == first
    assert registry.downloads == 1


def test_a_promotion_is_followed_and_the_predecessor_kept(cache, registry, tmp_path):
    cache.sync()
    registry.promote("2", "two", tmp_path)
    assert cache.sync().version == "2"
    assert cache.previous().version == "1"
    registry.promote("3", "three", tmp_path)
    cache.sync()
    assert sorted(item.name[0] for item in (tmp_path / "cache").iterdir() if item.is_dir()) == ["2", "3"]


def test_the_same_version_with_other_files_is_another_champion(cache, registry, tmp_path):
    cache.sync()
    registry.promote("1", "after the registry was made anew", tmp_path)
    assert directory_digest(cache.sync().path) == registry.alias.digest


def test_without_registry_the_cached_champion_is_stale_and_says_why(cache, registry):
    cache.sync()
    registry.down = True
    entry = cache.sync()
    assert (entry.version, entry.stale) == ("1", True)
    assert "connection refused" in entry.reason


def test_without_registry_and_cache_there_is_nothing(cache, registry, tmp_path):
    registry.down = True
    assert cache.sync() is None
    assert not (tmp_path / "cache").exists()


def test_a_download_that_fails_leaves_the_old_champion(cache, registry, tmp_path, monkeypatch):
    cache.sync()
    registry.promote("2", "two", tmp_path)

    def damaged(version, destination):
        raise BundleInvalid("the files differ")

    monkeypatch.setattr(registry, "download", damaged)
    entry = cache.sync()
    assert (entry.version, entry.stale, entry.reason) == ("1", True, "the files differ")


def test_a_fresh_process_finds_the_cached_champion_without_asking(cache, tmp_path):
    cache.sync()
    assert ChampionCache(tmp_path / "cache", registry=None).current() == cache.current()


def test_a_pointer_to_a_deleted_folder_is_not_a_champion(cache):
    cache.discard(cache.sync())
    assert cache.current() is None
    assert cache.sync().version == "1"
