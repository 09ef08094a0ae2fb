"""A source without network for the tests of ingest: it answers with JSON lists of [hour, value]."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pandas as pd

from urbanwm.cities import City, Location
from urbanwm.contracts.tables import UTC_MICROSECONDS, empty_rows
from urbanwm.errors import SourceError
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, SourceConfig, Traits, Window
from urbanwm.sources.rows import parsed_rows

START = datetime(2025, 3, 1, tzinfo=UTC)
Answer = Callable[[FetchContext], dict[datetime, float]]


class Config(SourceConfig):
    station: str = "1"
    share: float | None = None

    @property
    def label(self) -> str:
        return f"{self.source}:{self.station}" + (f"*{self.share:g}" if self.share else "")


class FakeSource:
    """Serves values per station; every question is remembered."""

    NAME, KEY, Config = "fake", None, Config
    TRAITS = Traits()

    def __init__(self) -> None:
        self.values: dict[str, Answer] = {}
        self.failures: dict[str, SourceError] = {}
        self.asked: list[tuple[str, str, Window]] = []
        self.keeps_forecasts = False

    def fetch(self, ctx: FetchContext) -> Iterator[RawPayload]:
        station = ctx.config.station
        self.asked.append((ctx.signal, station, ctx.window))
        if station in self.failures:
            raise self.failures[station]
        rows = {
            hour: value
            for hour, value in self.values[station](ctx).items()
            if ctx.window.start <= hour < ctx.window.end + timedelta(hours=3)
        }
        body = json.dumps([[hour.isoformat(), value] for hour, value in rows.items()]).encode()
        request = {"start": ctx.window.start.isoformat(), "end": ctx.window.end.isoformat()}
        yield RawPayload("fake", f"https://fake/{station}/{ctx.signal}", 200, {}, body, ctx.clock(), request)

    def parse(self, raw: RawPayload, ctx: ParseContext) -> Parsed:
        pairs = json.loads(raw.body)
        if not pairs:
            return Parsed(rows=empty_rows())
        hours = pd.DatetimeIndex([hour for hour, _ in pairs]).astype(UTC_MICROSECONDS)
        unknown = pd.DatetimeIndex([pd.NaT] * len(hours), dtype=UTC_MICROSECONDS)
        factor = ctx.config.share or 1.0
        rows = parsed_rows(hours, ctx.signal or "pm25", [value * factor for _, value in pairs], unknown)
        ahead = (rows["timestamp"] > raw.fetched_at) & self.keeps_forecasts
        return Parsed(rows=rows[~ahead], forecast_rows=rows[ahead].assign(flags="model,forecast"))


def city(signals: dict[str, list[SourceConfig]], name: str = "x", **options: object) -> City:
    return City(
        name=name,
        timezone="UTC",
        location=Location(latitude=50, longitude=10),
        signals=signals,
        **options,
    )
