"""US Energy Information Administration, API v2: hourly demand and generation by fuel of US grid areas.

`period` is the UTC hour that ENDS the interval. Numbers come as text. The key travels in the query only.
Facts and traps (mixed types, 5,000 rows a page, revisions): docs/sources.md. Public domain, source: EIA.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from urbanwm.errors import (
    BadInput,
    KeyMissing,
    KeyRefused,
    NoData,
    RateLimited,
    RequestRefused,
    SourceError,
)
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, SourceConfig, Traits
from urbanwm.sources.body import malformed, own_config, read_json, read_number, read_utc, required_key
from urbanwm.sources.collect import HOUR, RowCollector, chunks, considerable_types
from urbanwm.sources.http import check_status, get

NAME = "eia"
KEY: str | None = "eia_api_key"
TRAITS = Traits()
BASE_URL = "https://api.eia.gov/v2/electricity/rto"
ROWS_PER_PAGE = 5000
# Some 20 fuels x 24 hours x 10 days fit one page: no hour of a mix is then split between pages.
LONGEST_MIX_REQUEST = timedelta(days=10)
DEMAND = "D"
MEGAWATT_HOURS = "megawatthours"
DEMAND_LATENCY = timedelta(hours=2)
MIX_LATENCY = timedelta(hours=24)  # generation by fuel is collected once a day
RENEWABLE_FUELS = frozenset({"SUN", "WND", "WAT", "GEO", "SNB", "WNB"})  # SNB, WNB: with a battery on site
STORAGE_FUELS = frozenset({"PS", "BAT", "UES", "OES"})  # they give back what was generated before
ERROR_CODES: dict[str, type[SourceError]] = {
    "API_KEY_MISSING": KeyMissing,
    "API_KEY_INVALID": KeyRefused,
    "API_KEY_DISABLED": KeyRefused,
    "API_KEY_UNAUTHORIZED": KeyRefused,
    "API_KEY_UNVERIFIED": KeyRefused,
    "OVER_RATE_LIMIT": RateLimited,
}


class Config(SourceConfig):
    """One grid area of the US.

    Attributes:
        respondent: Balancing authority or region, such as `NYIS`.
        subba: Sub-area of the respondent, such as `ZONJ` (New York City); demand only.
        share: Share of the area's demand that is the city's, above 0 and at most 1.
    """

    respondent: str | None = None
    subba: str | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def label(self) -> str:
        """Provenance: `eia:NYIS/ZONJ`, `eia:PJM*0.05`."""
        area = "/".join(part for part in (self.respondent, self.subba) if part) or "any"
        return f"{NAME}:{area}" + (f"*{self.share:g}" if self.share < 1 else "")


def fetch(ctx: FetchContext) -> Iterator[RawPayload]:
    """Page through the hours of the window.

    Raises:
        KeyMissing: `EIA_API_KEY` is not set.
        BadInput: No respondent is configured, or EIA does not offer the signal.
        SourceError: A request failed; see `urbanwm.sources.http.get`.
    """
    config = own_config(ctx.config, Config)
    if config.respondent is None:
        raise BadInput(
            "eia needs a respondent", field="respondent", allowed="a balancing authority, such as NYIS"
        )
    key = required_key(ctx.settings, "eia_api_key", source=NAME, hint="a free key from eia.gov/opendata")
    route, facets = _route(config, config.respondent, ctx.signal)
    longest = LONGEST_MIX_REQUEST if ctx.signal == "renewable_share" else timedelta(hours=ROWS_PER_PAGE)
    for piece in chunks(ctx.window, longest):
        offset: int | None = 0
        while offset is not None:
            raw = get(
                f"{BASE_URL}/{route}/data/",
                source=NAME,
                clock=ctx.clock,
                params={
                    "frequency": "hourly",
                    "data[0]": "value",
                    **facets,
                    # Both ends are part of the answer, and each period is named by the hour that ends it.
                    "start": f"{piece.start + HOUR:%Y-%m-%dT%H}",
                    "end": f"{piece.end:%Y-%m-%dT%H}",
                    "sort[0][column]": "period",
                    "sort[0][direction]": "asc",
                    "offset": str(offset),
                    "length": str(ROWS_PER_PAGE),
                },
                secret_params={"api_key": key},
                accept=(400, 403),
            )
            yield raw
            offset = _page(raw).next_offset


def _route(config: Config, respondent: str, signal: str) -> tuple[str, dict[str, str]]:
    """Return the route and the facets that keep other types and areas out of the answer."""
    if signal == "renewable_share":
        return "fuel-type-data", {"facets[respondent][]": respondent}
    if signal != "energy_mwh":
        raise BadInput(
            f"eia has no {signal}", field="signal", value=signal, allowed=["energy_mwh", "renewable_share"]
        )
    if config.subba is not None:
        return "region-sub-ba-data", {"facets[parent][]": respondent, "facets[subba][]": config.subba}
    return "region-data", {"facets[respondent][]": respondent, "facets[type][]": DEMAND}


def parse(raw: RawPayload, ctx: ParseContext) -> Parsed:
    """Turn one page into demand (`energy_mwh`, times the share) or the renewable share of generation.

    Rows of other types, areas and frequencies are dropped and counted. `next_page` is the offset of the next
    page while there is one.

    Raises:
        SourceError: `KeyRefused`, `KeyMissing`, `RateLimited`, `RequestRefused`, `NoData`, or
            `MalformedPayload`.
    """
    config = own_config(ctx.config, Config)
    page = _page(raw)
    data = page.data
    if not data:
        raise NoData("eia: no rows for this area and time (or an unknown facet value)", source=NAME)
    mix = any(isinstance(row, dict) and "fueltype" in row for row in data)
    rows = RowCollector(raw, ctx, MIX_LATENCY if mix else DEMAND_LATENCY)
    rows.notes = {"attribution": "U.S. Energy Information Administration"}
    if config.share < 1:
        rows.notes["share"] = f"{config.share:g}"
    rows.next_page = None if page.next_offset is None else str(page.next_offset)
    if not any(isinstance(row, dict) and "value" in row for row in data):
        raise RequestRefused(
            "eia: rows without values; the request lacks data[0]=value", source=NAME, field="data[0]"
        )
    if mix:
        _add_mix(rows, page, config)
    else:
        _add_demand(rows, data, config)
    return rows.parsed()


class _Page(NamedTuple):
    """One page of rows; `next_offset` is None on the last one."""

    data: list[Any]
    offset: int
    next_offset: int | None


def _page(raw: RawPayload) -> _Page:
    """Return the page of a successful answer; every other answer is a named error.

    Where a page starts is known from the question, else from the answer, which repeats it. There is a next
    one if `total` or a warning about an incomplete return tells of it.
    """
    document = read_json(raw)
    if isinstance(document, dict) and "error" in document:
        raise _named_error(raw, document["error"])
    check_status(raw)
    response = document.get("response") if isinstance(document, dict) else None
    if not isinstance(response, dict) or not isinstance(response.get("data"), list):
        raise malformed(NAME, "the answer has no response.data", "response.data")
    data = response["data"]
    echo = document.get("request")
    params = echo.get("params") if isinstance(echo, dict) else None
    echoed = params.get("offset") if isinstance(params, dict) else None
    offset = max(0, int(read_number(raw.request.get("offset", echoed)) or 0))
    total = read_number(response.get("total"))
    more = len(data) >= ROWS_PER_PAGE if total is None else total > offset + len(data)
    more = more or "incomplete" in str(response.get("warnings", "")).lower()
    return _Page(data, offset, offset + len(data) if more and data else None)


def _named_error(raw: RawPayload, error: object) -> SourceError:
    """Return the error for `{"error": {"code", "message"}}` or `{"error": "text", "code": 400}`."""
    code = str(error.get("code", "")) if isinstance(error, dict) else ""
    words = str(error.get("message", code)) if isinstance(error, dict) else str(error)
    kind = ERROR_CODES.get(code)
    if kind is None:
        check_status(raw)
        kind = RequestRefused
    return kind(f"eia: {code or 'error'}: {words}", source=NAME, field="error", value=code or words)


def _add_demand(rows: RowCollector, data: list[Any], config: Config) -> None:
    """Take the demand rows of the configured area."""
    areas: set[str] = set()
    for row in data:
        if not isinstance(row, dict) or row.get("type", DEMAND) != DEMAND:
            rows.dropped["not_demand"] += 1
            continue
        if not _is_ours(row, config):
            rows.dropped["other_area"] += 1
            continue
        start = _start(row.get("period"))
        if start is None:
            rows.dropped["not_hourly"] += 1
            continue
        value = read_number(row.get("value"))
        if value is None:
            rows.dropped["missing"] += 1
        elif row.get("value-units", MEGAWATT_HOURS) != MEGAWATT_HOURS:
            rows.dropped["unknown_unit"] += 1
        elif value <= 0:
            rows.dropped["not_positive"] += 1
        else:
            areas.add(_area(row))
            rows.add(start, "energy_mwh", value * config.share, *(["zone_share"] if config.share < 1 else []))
    _require_one_area(areas)


def _add_mix(rows: RowCollector, page: _Page, config: Config) -> None:
    """Take the renewable share of each hour in which no considerable fuel is missing."""
    hours: dict[datetime, dict[str, float | None]] = defaultdict(dict)
    areas: set[str] = set()
    for row in page.data:
        start = _start(row.get("period")) if isinstance(row, dict) else None
        if start is None:
            rows.dropped["not_hourly"] += 1
        elif not _is_ours(row, config):
            rows.dropped["other_area"] += 1
        else:
            areas.add(_area(row))
            hours[start][str(row.get("fueltype"))] = read_number(row.get("value"))
    _require_one_area(areas)
    # A page may begin and end within an hour, whose other fuels are on its neighbours.
    first, last = page.data[:1] if page.offset > 0 else [], page.data[-1:] if page.next_offset else []
    for edge in (*first, *last):
        cut = _start(edge.get("period")) if isinstance(edge, dict) else None
        if cut is not None and hours.pop(cut, None) is not None:
            rows.dropped["page_cut"] += 1
    generated = {start: _generation(fuels) for start, fuels in hours.items()}
    needed = considerable_types(generated.values())
    for start, present in sorted(generated.items()):
        unread = any(value is None and fuel not in STORAGE_FUELS for fuel, value in hours[start].items())
        if unread or not needed <= present.keys():
            rows.dropped["incomplete_mix"] += 1
        elif sum(present.values()) <= 0:
            rows.dropped["no_generation"] += 1
        else:
            renewable = sum(value for fuel, value in present.items() if fuel in RENEWABLE_FUELS)
            rows.add(start, "renewable_share", renewable / sum(present.values()))


def _generation(fuels: Mapping[str, float | None]) -> dict[str, float]:
    """Return what was generated per fuel; storage gives back, and a plant's own use is no generation."""
    return {
        fuel: max(value, 0.0)
        for fuel, value in fuels.items()
        if value is not None and fuel not in STORAGE_FUELS
    }


def _start(period: object) -> datetime | None:
    """Return the start of an hourly period, UTC; `local-hourly` periods carry their offset in the text."""
    if not isinstance(period, str) or "T" not in period:
        return None
    end = read_utc(period, naive_is=UTC)
    return None if end is None else end - HOUR


def _area(row: Mapping[str, Any]) -> str:
    """Return which area a row is about."""
    return f"{row.get('respondent', row.get('parent', ''))}/{row.get('subba', '')}"


def _is_ours(row: Mapping[str, Any], config: Config) -> bool:
    """Return whether a row is about the configured area; an unset field takes any."""
    respondent = row.get("respondent", row.get("parent"))
    return config.respondent in (None, respondent) and config.subba in (None, row.get("subba"))


def _require_one_area(areas: set[str]) -> None:
    """Raise when values of several areas would be mixed in one series."""
    if len(areas) > 1:
        raise malformed(
            NAME, "several areas in one answer; name one as respondent", "respondent", sorted(areas)
        )
