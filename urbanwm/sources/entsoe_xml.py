"""ENTSO-E's XML: time series of a market document, by local names, because the namespaces carry versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from urbanwm.sources.base import RawPayload
from urbanwm.sources.body import HTML_LOOKAHEAD, malformed, read_number, read_utc, reject_web_page
from urbanwm.sources.collect import Sample
from urbanwm.sources.http import check_status, excerpt

SOURCE = "entsoe"
RESOLUTIONS = {
    "PT1M": timedelta(minutes=1),
    "PT5M": timedelta(minutes=5),
    "PT10M": timedelta(minutes=10),
    "PT15M": timedelta(minutes=15),
    "PT30M": timedelta(minutes=30),
    "PT60M": timedelta(minutes=60),
    "PT1H": timedelta(minutes=60),
}
# Variable-sized blocks: a position that repeats the value before it is left out.
VARIABLE_BLOCKS = "A03"
STEPS_MAX = 1_000_000  # two years of minutes; an interval beyond it is nonsense


@dataclass(frozen=True)
class Series:
    """One `TimeSeries`.

    Attributes:
        unit: `MAW` for megawatts.
        production_type: psrType code of a generation series, None for load.
        is_consumption: Whether it is what plants of that type take from the grid (pumping, own use).
        samples: The values, gaps of variable-sized blocks filled.
        missing: Positions without a readable quantity.
    """

    unit: str | None
    production_type: str | None
    is_consumption: bool
    samples: list[Sample]
    missing: int


def read_xml(raw: RawPayload, body: bytes) -> Element:
    """Return the root element of a document; entity and document type declarations are refused.

    Raises:
        UpstreamUnavailable: A web page came instead (maintenance).
        MalformedPayload: Not XML (retryable), or it declares entities.
        SourceError: Not XML, and the status already says why.
    """
    reject_web_page(raw, body[:HTML_LOOKAHEAD].decode("utf-8", errors="replace").lstrip("\ufeff"))
    try:
        root: Element = fromstring(body, forbid_dtd=True)
    except DefusedXmlException:
        check_status(raw)
        raise malformed(SOURCE, "the document declares a document type or entities", "body") from None
    except (ParseError, ValueError, LookupError) as failure:
        check_status(raw)
        error = malformed(SOURCE, f"the body is not XML ({failure})", "body", excerpt(body) or "(empty)")
        error.retryable = True  # a transfer that broke off; a format that changed would still be XML
        raise error from None
    return root


def local_name(element: Element) -> str:
    """Return an element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def children(element: Element, name: str) -> Iterator[Element]:
    """Yield the direct children with a local name."""
    return (child for child in element if local_name(child) == name)


def child_text(element: Element, name: str) -> str | None:
    """Return the text of the first direct child with a local name."""
    found = next(children(element, name), None)
    return found.text.strip() if found is not None and found.text else None


def read_series(element: Element) -> Series:
    """Return one `TimeSeries` with the samples of all its periods, which may differ in resolution.

    Raises:
        MalformedPayload: A period has no interval or no known resolution.
    """
    fill = child_text(element, "curveType") == VARIABLE_BLOCKS
    production = next(children(element, "MktPSRType"), None)
    production_type = child_text(production, "psrType") if production is not None else None
    samples: list[Sample] = []
    missing = 0
    for period in children(element, "Period"):
        found, gaps = _read_period(period, fill=fill)
        samples.extend(found)
        missing += gaps
    return Series(
        unit=child_text(element, "quantity_Measure_Unit.name"),
        production_type=production_type,
        is_consumption=production_type is not None
        and child_text(element, "outBiddingZone_Domain.mRID") is not None,
        samples=samples,
        missing=missing,
    )


def _read_period(period: Element, *, fill: bool) -> tuple[list[Sample], int]:
    """Return the samples of one period and how many positions have no readable quantity."""
    start, steps, step = _interval(period)
    points: dict[int, float] = {}
    missing = 0
    for point in children(period, "Point"):
        position = read_number(child_text(point, "position"))
        quantity = read_number(child_text(point, "quantity"))
        if position is None or quantity is None or not 1 <= position <= steps:
            missing += 1
        else:
            points[int(position)] = quantity
    samples = []
    value: float | None = None
    for position in range(1, steps + 1):
        value = points.get(position, value if fill else None)
        if value is not None:
            samples.append(Sample(start + (position - 1) * step, step, value))
    return samples, missing


def _interval(period: Element) -> tuple[datetime, int, timedelta]:
    """Return a period's start, number of positions and length of each."""
    interval = next(children(period, "timeInterval"), None)
    start = read_utc(child_text(interval, "start")) if interval is not None else None
    end = read_utc(child_text(interval, "end")) if interval is not None else None
    resolution = child_text(period, "resolution")
    step = RESOLUTIONS.get(resolution or "")
    if start is None or end is None or end <= start:
        raise malformed(SOURCE, "a period has no valid timeInterval", "timeInterval")
    if step is None:
        raise malformed(SOURCE, "a period has an unknown resolution", "resolution", resolution)
    steps = (end - start) // step
    if steps > STEPS_MAX:
        raise malformed(SOURCE, "a period is implausibly long", "timeInterval", steps)
    return start, steps, step
