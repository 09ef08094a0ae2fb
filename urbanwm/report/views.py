"""Sections that look at the lake and at the stored forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import pandas as pd

from urbanwm.cities import load_city
from urbanwm.errors import DataUnavailable
from urbanwm.monitoring import MonitorReport
from urbanwm.monitoring.live import BASELINE, CHAMPION
from urbanwm.monitoring.stored import ForecastStore
from urbanwm.report.document import Block, Picture, Section, Table, picture
from urbanwm.settings import Settings
from urbanwm.stores import lake_of

COVERAGE_DAYS: Final = 28
RECENT_DAYS: Final = 3
"""Days back within which a stored forecast counts as tonight's."""
CITIES_PICTURED: Final = 6
"""Cities with pictures of their own; the tables show all."""


def city_names(night: Mapping[str, Any]) -> list[str]:
    """Return the cities of the night."""
    return [str(item["city"]) for item in night.get("ingest") or []]


def quality_section(
    settings: Settings, night: Mapping[str, Any], monitor: MonitorReport | None, as_of: datetime
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
    for name in city_names(night)[:CITIES_PICTURED]:
        blocks += _coverage(settings, name, as_of)
    return Section("Data quality", blocks)


def _coverage(settings: Settings, name: str, as_of: datetime) -> list[Picture]:
    """Draw which hours of the last weeks are there; nothing where the lake has none."""
    from urbanwm.quality.figure import coverage_heatmap

    try:
        frame = lake_of(settings).read(
            name,
            start=as_of - timedelta(days=COVERAGE_DAYS),
            end=as_of,
            signals=list(load_city(name, settings).signals),
        )
    except DataUnavailable:
        return []
    caption = f"{name}: share of hours with a value, last {COVERAGE_DAYS} days"
    return [picture(coverage_heatmap(frame, name), f"coverage_{name}", caption)]


def forecast_section(settings: Settings, night: Mapping[str, Any], as_of: datetime) -> Section:
    """Draw tonight's stored forecast of each city."""
    blocks: list[Block] = []
    for name in city_names(night)[:CITIES_PICTURED]:
        since, until = as_of - timedelta(days=RECENT_DAYS), as_of + timedelta(hours=1)
        stored, _ = ForecastStore(settings.forecasts_dir).read([name], since, until)
        if stored is not None:
            blocks.append(_outlook(settings, name, stored[stored["origin"] == stored["origin"].max()], as_of))
    return Section("Forecast", blocks)


def _outlook(settings: Settings, name: str, newest: pd.DataFrame, as_of: datetime) -> Picture:
    """Draw one city's forecast: the champion's beside the baseline's median, or the baseline's alone."""
    from urbanwm.figures import outlook

    tables = {str(model): part for model, part in newest.groupby("model")}
    model = CHAMPION if CHAMPION in tables else BASELINE
    table = tables[model].sort_values("made_at").drop_duplicates(["timestamp", "signal"], keep="last")
    rival = tables.get(BASELINE) if model == CHAMPION else None
    origin = table["origin"].iloc[0].to_pydatetime()
    known = lake_of(settings).read(name, start=origin - timedelta(days=RECENT_DAYS), end=as_of)
    version = f" {table['version'].iloc[0]}" if model == CHAMPION else ""
    title = f"{name}: 48 h by the {model}{version}"
    return picture(outlook(table, known, title, rival), f"forecast_{name}", title)
