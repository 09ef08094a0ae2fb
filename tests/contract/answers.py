"""Helpers of the contract tests of sources: parse a recorded answer, run a fetch against a mocked service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from urbanwm.cities import City, Location
from urbanwm.contracts.table_checks import PARSED, validate
from urbanwm.settings import Settings
from urbanwm.sources import source_module
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, Window

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
KEY = "not-a-real-key-0123456789"
HTML = b"<!DOCTYPE html>\n<html><head><title>Maintenance</title></head><body>Back soon</body></html>"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fixture(source: str, name: str) -> bytes:
    return (FIXTURES / source / name).read_bytes()


def document(source: str, name: str) -> dict[str, Any]:
    return json.loads(fixture(source, name))


def parse(
    source: str,
    body: bytes | dict[str, Any] | list[Any],
    *,
    signal: str | None = None,
    status: int = 200,
    received_at: str = "2026-11-01T00:00",
    near: tuple[float, float] | None = None,
    request: dict[str, str] | None = None,
    url: str = "recorded",
    check: bool = True,
    **options: Any,
) -> Parsed:
    """Parse one answer and, with `check`, hold its rows to the table contract (some milliseconds)."""
    module = source_module(source)
    raw = RawPayload(
        source=source,
        url=url,
        status=status,
        headers={},
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        fetched_at=utc(received_at),
        request=request or {},
    )
    latitude, longitude = near or (None, None)
    config = module.Config(source=source, **options)
    parsed = module.parse(raw, ParseContext(config, signal, "UTC", latitude, longitude))
    if check:
        validate(parsed.rows, PARSED)
        validate(parsed.forecast_rows, PARSED)
    return parsed


def values(parsed: Parsed, signal: str) -> dict[str, float]:
    """Return the values of one signal by the text of their hour."""
    rows = parsed.rows[parsed.rows["signal"] == signal]
    return {f"{row.timestamp:%Y-%m-%dT%H}": round(row.value, 6) for row in rows.itertuples()}


def ask(
    source: str,
    signal: str,
    start: str,
    end: str,
    *,
    with_keys: bool = True,
    now: str | None = None,
    **options: Any,
) -> Iterator[RawPayload]:
    """Run a source's fetch for a city in Madrid."""
    module = source_module(source)
    key = SecretStr(KEY) if with_keys else None
    settings = Settings.model_construct(
        openaq_api_key=key, eia_api_key=key, entsoe_api_key=key, tomtom_api_key=key
    )
    city = City.model_construct(
        name="madrid",
        timezone="Europe/Madrid",
        location=Location(latitude=40.4168, longitude=-3.7038),
        signals={},
    )
    moment = utc(now or end)
    context = FetchContext(
        city=city,
        config=module.Config(source=source, **options),
        signal=signal,
        window=Window(utc(start), utc(end)),
        settings=settings,
        clock=lambda: moment,
    )
    return iter(module.fetch(context))
