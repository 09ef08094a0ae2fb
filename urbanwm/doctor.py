"""What is configured, reachable and fresh: `urbanwm doctor`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from urbanwm.cities import City, load_cities
from urbanwm.clock import Clock, utc_now
from urbanwm.ingest import city_now
from urbanwm.lake import Lake
from urbanwm.settings import Settings
from urbanwm.sources import SOURCE_NAMES, source_module


def examine(settings: Settings, names: list[str] | None = None, clock: Clock = utc_now) -> dict[str, Any]:
    """Look at the installation without changing it or touching the network.

    Returns:
        `{"home", "tracking_uri", "lake": {...}, "keys": {source: bool}, "cities": {name: {...}}}`; a key is
        reported as present or not, its value is never read out.
    """
    lake = Lake(settings.lake_uri, settings.storage_options)
    cities = load_cities(settings)
    chosen = {name: cities[name] for name in names} if names else cities
    return {
        "home": str(settings.home),
        "tracking_uri": settings.tracking_uri.split("@")[-1],
        "lake": {"uri": settings.lake_uri, "version": lake.version(), "cities": lake.cities()},
        "keys": _keys(settings),
        "cities": {name: _freshness(city, lake, clock) for name, city in chosen.items()},
    }


def _keys(settings: Settings) -> dict[str, bool]:
    """Return, for each source that needs a key, whether one is configured."""
    needed = {name: source_module(name).KEY for name in SOURCE_NAMES}
    return {name: bool(getattr(settings, field)) for name, field in needed.items() if field}


def _freshness(city: City, lake: Lake, clock: Clock) -> dict[str, Any]:
    """Return last value and age per signal of one city."""
    now = city_now(city, lake, clock)
    signals: dict[str, Any] = {}
    for signal, configs in city.signals.items():
        last: datetime | None = lake.last_timestamp(city.name, signal)
        signals[signal] = {
            "sources": [config.label for config in configs],
            "last": last.isoformat() if last else None,
            "age_hours": (now - last).total_seconds() / 3600 if last else None,
        }
    return {"simulated": city.simulated, "replay": city.replay, "now": now.isoformat(), "signals": signals}
