"""energy-charts.info (Fraunhofer ISE): load and renewable share of some 40 European countries; no key.

Power in MW at 15 or 60 minutes, `unix_seconds` starts the interval. CC BY 4.0 for most series.
Facts and traps (names that changed their spelling, trailing nulls, shares above 100 %): docs/sources.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field

from urbanwm.errors import BadInput, NoData
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, SourceConfig, Traits
from urbanwm.sources.body import malformed, own_config, read_epoch, read_json, read_number
from urbanwm.sources.collect import HOUR, RowCollector, Sample, chunks
from urbanwm.sources.http import check_status, get

NAME = "energy_charts"
KEY: str | None = None
TRAITS = Traits()
PUBLIC_POWER_URL = "https://api.energy-charts.info/public_power"
LONGEST_REQUEST = timedelta(days=31)
LATENCY = timedelta(hours=3)
LOAD = "load"
RENEWABLE_SHARE = "renewableshareofgeneration"


class Config(SourceConfig):
    """One country's electricity.

    Attributes:
        country: Code as the service spells it: `es`, `de`, `fr`.
        share: Share of the country's load that is the city's, above 0 and at most 1.
    """

    country: Annotated[str, Field(min_length=2, max_length=8)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def label(self) -> str:
        """Provenance: `energy_charts:es*0.08`."""
        return f"{NAME}:{self.country or 'any'}" + (f"*{self.share:g}" if self.share < 1 else "")


def fetch(ctx: FetchContext) -> Iterator[RawPayload]:
    """Ask for the country's public power in pieces of a month.

    Raises:
        BadInput: No country is configured.
        SourceError: A request failed; see `urbanwm.sources.http.get`.
    """
    config = own_config(ctx.config, Config)
    if config.country is None:
        raise BadInput("energy_charts needs a country", field="country", allowed="a country code, such as es")
    for piece in chunks(ctx.window, LONGEST_REQUEST):
        yield get(
            PUBLIC_POWER_URL,
            source=NAME,
            clock=ctx.clock,
            params={
                "country": config.country.lower(),
                "start": f"{piece.start:%Y-%m-%dT%H:%M}Z",
                "end": f"{piece.end:%Y-%m-%dT%H:%M}Z",
            },
            accept=(404,),
        )


def parse(raw: RawPayload, ctx: ParseContext) -> Parsed:
    """Turn one answer into `energy_mwh` (load times the share) and `renewable_share` (of generation, 0 to 1).

    Raises:
        SourceError: `NoData`, `MalformedPayload` or the status's own error.
    """
    config = own_config(ctx.config, Config)
    document = read_json(raw)
    detail = str(document.get("detail", "")) if isinstance(document, dict) else ""
    if raw.status == 404 and "no " in detail.lower():
        raise NoData(f"energy_charts: {detail}", source=NAME, field="detail", value=detail)
    check_status(raw)
    if not isinstance(document, dict):
        raise malformed(NAME, "the answer is not an object", "body")
    seconds, series = document.get("unix_seconds"), document.get("production_types")
    if not isinstance(seconds, list) or not isinstance(series, list):
        raise malformed(NAME, "the answer has no unix_seconds and production_types", "production_types")
    starts = _starts(seconds)
    length = _length(starts)
    rows = RowCollector(raw, ctx, LATENCY)
    rows.notes = {"attribution": "energy-charts.info (CC BY 4.0)"}
    if config.share < 1:
        rows.notes["share"] = f"{config.share:g}"
    if document.get("deprecated") is True:
        rows.notes["deprecated"] = "true"
    for item in series:
        name = _plain_name(item.get("name")) if isinstance(item, dict) else ""
        if name == LOAD and rows.wants("energy_mwh"):
            samples = _samples(rows, starts, length, item)
            positive = [sample for sample in samples if sample.value > 0]
            if len(positive) < len(samples):
                rows.dropped["not_positive"] += len(samples) - len(positive)
            flags = ["zone_share"] if config.share < 1 else []
            rows.add_means(positive, "energy_mwh", *flags, scale=config.share)
        elif name == RENEWABLE_SHARE and rows.wants("renewable_share"):
            percent = _samples(rows, starts, length, item)
            rows.add_means([_as_share(sample) for sample in percent], "renewable_share")
    return rows.parsed()


def _plain_name(name: object) -> str:
    """Return a series name without case, spaces and punctuation: it has been spelt in more than one way."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _starts(seconds: list[Any]) -> list[datetime]:
    """Return the interval starts, UTC.

    Raises:
        MalformedPayload: A stamp is not a number of seconds.
    """
    starts = [read_epoch(value) for value in seconds]
    known = [start for start in starts if start is not None]
    if len(known) < len(starts):
        raise malformed(NAME, "a stamp is not an epoch in seconds", "unix_seconds")
    return known


def _length(starts: list[datetime]) -> timedelta:
    """Return the length of the intervals: the smallest step between them; an hour for a single one."""
    steps = [later - earlier for earlier, later in pairwise(starts) if later > earlier]
    return min([*steps, HOUR])


def _samples(
    rows: RowCollector, starts: list[datetime], length: timedelta, item: dict[str, Any]
) -> list[Sample]:
    """Return the values of one series that are there; null at the end means not yet reported."""
    values = item.get("data")
    if not isinstance(values, list) or len(values) != len(starts):
        raise malformed(NAME, f"'{item.get('name')}' has not one value per stamp", "production_types")
    numbers = [read_number(value) for value in values]
    missing = sum(number is None for number in numbers)
    if missing:
        rows.dropped["missing"] += missing
    return [
        Sample(start, length, number)
        for start, number in zip(starts, numbers, strict=True)
        if number is not None
    ]


def _as_share(sample: Sample) -> Sample:
    """Return a percentage as a share, clipped to 0 to 1: imports and pumping can push it beyond."""
    return sample._replace(value=min(max(sample.value / 100, 0.0), 1.0))
