"""TomTom Flow Segment Data: the current speed on the road nearest to a point; live only, key needed.

The value is the travel-time form of a traffic index, `travel time now ÷ free-flow travel time − 1`, clipped
to 0…2: 0 is free flow. It measures congestion, not volume (1 = usual), so it is flagged `travel_time_form`
and must not share a series with volume counts. TomTom restricts the storing of answers: see docs/sources.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field

from urbanwm.clock import floor_hour
from urbanwm.contracts.signals import SIGNALS
from urbanwm.errors import BadInput, KeyRefused, RateLimited, StationTooFar
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, SourceConfig, Traits
from urbanwm.sources.body import decode_text, malformed, own_config, read_json, read_number, required_key
from urbanwm.sources.collect import RowCollector
from urbanwm.sources.geo import Place, read_place, require_near
from urbanwm.sources.http import check_status, excerpt, get

NAME = "tomtom"
KEY: str | None = "tomtom_api_key"
TRAITS = Traits(live=True)
SEGMENT_URL = "https://api.tomtom.com/traffic/services/4/flowSegmentData/absolute"
CONFIDENCE_MIN = 0.5  # below, the value is a historical average and not live
ROAD_KM_MAX = 30.0  # the road nearest to the point asked for; one farther away is another city's
SIGNAL = "traffic_index"


class Config(SourceConfig):
    """One road segment.

    Attributes:
        latitude: Degrees north of a point near the road; None takes the city's.
        longitude: Degrees east.
        zoom: Level of detail, 0 to 22: a lower one finds the nearest major road.
    """

    latitude: Annotated[float, Field(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = None
    zoom: Annotated[int, Field(ge=0, le=22)] = 10

    @property
    def label(self) -> str:
        """Provenance that names the form: `tomtom:travel_time@52.4107,4.8424`."""
        if self.latitude is None or self.longitude is None:
            return f"{NAME}:travel_time"
        return f"{NAME}:travel_time@{self.latitude:.4f},{self.longitude:.4f}"


def fetch(ctx: FetchContext) -> Iterator[RawPayload]:
    """Ask once for the segment's present state; there is no history.

    Raises:
        KeyMissing: `TOMTOM_API_KEY` is not set.
        BadInput: TomTom does not offer the signal.
        SourceError: The request failed; see `urbanwm.sources.http.get`.
    """
    config = own_config(ctx.config, Config)
    if ctx.signal != SIGNAL:
        raise BadInput(f"tomtom has no {ctx.signal}", field="signal", value=ctx.signal, allowed=[SIGNAL])
    key = required_key(ctx.settings, "tomtom_api_key", source=NAME, hint="a key from developer.tomtom.com")
    place = ctx.city.location
    latitude = place.latitude if config.latitude is None else config.latitude
    longitude = place.longitude if config.longitude is None else config.longitude
    yield get(
        f"{SEGMENT_URL}/{config.zoom}/json",
        source=NAME,
        clock=ctx.clock,
        params={"point": f"{latitude:g},{longitude:g}", "unit": "KMPH"},
        secret_params={"key": key},
        accept=(400, 403),
    )


def parse(raw: RawPayload, ctx: ParseContext) -> Parsed:
    """Turn one answer into the traffic index of the hour it was fetched in.

    A closed road and a confidence below 0.5 are dropped and counted: neither says how much traffic there is.

    Raises:
        SourceError: `KeyRefused`, `RateLimited`, `StationTooFar`, `MalformedPayload`, or that of the status.
    """
    config = own_config(ctx.config, Config)
    _raise_reported_error(raw)
    document = read_json(raw)
    check_status(raw)
    segment = document.get("flowSegmentData") if isinstance(document, dict) else None
    if not isinstance(segment, dict):
        raise malformed(NAME, "the answer has no flowSegmentData", "flowSegmentData")
    asked = (
        ctx if config.latitude is None else replace(ctx, latitude=config.latitude, longitude=config.longitude)
    )
    require_near(NAME, asked, _place(segment), max_distance_km=ROAD_KM_MAX, field="coordinates")
    rows = RowCollector(raw, ctx, timedelta(0))
    rows.notes = {"form": "travel_time", "attribution": "TomTom"}
    confidence = read_number(segment.get("confidence"))
    index = travel_time_index(segment)
    if segment.get("roadClosure") is True:
        rows.dropped["road_closure"] += 1
    elif confidence is None or confidence < CONFIDENCE_MIN:
        rows.dropped["low_confidence"] += 1
    elif index is None:
        rows.dropped["missing"] += 1
    else:
        rows.add(floor_hour(raw.fetched_at), SIGNAL, index, "travel_time_form")
    return rows.parsed()


def _place(segment: dict[str, Any]) -> Place | None:
    """Return where the segment begins."""
    line = segment.get("coordinates")
    points = line.get("coordinate") if isinstance(line, dict) else None
    first = points[0] if isinstance(points, list) and points else None
    if not isinstance(first, dict):
        return None
    return read_place(read_number(first.get("latitude")), read_number(first.get("longitude")))


def travel_time_index(segment: dict[str, Any]) -> float | None:
    """Return `now ÷ free flow − 1` of the travel times, else the same from the speeds; clipped to 0…2.

    None when neither pair is complete and positive.
    """
    pairs = (("currentTravelTime", "freeFlowTravelTime"), ("freeFlowSpeed", "currentSpeed"))
    for numerator, denominator in pairs:
        above, below = read_number(segment.get(numerator)), read_number(segment.get(denominator))
        if above is not None and below is not None and above > 0 and below > 0:
            limits = SIGNALS[SIGNAL]
            return min(max(above / below - 1.0, limits.minimum), limits.maximum)
    return None


def _raise_reported_error(raw: RawPayload) -> None:
    """Raise the errors that only the text tells apart: 403 also says "too fast", 400 also "no road here"."""
    if raw.status not in (200, 400, 403):
        return
    text = decode_text(raw)
    words = " ".join(text.lower().split())
    if "flowsegmentdata" in words:
        return
    shown = excerpt(raw.body)
    if any(mark in words for mark in ("over qps", "over rate", "qps limit", "rate limit", "quota")):
        raise RateLimited(f"tomtom: {shown}", source=NAME, field="status", value=raw.status)
    if "too far" in words:
        raise StationTooFar(f"tomtom: {shown}", source=NAME, field="point", value=raw.request.get("point"))
    if any(mark in words for mark in ("developer inactive", "api key", "forbidden", "not allowed to access")):
        raise KeyRefused(f"tomtom: {shown}", source=NAME, field="TOMTOM_API_KEY")
