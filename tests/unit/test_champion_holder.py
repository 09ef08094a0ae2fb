"""What serves, when it is replaced, and what may not replace it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serving.champion import NO_CHAMPION, Champion, ChampionHolder
from tests.serving_fakes import FakeCache, FakeLoader, cached
from urbanwm.errors import BundleInvalid
from urbanwm.registry import CachedChampion, directory_digest


@pytest.fixture
def cache() -> FakeCache:
    return FakeCache()


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def holder(cache: FakeCache, loader: FakeLoader) -> ChampionHolder:
    return ChampionHolder(cache, poll_seconds=0.01, load=loader)


def serving_version(holder: ChampionHolder) -> str | None:
    champion = holder.standing.champion
    return champion.version if champion else None


def test_without_any_champion_nothing_serves_and_the_reason_is_given(holder: ChampionHolder) -> None:
    holder.poll()
    assert serving_version(holder) is None
    assert holder.standing.reasons == (NO_CHAMPION,)


def test_a_promotion_swaps_the_champion_and_keeps_the_previous_one(
    holder: ChampionHolder, cache: FakeCache
) -> None:
    cache.now = cached("1")
    holder.poll()
    cache.now = cached("2")
    holder.poll()

    assert serving_version(holder) == "2"
    assert holder.standing.previous is not None
    assert holder.standing.previous.version == "1"
    assert holder.standing.reasons == ()


def test_an_unchanged_champion_is_loaded_once(
    holder: ChampionHolder, cache: FakeCache, loader: FakeLoader
) -> None:
    cache.now = cached("1")
    for _ in range(3):
        holder.poll()
    assert loader.loaded == ["1"]


def test_a_rollback_is_a_swap_like_any_other(holder: ChampionHolder, cache: FakeCache) -> None:
    for version in ("1", "2", "1"):
        cache.now = cached(version)
        holder.poll()
    assert serving_version(holder) == "1"


def test_a_bad_bundle_is_refused_and_the_old_champion_keeps_serving(
    holder: ChampionHolder, cache: FakeCache, loader: FakeLoader
) -> None:
    cache.now = cached("1")
    holder.poll()
    loader.bad = {"2"}
    cache.now = cached("2")
    holder.poll()
    holder.poll()

    assert serving_version(holder) == "1"
    assert holder.standing.refused
    (reason,) = holder.standing.reasons
    assert "version 2 was refused" in reason
    assert "version 1 serves in its place" in reason
    assert loader.loaded.count("2") == 2, "tried, its intactness looked at, and not tried at every poll"


def test_a_good_version_after_a_bad_one_is_taken(
    holder: ChampionHolder, cache: FakeCache, loader: FakeLoader
) -> None:
    loader.bad = {"2"}
    for version in ("1", "2", "3"):
        cache.now = cached(version)
        holder.poll()
    assert (serving_version(holder), holder.standing.refused) == ("3", False)


def test_a_bad_bundle_at_start_falls_back_to_the_cached_predecessor(
    holder: ChampionHolder, cache: FakeCache, loader: FakeLoader
) -> None:
    loader.bad = {"2"}
    cache.now, cache.before = cached("2"), cached("1")
    holder.poll()
    assert (serving_version(holder), holder.standing.refused) == ("1", True)


def test_without_any_good_bundle_the_baseline_is_named(
    holder: ChampionHolder, cache: FakeCache, loader: FakeLoader
) -> None:
    loader.bad = {"1", "2"}
    cache.now, cache.before = cached("2"), cached("1")
    holder.poll()
    assert serving_version(holder) is None
    assert "the baseline serves" in holder.standing.reasons[0]


def test_whatever_goes_wrong_in_loading_means_a_bad_bundle(cache: FakeCache) -> None:
    def explode(_: CachedChampion) -> None:
        raise KeyError("a key of a later format")

    holder = ChampionHolder(cache, poll_seconds=1, load=explode)  # type: ignore[arg-type]
    cache.now = cached("1")
    holder.poll()
    assert holder.standing.refused
    assert "KeyError" in holder.standing.reasons[0]


def test_a_registry_that_is_down_leaves_the_cached_champion_unconfirmed(
    holder: ChampionHolder, cache: FakeCache
) -> None:
    cache.now = cached("1", stale=True, reason="the model registry does not answer")
    holder.poll()
    standing = holder.standing
    assert (serving_version(holder), standing.confirmed) == ("1", False)
    assert standing.reasons == ("the model registry does not answer",)

    cache.now = cached("1")
    holder.poll()
    assert (holder.standing.confirmed, holder.standing.reasons) == (True, ())


def test_a_registry_that_forgets_its_champion_does_not_take_it_away(
    holder: ChampionHolder, cache: FakeCache
) -> None:
    cache.now = cached("1")
    holder.poll()
    cache.now = None
    holder.poll()
    assert (serving_version(holder), holder.standing.confirmed) == ("1", False)
    assert "version 1 serves from memory" in holder.standing.reasons[0]


def test_a_copy_damaged_on_this_disk_is_fetched_again(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    entry = cached("1", path=folder)

    def write(text: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_text(text)

    write("good")
    entry = cached("1", path=folder, digest=directory_digest(folder))
    write("damaged")

    class Refetching(FakeCache):
        def sync(self) -> CachedChampion | None:
            if not folder.is_dir():
                write("good")
            return super().sync()

    loader = FakeLoader()

    def load(item: CachedChampion) -> object:
        loader.bad = set() if (folder / "weights").read_text() == "good" else {"1"}
        return loader(item)

    holder = ChampionHolder(Refetching(entry), poll_seconds=1, load=load)  # type: ignore[arg-type]
    holder.poll()
    assert (serving_version(holder), holder.standing.refused) == ("1", False)


def test_a_poll_that_fails_does_not_end_the_polling(
    holder: ChampionHolder, cache: FakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.failure = RuntimeError("unheard of")
    holder.start()
    try:
        assert wait_for(lambda: cache.asked >= 2)
        cache.failure, cache.now = None, cached("1")
        assert wait_for(lambda: serving_version(holder) == "1")
        assert holder.settled
    finally:
        holder.stop()


def test_a_start_serves_from_the_cache_before_the_registry_is_asked(
    cache: FakeCache, loader: FakeLoader
) -> None:
    asked = threading.Event()
    answered = threading.Event()

    class Slow(FakeCache):
        def sync(self) -> CachedChampion | None:
            asked.set()
            answered.wait(5)
            return super().sync()

    holder = ChampionHolder(Slow(cached("1")), poll_seconds=1, load=loader)
    holder.start()
    try:
        assert serving_version(holder) == "1"
        assert asked.wait(5)
        assert not holder.settled
        assert not holder.standing.confirmed
        answered.set()
        assert wait_for(lambda: holder.settled and holder.standing.confirmed)
    finally:
        answered.set()
        holder.stop()


def test_readers_see_one_champion_or_the_other_and_never_half_of_one(
    holder: ChampionHolder, cache: FakeCache
) -> None:
    seen: set[tuple[str, str]] = set()
    stop = threading.Event()
    cache.now = cached("0")
    holder.poll()

    def read() -> None:
        while not stop.is_set():
            champion = holder.standing.champion
            assert champion is not None
            seen.add((champion.version, champion.run_id))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(30):
        cache.now = cached(str(number))
        holder.poll()
    stop.set()
    for reader in readers:
        reader.join()
    assert all(run_id == f"run-{version}" for version, run_id in seen)


def test_a_model_that_fails_its_examination_is_refused_and_the_check_is_named(
    cache: FakeCache, loader: FakeLoader
) -> None:
    def examine(champion: Champion) -> None:
        if champion.version == "2":
            raise BundleInvalid("it fails the behaviour suite on lahore: bounded: pm25 leaves 0 to 1000")

    holder = ChampionHolder(cache, poll_seconds=1, load=loader, examine=examine)
    for version in ("1", "2"):
        cache.now = cached(version)
        holder.poll()
    assert (serving_version(holder), holder.standing.refused) == ("1", True)
    assert "behaviour suite on lahore: bounded" in holder.standing.reasons[0]


def test_a_rollback_takes_the_predecessor_from_memory_without_a_second_examination(
    cache: FakeCache, loader: FakeLoader
) -> None:
    examined: list[str] = []
    holder = ChampionHolder(cache, 1, load=loader, examine=lambda champion: examined.append(champion.version))
    for version in ("1", "2", "1", "2"):
        cache.now = cached(version)
        holder.poll()
    assert serving_version(holder) == "2"
    assert loader.loaded == examined == ["1", "2"]


def wait_for(condition: object, seconds: float = 5.0) -> bool:
    """Wait until a condition holds; False when it never does."""
    ticker = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():  # type: ignore[operator]
            return True
        ticker.wait(0.01)
    return False
