"""What is configured, reachable and fresh: `urbanwm doctor`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from urbanwm.cities import City, load_cities
from urbanwm.clock import Clock, utc_now
from urbanwm.errors import UrbanWMError
from urbanwm.ingest import city_now
from urbanwm.lake import Lake
from urbanwm.registry import ChampionCache, DirectRegistry, Registry
from urbanwm.settings import Settings
from urbanwm.sources import SOURCE_NAMES, source_module
from urbanwm.stores import lake_of

DISK_FREE_MIN_GB = 2.0
"""Below this a night can fail half way: a bundle, its checkpoints and a compaction need about 1 GB."""
BYTES_PER_GB = 1e9


def examine(
    settings: Settings, names: list[str] | None = None, clock: Clock = utc_now, *, probe: Collection[str] = ()
) -> dict[str, Any]:
    """Look at the installation without changing it.

    Args:
        settings: The configuration.
        names: Cities to look at; None: all of them.
        clock: Gives the present.
        probe: Cities whose sources are asked one short question each (see `sources.probe`); none: no network.

    Returns:
        The document that docs/sources.md describes. A key is reported as present or not, its value is never
        read out. `problems` names what stands in the way; `ok` says that there is nothing.
    """
    cities = load_cities(settings)
    chosen = {name: cities[name] for name in names} if names else cities
    lake = lake_of(settings)
    stored = _lake(lake)
    readable = "error" not in stored
    report: dict[str, Any] = {
        "home": str(settings.home),
        "disk": _disk(settings.home),
        "tracking_uri": settings.tracking_uri.split("@")[-1],
        "registry": _registry(settings),
        "lake": {"uri": settings.lake_uri, **stored},
        "keys": _keys(settings),
        "cities": {
            name: _freshness(city, lake if readable else None, clock) for name, city in chosen.items()
        },
    }
    for name in probe:
        report["cities"][name].update(_answers(cities[name], settings, clock))
    problems = _problems(report)
    return {"ok": not problems, "problems": problems, **report}


def _disk(home: Path) -> dict[str, Any]:
    """Return the state of the folder of all state; where it is missing, of the one it will be made in."""
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    return {
        "exists": home.exists(),
        "writable": os.access(place, os.W_OK),
        "free_gb": shutil.disk_usage(place).free / BYTES_PER_GB,
    }


def _lake(lake: Lake) -> dict[str, Any]:
    """Return version and cities of the lake; an error where it cannot be read."""
    try:
        return {"version": lake.version(), "cities": lake.cities()}
    except UrbanWMError as error:
        return {"version": None, "cities": [], "error": error.envelope()["error"]}


def _registry(settings: Settings) -> dict[str, Any]:
    """Return which version the registry calls champion, and which one is cached for the service."""
    registry = Registry(settings)
    cached = ChampionCache(settings.cache_dir, DirectRegistry(registry)).current()
    found: dict[str, Any] = {"champion": None, "cached_champion": cached.version if cached else None}
    if not registry.exists:
        return found  # nothing was trained yet: no failure
    try:
        champion = DirectRegistry(registry).champion()
    except UrbanWMError as error:
        return {**found, "error": error.envelope()["error"]}
    return {**found, "champion": champion.version if champion else None}


def _keys(settings: Settings) -> dict[str, bool]:
    """Return, for each source that needs a key, whether one is configured."""
    needed = {name: source_module(name).KEY for name in SOURCE_NAMES}
    return {name: bool(getattr(settings, field)) for name, field in needed.items() if field}


def _freshness(city: City, lake: Lake | None, clock: Clock) -> dict[str, Any]:
    """Return last value and age per signal of one city; without a lake nothing is known of either."""
    now = clock() if lake is None else city_now(city, lake, clock)
    signals: dict[str, Any] = {}
    for signal, configs in city.signals.items():
        last: datetime | None = None if lake is None else lake.last_timestamp(city.name, signal)
        signals[signal] = {
            "sources": [config.label for config in configs],
            "last": last.isoformat() if last else None,
            "age_hours": (now - last).total_seconds() / 3600 if last else None,
        }
    return {"simulated": city.simulated, "replay": city.replay, "now": now.isoformat(), "signals": signals}


def _answers(city: City, settings: Settings, clock: Clock) -> dict[str, Any]:
    """Return how each source of a city answered, and which signals no source serves."""
    from urbanwm.sources.probe import probe_city, unserved

    probes = probe_city(city, settings, clock)
    return {"probes": [asdict(probe) for probe in probes], "unserved": unserved(city, probes)}


def _problems(report: dict[str, Any]) -> list[str]:
    """Return what stands in the way, one sentence each."""
    home, disk = report["home"], report["disk"]
    problems = [] if disk["writable"] else [f"{home} cannot be written"]
    if disk["free_gb"] < DISK_FREE_MIN_GB:
        problems.append(f"only {disk['free_gb']:.1f} GB are free at {home}")
    problems += [
        f"the {part} cannot be read: {report[part]['error']['message']}"
        for part in ("lake", "registry")
        if "error" in report[part]
    ]
    for name, city in report["cities"].items():
        for signal in city.get("unserved", ()):
            failed = [
                probe["error"] for probe in city["probes"] if probe["signal"] == signal and probe["error"]
            ]
            problems.append(
                f"{name} has no source for {signal}: {'; '.join(error['message'] for error in failed)}"
            )
    return problems
