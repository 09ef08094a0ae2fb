"""The behaviour suite as an entrance examination: a new model is tried on a city before it may answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from serving.history import Histories, Snapshot
from urbanwm.cities import City
from urbanwm.errors import BundleInvalid
from urbanwm.evaluation.behaviour import CHECKS, check_behaviour
from urbanwm.evaluation.stamps import Stamps

if TYPE_CHECKING:
    from serving.champion import Champion

log = structlog.get_logger("urbanwm.champion")

TIME_LIMIT_SECONDS = 15.0
"""All checks take about a second on an idle core; on a loaded one those that remain are named in the log."""
MINIMUM_HOURS = 14 * 24
"""Shorter records say little about what is normal."""


class Examiner:
    """Runs the behaviour suite on one city that has data, one that the model was trained on if possible."""

    def __init__(
        self,
        cities: Mapping[str, City],
        histories: Histories,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
        stamps: Stamps | None = None,
    ) -> None:
        """Remember where the data are, and which bundles need no second examination; nothing is read yet."""
        self._cities = cities
        self._histories = histories
        self._time_limit_seconds = time_limit_seconds
        self._stamps = stamps

    def __call__(self, champion: Champion) -> None:
        """Let a model pass or not.

        Raises:
            BundleInvalid: It fails a check; the message names city, check and what happened.
        """
        if self._stamps is not None and self._stamps.has(champion.digest):
            log.info("behaviour_checked_before", version=champion.version)
            return
        tried_on = self._find_city(champion)
        if tried_on is None:
            log.warning("behaviour_not_checked", version=champion.version, why="no city has data")
            return
        city, snapshot = tried_on
        if snapshot.frame is None or snapshot.data_end is None:
            raise ValueError("a city without data cannot be tried on")
        began = time.monotonic()
        for number, check in enumerate(CHECKS):
            if time.monotonic() - began > self._time_limit_seconds:
                log.warning(
                    "behaviour_partly_checked", version=champion.version, unchecked=list(CHECKS)[number:]
                )
                return
            failures = check_behaviour(
                champion.forecaster, city, snapshot.frame, snapshot.data_end, checks=[check]
            )
            if failures:
                raise BundleInvalid(f"it fails the behaviour suite on {city.name}: {'; '.join(failures)}")
        self._stamp(champion)

    def _stamp(self, champion: Champion) -> None:
        """Note that a model passed every check."""
        if self._stamps is None:
            return
        try:
            self._stamps.add(champion.digest)
        except OSError as failure:
            log.warning("stamp_not_kept", version=champion.version, error=type(failure).__name__)

    def _find_city(self, champion: Champion) -> tuple[City, Snapshot] | None:
        """Return the first city with a long enough record, those of the training first."""
        trained = [name for name in champion.cities if name in self._cities]
        others = [name for name in sorted(self._cities) if name not in trained]
        for name in (*trained, *others):
            snapshot = self._histories.snapshot(self._cities[name])
            if (
                snapshot.frame is not None
                and snapshot.data_end is not None
                and len(snapshot.frame) >= MINIMUM_HOURS
            ):
                return self._cities[name], snapshot
        return None
