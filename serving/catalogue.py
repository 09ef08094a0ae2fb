"""What is known of a city, and how fresh it is: the entries of `/api/cities`."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from serving.history import Snapshot
from serving.metrics import DATA_AGE_HOURS
from urbanwm.cities import City
from urbanwm.freshness import LATE_HOURS, ages_hours, is_stale
from urbanwm.policy import observed_status_quo


def describe_city(city: City, snapshot: Snapshot, now: datetime) -> dict[str, Any]:
    """Return one city's entry."""
    ages = ages_hours(snapshot.frame, now, list(city.signals))
    status_quo = observed_status_quo(snapshot.frame, city, now)
    return {
        "name": city.name,
        "title": city.title or city.name.replace("_", " ").title(),
        "timezone": city.timezone,
        "location": city.location.model_dump(),
        "simulated": city.simulated,
        "replay": city.replay,
        "now": now.isoformat(),
        "data_as_of": snapshot.data_end.isoformat() if snapshot.data_end else None,
        "lake_version": snapshot.version,
        "signals": {
            signal: {
                "age_hours": age if math.isfinite(age) else None,
                "status": _status(age),
                "sources": list(city.preference(signal)),
            }
            for signal, age in ages.items()
        },
        "status_quo": {
            "car_free_ratio": status_quo.car_free_ratio,
            "renewable_mix": status_quo.renewable_mix,
        },
        "reasons": [snapshot.trouble] if snapshot.trouble else [],
        "notes": city.notes,
    }


def publish_ages(city: City, snapshot: Snapshot, now: datetime) -> dict[str, float]:
    """Publish the age of a city's feeds as metrics, and return them; a signal without any value has none."""
    ages = ages_hours(snapshot.frame, now, list(city.signals))
    for signal, age in ages.items():
        if math.isfinite(age):
            DATA_AGE_HOURS.labels(city.name, signal).set(age)
    return ages


def _status(age_hours: float) -> str:
    """Name an age."""
    if not math.isfinite(age_hours):
        return "no data"
    if age_hours < LATE_HOURS:
        return "fresh"
    return "past the limit" if is_stale(age_hours) else "late"
