"""One question to everything that is on this machine: cached champion, lake, baseline. What the CLI calls."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pandas as pd

from urbanwm.baseline import HISTORY_HOURS, BaselineForecaster
from urbanwm.cities import City, load_city
from urbanwm.clock import Clock, utc_now
from urbanwm.contracts.scenario import Scenario
from urbanwm.errors import BundleInvalid, DataUnavailable
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.ingest import city_now
from urbanwm.lake import Records
from urbanwm.model.bundle import Bundle
from urbanwm.registry import CachedChampion, ChampionCache, Registry
from urbanwm.settings import Settings
from urbanwm.simulator import Forecaster, simulate, to_response
from urbanwm.stores import records_of


@dataclass(frozen=True)
class _Chosen:
    """Who answers, and what must be said about it."""

    forecaster: Forecaster
    champion: CachedChampion | None
    reasons: tuple[str, ...]


def answer(
    scenario: Scenario, settings: Settings, *, refresh: bool = False, clock: Clock = utc_now
) -> dict[str, Any]:
    """Answer a scenario as the service would, from the local champion cache and the lake.

    Args:
        scenario: The question.
        settings: Where lake, cache and registry are.
        refresh: Ask the registry (3 s) even if a champion is cached; promotion on this machine refreshes the
            cache by itself.
        clock: Gives "now" for live cities.

    Raises:
        UnknownCity: No city file has the name.
        DataUnavailable: Neither data nor an initial state to answer from.
    """
    city = load_city(scenario.city, settings)
    lake = records_of(settings)
    history = _history(lake, city)
    chosen = _choose(settings, refresh=refresh)
    provenance = {
        "model_version": chosen.champion.version if chosen.champion else None,
        "run_id": chosen.champion.run_id if chosen.champion else None,
        "dataset_version": str(lake.version()),
        "degraded": bool(chosen.reasons),
        "reasons": list(chosen.reasons),
    }
    now = city_now(city, lake, clock)
    return to_response(simulate(scenario, city, history, chosen.forecaster, now=now, provenance=provenance))


def _history(lake: Records, city: City) -> pd.DataFrame | None:
    """Return what the forecasters look at, or None where the lake has nothing."""
    last = lake.last_timestamp(city.name)
    if last is None:
        return None
    try:
        return lake.read(city.name, start=last - timedelta(hours=HISTORY_HOURS))
    except DataUnavailable:
        return None


def _choose(settings: Settings, *, refresh: bool) -> _Chosen:
    """Return the champion, or the baseline with the reason why."""
    cache = ChampionCache(settings.cache_dir, Registry(settings))
    cached = None if refresh else cache.current()
    cached = cached or cache.sync()
    if cached is None:
        return _Chosen(BaselineForecaster(), None, ("there is no champion in the registry or the cache",))
    try:
        bundle = Bundle.load(cached.path)
    except BundleInvalid as refused:
        return _Chosen(BaselineForecaster(), None, (f"champion unusable: {refused.message}",))
    reasons = (cached.reason,) if cached.stale and cached.reason else ()
    return _Chosen(WorldModelForecaster(bundle), cached, reasons)
