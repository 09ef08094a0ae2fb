"""The model in service: polled, loaded beside the old one, tested, swapped in one step, kept in reserve."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from serving.metrics import BUNDLES_REFUSED, POLL_FAILURES, SWAPS
from urbanwm.errors import BundleInvalid, UrbanWMError
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.registry import CachedChampion, directory_digest

log = structlog.get_logger("urbanwm.champion")

NOT_ASKED = "the model registry has not been asked yet"
NO_CHAMPION = "there is no champion: neither the model registry nor the local cache has one"
STOP_WAIT_SECONDS = 2.0
FIRST_POLL_PATIENCE_SECONDS = 15.0
"""How long a start waits for the registry's first word; connecting takes about 3 s."""


@dataclass(frozen=True)
class Champion:
    """A loaded and tested model.

    Attributes:
        forecaster: Answers with it.
        version: Registered version, as text.
        run_id: The run that trained it.
        dataset_version: The lake version it was trained on.
        digest: SHA-256 of its bundle.
        metrics: Held-out errors as noted at registration.
        cities: Cities it was trained on.
        experiment: Name of its configuration.
        card: Its model card, Markdown, where it has been judged.
    """

    forecaster: WorldModelForecaster
    version: str
    run_id: str
    dataset_version: str
    digest: str
    metrics: dict[str, float] = field(default_factory=dict)
    cities: tuple[str, ...] = ()
    experiment: str = ""
    card: str | None = None


@dataclass(frozen=True)
class Standing:
    """Who would answer now, and why not somebody better.

    Attributes:
        champion: The model in service; None: the baseline answers.
        confirmed: The registry has confirmed that this is the present champion.
        refused: Something newer was found and turned down, so an older model (or none) serves.
        reasons: One sentence per thing that is not as it should be.
        previous: The model that was in service before.
    """

    champion: Champion | None = None
    confirmed: bool = False
    refused: bool = False
    reasons: tuple[str, ...] = (NOT_ASKED,)
    previous: Champion | None = None


class Cache(Protocol):
    """What the holder asks of `urbanwm.registry.ChampionCache`."""

    def current(self) -> CachedChampion | None:
        """Return the cached champion without asking the registry."""
        ...

    def previous(self) -> CachedChampion | None:
        """Return the one before."""
        ...

    def sync(self) -> CachedChampion | None:
        """Ask the registry, download what is new, and return what there is to serve."""
        ...


def accept(champion: Champion) -> None:
    """Examine nothing."""


def load_champion(cached: CachedChampion) -> Champion:
    """Load a bundle, verify its checksums and let it answer its own stored example.

    Raises:
        BundleInvalid: It cannot be loaded or answers wrongly; the message says which.
    """
    # ONNX Runtime comes with it; a service without a model does not need it.
    from urbanwm.model.bundle import Bundle

    bundle = Bundle.load(cached.path)
    bundle.smoke_test()
    return Champion(
        forecaster=WorldModelForecaster(bundle),
        version=cached.version,
        run_id=cached.run_id,
        dataset_version=cached.dataset_version,
        digest=cached.digest,
        metrics=dict(cached.metrics),
        card=bundle.card,
        cities=tuple(bundle.spec.cities),
        experiment=str(bundle.experiment.get("name", "")),
    )


class ChampionHolder:
    """Holds one reference to what serves; a thread of its own keeps it up to date.

    A request reads `standing` once and keeps what it got: a swap in the middle of it changes nothing for it.
    Nothing that goes wrong while a new model is fetched or loaded takes away the one that serves.
    """

    def __init__(
        self,
        cache: Cache,
        poll_seconds: float,
        load: Callable[[CachedChampion], Champion] = load_champion,
        examine: Callable[[Champion], None] = accept,
    ) -> None:
        """Remember the parts; call `start` to load and to begin polling."""
        self._cache = cache
        self._poll_seconds = poll_seconds
        self._load = load
        self._examine = examine
        self._passed: set[str] = set()
        self._refused_digests: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._standing = Standing()
        self._first_poll_done = threading.Event()
        self._started_at = float("inf")

    @property
    def settled(self) -> bool:
        """Whether the registry has been asked, or has had its time to answer."""
        waited = time.monotonic() - self._started_at
        return self._first_poll_done.is_set() or waited > FIRST_POLL_PATIENCE_SECONDS

    @property
    def standing(self) -> Standing:
        """Who serves now."""
        return self._standing

    def start(self) -> None:
        """Load what the local cache has, which needs no registry, and begin to poll."""
        self._started_at = time.monotonic()
        cached = self._cache.current()
        if cached is not None:
            self._consider(cached, NOT_ASKED)
        self._thread = threading.Thread(target=self._poll_forever, name="urbanwm-champion", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop polling; waits briefly, the thread is a daemon."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_WAIT_SECONDS)

    def _poll_forever(self) -> None:
        """Poll until stopped."""
        while True:
            try:
                self.poll()
            except Exception as failure:  # noqa: BLE001 - a dead poller would freeze the model for good, so it counts and goes on
                POLL_FAILURES.inc()
                log.warning("poll_failed", error=type(failure).__name__)
            if self._stop.wait(self._poll_seconds):
                return

    def poll(self) -> None:
        """Ask once, and take into service what is new and good."""
        try:
            cached = self._cache.sync()
            if cached is None:
                self._without_confirmation(NO_CHAMPION)
                return
            if cached.stale:
                POLL_FAILURES.inc()
            self._consider(cached, cached.reason if cached.stale else None)
        finally:
            self._first_poll_done.set()

    def _consider(self, cached: CachedChampion, unconfirmed: str | None) -> None:
        """Load `cached` unless it serves or was refused; `unconfirmed` says why it may be out of date."""
        serving = self._standing.champion
        if serving is not None and (serving.digest, serving.version) == (cached.digest, cached.version):
            self._take(serving, unconfirmed, self._standing.previous)
            return
        if cached.digest in self._refused_digests:
            self._refuse(cached, self._refused_digests[cached.digest])
            return
        try:
            fresh = self._from_memory(cached) or self._load_or_refetch(cached)
        except BundleInvalid as failure:
            BUNDLES_REFUSED.inc()
            self._refused_digests[cached.digest] = failure.message
            log.warning("champion_refused", version=cached.version, error=failure.message)
            self._refuse(cached, failure.message)
            return
        SWAPS.inc()
        log.info("champion_in_service", version=fresh.version, run_id=fresh.run_id)
        self._take(fresh, unconfirmed, serving)

    def _from_memory(self, cached: CachedChampion) -> Champion | None:
        """Return the predecessor where a rollback asks for it: it is loaded, and has passed everything."""
        before = self._standing.previous
        same = before is not None and (before.digest, before.version) == (cached.digest, cached.version)
        return before if same else None

    def _load_or_refetch(self, cached: CachedChampion) -> Champion:
        """Load a bundle; a copy that was damaged on our own disk is thrown away and fetched once more."""
        try:
            return self._load_safely(cached)
        except BundleInvalid:
            if _is_intact(cached):
                raise
            if self._standing.champion is None:
                self._fall_back_to_cached_previous()
            shutil.rmtree(cached.path, ignore_errors=True)
            again = self._cache.sync()
            if again is None or again.digest != cached.digest:
                raise
            return self._load_safely(again)

    def _load_safely(self, cached: CachedChampion) -> Champion:
        """Load and examine a bundle; whatever it makes go wrong means that it is not usable here."""
        try:
            champion = self._load(cached)
            if champion.digest not in self._passed:
                self._examine(champion)
        except BundleInvalid:
            raise
        except Exception as failure:
            sentence = failure.message if isinstance(failure, UrbanWMError) else type(failure).__name__
            raise BundleInvalid(f"the bundle cannot be loaded: {sentence}") from failure
        self._passed.add(champion.digest)
        return champion

    def _fall_back_to_cached_previous(self) -> None:
        """Load the predecessor from the cache, where there is one and it is good."""
        before = self._cache.previous()
        if before is None or before.digest in self._refused_digests:
            return
        try:
            self._standing = Standing(champion=self._load_safely(before))
        except BundleInvalid as failure:
            self._refused_digests[before.digest] = failure.message
            log.warning("previous_champion_refused", version=before.version, error=failure.message)

    def _take(self, champion: Champion, unconfirmed: str | None, previous: Champion | None) -> None:
        """Put `champion` into service, in one assignment."""
        reasons = () if unconfirmed is None else (unconfirmed,)
        self._standing = Standing(champion, unconfirmed is None, False, reasons, previous)

    def _refuse(self, cached: CachedChampion, why: str) -> None:
        """Keep what serves, or the cached predecessor, and say what was turned down."""
        if self._standing.champion is None:
            self._fall_back_to_cached_previous()
        kept = self._standing.champion
        instead = (
            f"version {kept.version} serves in its place" if kept else "the baseline serves in its place"
        )
        reason = f"champion version {cached.version} was refused ({why}); {instead}"
        self._standing = Standing(kept, True, True, (reason,), self._standing.previous)

    def _without_confirmation(self, why: str) -> None:
        """Keep what serves from memory while neither registry nor cache names a champion."""
        kept = self._standing.champion
        reason = f"{why}; version {kept.version} serves from memory" if kept else why
        self._standing = Standing(kept, False, False, (reason,), self._standing.previous)


def _is_intact(cached: CachedChampion) -> bool:
    """Return whether the files on disk are still those that were registered."""
    return Path(cached.path).is_dir() and directory_digest(cached.path) == cached.digest
