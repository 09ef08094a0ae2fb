"""What the night's ingest brought, city by city."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from urbanwm.cities import load_city
from urbanwm.clock import Clock, utc_now
from urbanwm.ingest import IngestReport, ingest_cities
from urbanwm.settings import Settings


@dataclass(frozen=True)
class CityIngest:
    """What the night's ingest brought for one city.

    Attributes:
        city: Its name.
        inserted: New rows.
        updated: Corrected rows.
        version: Lake version afterwards; None where the ingest failed as a whole.
        errors: One sentence per source that failed; the others went on.
        retryable: Whether one of the failures can be over at the next attempt.
        dropped: Source label → rule → values that were dropped.
    """

    city: str
    inserted: int = 0
    updated: int = 0
    version: int | None = None
    errors: list[str] = field(default_factory=list)
    retryable: bool = False
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def city_ingest(report: IngestReport) -> CityIngest:
    """Shorten an ingest's own account to what a night reports."""
    errors = [f"{item['source']} for {item['signal']}: {item['message']}" for item in report.errors]
    if report.failure is not None:
        errors = [f"{report.failure['type']}: {report.failure['message']}"]
    return CityIngest(
        city=report.city,
        inserted=report.inserted,
        updated=report.updated,
        version=None if report.failure is not None else report.version,
        errors=errors,
        retryable=report.retryable,
        dropped={label: dict(counts) for label, counts in report.dropped.items()},
    )


def ingest_one(name: str, settings: Settings, clock: Clock = utc_now) -> CityIngest:
    """Ingest one city; an upstream's failure is part of the answer.

    Raises:
        BadInput: The city is unknown or its file is wrong.
    """
    return run_ingest([name], settings, clock)[0]


def run_ingest(names: Sequence[str], settings: Settings, clock: Clock = utc_now) -> list[CityIngest]:
    """Ingest the cities at the same time, with one merge for all; one that fails leaves the others.

    Raises:
        BadInput: A city is unknown or its file is wrong.
    """
    cities = [load_city(name, settings) for name in names]
    with ThreadPoolExecutor(min(settings.workers, len(cities))) as pool:
        reports = ingest_cities(cities, settings, clock=clock, runner=pool.map)
    return [city_ingest(report) for report in reports]
