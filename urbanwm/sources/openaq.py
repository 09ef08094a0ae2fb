"""OpenAQ v3: measured PM2.5 and NO2 of one station, from the API (key) or from the public archive (no key).

An hour is `period.datetimeFrom` to `datetimeTo`; the archive stamps the END of the interval in local time.
Credit the originating provider and OpenAQ. Facts and traps (sentinels, negatives, paging): docs/sources.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from urbanwm.errors import BadInput, NoData, StationUnknown
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, SourceConfig, Traits
from urbanwm.sources.body import (
    decode_text,
    malformed,
    own_config,
    read_json,
    read_number,
    read_utc,
    reject_web_page,
    required_key,
)
from urbanwm.sources.collect import COVERAGE_MIN, HOUR, RowCollector, Sample, chunks
from urbanwm.sources.geo import require_near
from urbanwm.sources.http import check_status, get
from urbanwm.sources.openaq_archive import add_archive, is_archive_file
from urbanwm.sources.openaq_stations import coordinates_of, pick_sensor
from urbanwm.sources.openaq_values import convert

NAME = "openaq"
KEY: str | None = "openaq_api_key"
TRAITS = Traits()
API_URL = "https://api.openaq.org/v3"
ARCHIVE_URL = "https://openaq-data-archive.s3.amazonaws.com/records/csv.gz"
ROWS_PER_PAGE = 1000
LONGEST_REQUEST = timedelta(days=365)
LATENCY = timedelta(hours=2)
DAY = timedelta(days=1)
PARAMETER_IDS = {"pm25": "2", "no2": "5,7"}


class Config(SourceConfig):
    """One station or one of its sensors.

    Attributes:
        sensor_id: The sensor; saves the look-up.
        location_id: The station, whose sensor for the signal is looked up; None looks for the nearest one.
        radius_m: How far to look for a station, metres; the service allows 25,000.
        archive: Whether to read the public archive (needs `location_id`, no key) in place of the API.
        max_distance_km: A station farther from the city than this is refused, great-circle km.
    """

    sensor_id: Annotated[int, Field(gt=0)] | None = None
    location_id: Annotated[int, Field(gt=0)] | None = None
    radius_m: Annotated[int, Field(gt=0, le=25_000)] = 25_000
    archive: bool = False
    max_distance_km: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0

    @property
    def label(self) -> str:
        """Provenance: `openaq:sensor/39`, `openaq:location/2178`, `openaq:archive/2178`, `openaq:nearest`."""
        if self.archive:
            return f"{NAME}:archive/{self.location_id}"
        if self.sensor_id is not None:
            return f"{NAME}:sensor/{self.sensor_id}"
        return f"{NAME}:location/{self.location_id}" if self.location_id is not None else f"{NAME}:nearest"


def fetch(ctx: FetchContext) -> Iterator[RawPayload]:
    """Look up the sensor if need be, then page through its hours; or read the archive day by day.

    Raises:
        KeyMissing: `OPENAQ_API_KEY` is not set and the API is asked.
        BadInput: OpenAQ does not offer the signal, or the archive is asked without a station.
        NoData: No station near the city measures the signal.
        SourceError: A request failed; see `urbanwm.sources.http.get`.
    """
    config = own_config(ctx.config, Config)
    if ctx.signal not in PARAMETER_IDS:
        raise BadInput(
            f"openaq has no {ctx.signal}", field="signal", value=ctx.signal, allowed=sorted(PARAMETER_IDS)
        )
    if config.archive:
        yield from _fetch_archive(ctx, config)
        return
    key = required_key(ctx.settings, "openaq_api_key", source=NAME, hint="a free key from explore.openaq.org")
    headers = {"X-API-Key": key}
    sensor_id = config.sensor_id
    if sensor_id is None:
        place = ctx.city.location
        url, params = (
            f"{API_URL}/locations",
            {
                "coordinates": f"{place.latitude:.4f},{place.longitude:.4f}",
                "radius": str(config.radius_m),
                "parameters_id": PARAMETER_IDS[ctx.signal],
                "monitor": "true",
                "mobile": "false",
                "limit": str(ROWS_PER_PAGE),
            },
        )
        if config.location_id is not None:
            url, params = f"{API_URL}/locations/{config.location_id}", {}
        raw = get(url, source=NAME, clock=ctx.clock, params=params, secret_headers=headers)
        yield raw
        location = ctx.city.location
        found = parse(
            raw, ParseContext(config, ctx.signal, ctx.city.timezone, location.latitude, location.longitude)
        )
        sensor_id = int(found.notes["sensor_id"])
    for piece in chunks(ctx.window, LONGEST_REQUEST):
        page: str | None = "1"
        while page is not None:
            raw = get(
                f"{API_URL}/sensors/{sensor_id}/hours",
                source=NAME,
                clock=ctx.clock,
                params={
                    "datetime_from": f"{piece.start:%Y-%m-%dT%H:%M:%SZ}",
                    "datetime_to": f"{piece.end:%Y-%m-%dT%H:%M:%SZ}",
                    "limit": str(ROWS_PER_PAGE),
                    "page": page,
                },
                secret_headers=headers,
            )
            yield raw
            page = _next_page(_results(raw))


def _fetch_archive(ctx: FetchContext, config: Config) -> Iterator[RawPayload]:
    """Read the archive's file of every local day that the window touches; a missing day is a missing file."""
    if config.location_id is None:
        raise BadInput("the openaq archive needs a station", field="location_id", allowed="a location id")
    day: date = ctx.window.start.astimezone(ctx.city.zone).date()
    # The stamp ends the hour: the last hour of a day stands in the next day's file.
    last = ctx.window.end.astimezone(ctx.city.zone).date()
    while day <= last:
        raw = get(
            f"{ARCHIVE_URL}/locationid={config.location_id}/year={day:%Y}/month={day:%m}/"
            f"location-{config.location_id}-{day:%Y%m%d}.csv.gz",
            source=NAME,
            clock=ctx.clock,
            accept=(404,),
        )
        if raw.status != 404:
            yield raw
        day += DAY


def parse(raw: RawPayload, ctx: ParseContext) -> Parsed:
    """Turn hours, measurements or an archive file into rows; a list of stations into `notes["sensor_id"]`.

    PM2.5 between -5 and 0 is sensor noise: set to 0 and flagged. Sentinels, hours with less than 75 % of
    their data and unknown units are dropped and counted.

    Raises:
        SourceError: `StationUnknown`, `StationTooFar`, `NoData`, `MalformedPayload`, or that of the status.
    """
    config = own_config(ctx.config, Config)
    rows = RowCollector(raw, ctx, LATENCY)
    rows.notes = {"attribution": "OpenAQ and the originating provider"}
    if is_archive_file(raw.body):
        check_status(raw)
        add_archive(rows, max_distance_km=config.max_distance_km)
        return rows.parsed()
    document = _results(raw)
    results = document["results"]
    if any(isinstance(entry, dict) and "sensors" in entry for entry in results):
        return pick_sensor(results, ctx, max_distance_km=config.max_distance_km, now=raw.fetched_at)
    _require_near(results, ctx, config)
    rows.next_page = _next_page(document)
    samples: dict[str, list[Sample]] = defaultdict(list)
    for entry in results:
        _read_result(rows, entry, samples)
    for signal, values in samples.items():
        rows.add_means(values, signal)
    return rows.parsed()


def _results(raw: RawPayload) -> dict[str, Any]:
    """Return the document of a successful API answer.

    Raises:
        StationUnknown: Status 404.
        NoData: The archive has no such object.
    """
    if raw.body.lstrip().startswith(b"<?xml"):
        text = decode_text(raw)
        reject_web_page(raw, text)
        if "<Code>NoSuchKey</Code>" in text:
            raise NoData("openaq: the archive has no file for this day", source=NAME)
        check_status(raw)
    document = read_json(raw)
    if raw.status == 404:
        raise StationUnknown("openaq: no such station or sensor", source=NAME, field="sensor_id")
    check_status(raw)
    if not isinstance(document, dict) or not isinstance(document.get("results"), list):
        raise malformed(NAME, "the answer has no results", "results")
    return document


def _next_page(document: Mapping[str, Any]) -> str | None:
    """Return the next page's number; a page shorter than its limit is the last (`found` may be ">1000")."""
    meta = document.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    limit, page = read_number(meta.get("limit")), read_number(meta.get("page"))
    found = read_number(meta.get("found"))
    if limit is None or page is None or len(document["results"]) < limit:
        return None
    if found is not None and found <= page * limit:
        return None
    return str(int(page) + 1)


def _require_near(results: list[Any], ctx: ParseContext, config: Config) -> None:
    """Raise `StationTooFar` when the entries say that they were measured far from the city."""
    first = next((entry for entry in results if isinstance(entry, dict)), {})
    place = coordinates_of(first.get("coordinates"))
    require_near(NAME, ctx, place, max_distance_km=config.max_distance_km, field="coordinates")


def _read_result(rows: RowCollector, entry: object, samples: dict[str, list[Sample]]) -> None:
    """Read one entry of `results` into the samples of its signal, or count why not."""
    if not isinstance(entry, dict):
        rows.dropped["not_an_entry"] += 1
        return
    parameter = entry.get("parameter")
    parameter = parameter if isinstance(parameter, dict) else {}
    start, end = _period(entry.get("period"))
    if start is None or end is None or not timedelta(0) < end - start <= HOUR:
        rows.dropped["not_hourly" if start is not None else "no_time"] += 1
        return
    coverage = entry.get("coverage")
    percent = read_number(coverage.get("percentComplete")) if isinstance(coverage, dict) else None
    if percent is not None and percent < 100 * COVERAGE_MIN:
        rows.dropped["low_coverage"] += 1
        return
    converted = convert(rows, parameter.get("name"), parameter.get("units"), entry.get("value"))
    if converted is None:
        return
    flag_info = entry.get("flagInfo")
    suspect = isinstance(flag_info, dict) and flag_info.get("hasFlags") is True
    flags = (*converted.flags, *(("upstream_flag",) if suspect else ()))
    samples[converted.signal].append(Sample(start, end - start, converted.value, flags))


def _period(period: object) -> tuple[datetime | None, datetime | None]:
    """Return the start and end of a period, UTC; an hour is assumed where only one of them is given."""
    if not isinstance(period, dict):
        return None, None
    start, end = (_moment(period.get(key)) for key in ("datetimeFrom", "datetimeTo"))
    if start is None and end is not None:
        start = end - HOUR
    if end is None and start is not None:
        end = start + HOUR
    return start, end


def _moment(moment: object) -> datetime | None:
    """Read `{"utc", "local"}`; the local text is an instant only with its offset."""
    if not isinstance(moment, dict):
        return None
    return read_utc(moment.get("utc"), naive_is=UTC) or read_utc(moment.get("local"))
