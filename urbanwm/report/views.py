"""Sections that look at the lake and at the stored forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from urbanwm.cities import load_city
from urbanwm.errors import DataUnavailable
from urbanwm.monitoring import MonitorReport
from urbanwm.monitoring.live import BASELINE, CHAMPION
from urbanwm.monitoring.stored import ForecastStore
from urbanwm.report.document import Block, Picture, Section, Table, picture
from urbanwm.settings import Settings
from urbanwm.spread import Spread, require_all, serial
from urbanwm.stores import lake_of

COVERAGE_DAYS: Final = 28
RECENT_DAYS: Final = 3
"""Days back within which a stored forecast counts as tonight's."""
CITIES_PICTURED: Final = 6
"""Cities with pictures of their own; the tables show all."""


def city_names(night: Mapping[str, Any]) -> list[str]:
    """Return the cities of the night."""
    return [str(item["city"]) for item in night.get("ingest") or []]


@dataclass(frozen=True)
class ViewJob:
    """One city to draw for a night's report; can be done in another process.

    Attributes:
        settings: Where the lake and the stored forecasts are.
        city: Its name.
        as_of: The time of the night.
    """

    settings: Settings
    city: str
    as_of: datetime


@dataclass(frozen=True)
class CityView:
    """The pictures of one city, None where there is nothing to draw.

    Attributes:
        coverage: Which hours of the last weeks are there.
        outlook: Tonight's stored forecast.
    """

    coverage: Picture | None
    outlook: Picture | None


def city_views(
    settings: Settings, night: Mapping[str, Any], as_of: datetime, spread: Spread
) -> list[CityView]:
    """Draw the night's first cities, each as a piece of work of its own; one alone is drawn here.

    A night with nothing new would start workers for it, which take longer than the drawing.
    """
    jobs = [ViewJob(settings, city, as_of) for city in city_names(night)[:CITIES_PICTURED]]
    here = spread if len(jobs) > 1 else serial
    return require_all(here("draw", draw_city, jobs))


def draw_city(job: ViewJob) -> CityView:
    """Draw one city."""
    return CityView(_coverage(job), _outlook(job))


def quality_section(
    night: Mapping[str, Any], monitor: MonitorReport | None, views: Sequence[CityView]
) -> Section:
    """Show the age and coverage of every feed, and what the rules dropped."""
    blocks: list[Block] = []
    if monitor is not None and monitor.freshness:
        rows = [
            [feed.city, feed.signal, "never" if feed.age_hours is None else f"{feed.age_hours:.0f} h"]
            for feed in monitor.freshness
        ]
        blocks.append(Table(["city", "signal", "age"], rows))
    dropped = [
        [item["city"], label, rule, count]
        for item in night.get("ingest") or []
        for label, rules in (item.get("dropped") or {}).items()
        for rule, count in rules.items()
    ]
    if dropped:
        blocks.append(Table(["city", "source", "dropped because", "values"], dropped))
    return Section("Data quality", [*blocks, *(view.coverage for view in views if view.coverage)])


def forecast_section(views: Sequence[CityView]) -> Section:
    """Show tonight's stored forecast of each city."""
    return Section("Forecast", [view.outlook for view in views if view.outlook])


def _coverage(job: ViewJob) -> Picture | None:
    """Draw which hours of the last weeks are there."""
    from urbanwm.quality.figure import coverage_heatmap

    try:
        frame = lake_of(job.settings).read(
            job.city,
            start=job.as_of - timedelta(days=COVERAGE_DAYS),
            end=job.as_of,
            signals=list(load_city(job.city, job.settings).signals),
        )
    except DataUnavailable:
        return None
    caption = f"{job.city}: share of hours with a value, last {COVERAGE_DAYS} days"
    return picture(coverage_heatmap(frame, job.city), f"coverage_{job.city}", caption)


def _outlook(job: ViewJob) -> Picture | None:
    """Draw the forecast: the champion's beside the baseline's median, or the baseline's alone."""
    from urbanwm.figures import outlook

    since, until = job.as_of - timedelta(days=RECENT_DAYS), job.as_of + timedelta(hours=1)
    stored, _ = ForecastStore(job.settings.forecasts_dir).read([job.city], since, until)
    if stored is None:
        return None
    newest = stored[stored["origin"] == stored["origin"].max()]
    tables = {str(model): part for model, part in newest.groupby("model")}
    model = CHAMPION if CHAMPION in tables else BASELINE
    table = tables[model].sort_values("made_at").drop_duplicates(["timestamp", "signal"], keep="last")
    rival = tables.get(BASELINE) if model == CHAMPION else None
    origin = table["origin"].iloc[0].to_pydatetime()
    known = lake_of(job.settings).read(job.city, start=origin - timedelta(days=RECENT_DAYS), end=job.as_of)
    version = f" {table['version'].iloc[0]}" if model == CHAMPION else ""
    title = f"{job.city}: 48 h by the {model}{version}"
    return picture(outlook(table, known, title, rival), f"forecast_{job.city}", title)
