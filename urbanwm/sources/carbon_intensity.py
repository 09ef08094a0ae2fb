"""GB Carbon Intensity (NESO): half-hourly generation mix in percent, nationally and for 17 regions; no key.

Times are UTC. There is no MW, so it feeds `renewable_share` and, nationally, `carbon_intensity_g_kwh`.
Regional figures are model output. CC BY 4.0. Facts and traps: docs/sources.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field, model_validator

from urbanwm.errors import BadInput, RequestRefused, StationUnknown, UpstreamUnavailable
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, SourceConfig, Traits
from urbanwm.sources.body import malformed, own_config, read_json, read_number, read_utc
from urbanwm.sources.collect import RowCollector, Sample, chunks, hourly_means
from urbanwm.sources.http import check_status, get

NAME = "carbon_intensity"
KEY: str | None = None
TRAITS = Traits()
BASE_URL = "https://api.carbonintensity.org.uk"
LONGEST_REQUEST = timedelta(days=14)
LATENCY = timedelta(hours=1)
HALF_HOUR = timedelta(minutes=30)
# The service's own definition; imports are of unknown mix and count as not renewable.
RENEWABLE_FUELS = frozenset({"wind", "solar", "hydro", "biomass"})
PERCENT_TOLERANCE = 10.0  # the fuels add up to 100 within this; all of them 0 has been seen


class Config(SourceConfig):
    """Great Britain or one region of it.

    Attributes:
        region_id: 1 to 17 (13 is London); None for the whole of Great Britain, or the postcode's region.
        postcode: Outward code, such as `RG1`, in place of the region.
    """

    region_id: Annotated[int, Field(ge=1, le=17)] | None = None
    postcode: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{2,4}$")] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Config:
        if self.region_id is not None and self.postcode is not None:
            raise ValueError("give region_id or postcode, not both")
        return self

    @property
    def label(self) -> str:
        """Provenance: `carbon_intensity:13`, `carbon_intensity:RG1`, `carbon_intensity:gb`."""
        return f"{NAME}:{self.region_id or self.postcode or 'gb'}"


def fetch(ctx: FetchContext) -> Iterator[RawPayload]:
    """Ask for the window in pieces of 14 days, the longest the service allows.

    Raises:
        BadInput: The service does not offer the signal for this place.
        SourceError: A request failed; see `urbanwm.sources.http.get`.
    """
    config = own_config(ctx.config, Config)
    for piece in chunks(ctx.window, LONGEST_REQUEST):
        period = f"{piece.start:%Y-%m-%dT%H:%MZ}/{piece.end:%Y-%m-%dT%H:%MZ}"
        yield get(
            f"{BASE_URL}/{_route(config, ctx.signal, period)}",
            source=NAME,
            clock=ctx.clock,
            accept=(400, 404),
        )


def _route(config: Config, signal: str, period: str) -> str:
    """Return the path of a request."""
    if signal == "renewable_share" and config.region_id is not None:
        return f"regional/intensity/{period}/regionid/{config.region_id}"
    if signal == "renewable_share" and config.postcode is not None:
        return f"regional/intensity/{period}/postcode/{config.postcode}"
    if signal == "renewable_share":
        return f"generation/{period}"
    if signal == "carbon_intensity_g_kwh" and config.region_id is None and config.postcode is None:
        return f"intensity/{period}"
    raise BadInput(
        f"carbon_intensity has no observed {signal} for {config.label}",
        field="signal",
        value=signal,
        allowed=["renewable_share", "carbon_intensity_g_kwh (national only)"],
    )


def parse(raw: RawPayload, ctx: ParseContext) -> Parsed:
    """Turn half hours into hourly `renewable_share` (0 to 1) and, where reported, `carbon_intensity_g_kwh`.

    The two half hours of an hour are averaged; an hour with only one of them is flagged `half_hour`. Forecast
    intensities are not observations and are never used.

    Raises:
        SourceError: `RequestRefused`, `StationUnknown`, `NoData`, `MalformedPayload`, or that of the status.
    """
    config = own_config(ctx.config, Config)
    document = read_json(raw)
    if isinstance(document, dict) and "error" in document:
        _raise_reported_error(raw, document["error"])
    check_status(raw)
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, (list, dict)):
        raise malformed(NAME, "the answer has no data", "data")
    rows = RowCollector(raw, ctx, LATENCY)
    rows.notes = {"attribution": "NESO Carbon Intensity API (CC BY 4.0)"}
    slots, region = _slots(data if isinstance(data, list) else [data], config)
    if region is not None:
        rows.notes["region"] = region
    flags = ["model"] if region is not None else []
    shares: list[Sample] = []
    intensities: list[Sample] = []
    for slot in slots:
        _read_slot(rows, slot, shares, intensities)
    _add_half_hours(rows, shares, "renewable_share", flags)
    _add_half_hours(rows, intensities, "carbon_intensity_g_kwh", flags)
    return rows.parsed()


def _raise_reported_error(raw: RawPayload, error: object) -> None:
    """Raise the error of an `{"error": {"code": "400 Bad Request", "message": …}}` body of any status."""
    if raw.status >= 429:
        check_status(raw)
    code = str(error.get("code", "")) if isinstance(error, dict) else ""
    message = str(error.get("message", "")) if isinstance(error, dict) else str(error)
    kind = {"4": RequestRefused, "5": UpstreamUnavailable}.get(code[:1], RequestRefused)
    if "postcode" in message.lower() or "region" in message.lower():
        kind = StationUnknown
    raise kind(f"carbon_intensity: {code} {message}".strip(), source=NAME, field="error", value=code)


def _slots(data: list[Any], config: Config) -> tuple[list[dict[str, Any]], str | None]:
    """Return the half hours of an answer and the region they are about, from any of its nestings.

    National: `data[slot]`; one region: `data[region]{data[slot]}`; all: `data[slot]{regions[region]}`.

    Raises:
        MalformedPayload: Several regions, and the configuration names none of them.
    """
    slots: list[dict[str, Any]] = []
    regions: set[str] = set()
    for item in data:
        if not isinstance(item, dict):
            raise malformed(NAME, "an entry of data is not an object", "data")
        if isinstance(item.get("regions"), list):
            times = {key: item.get(key) for key in ("from", "to")}
            found = [
                (region, [{**region, **times}]) for region in item["regions"] if isinstance(region, dict)
            ]
        elif isinstance(item.get("data"), list):
            found = [(item, item["data"])]
        else:
            slots.append(item)
            continue
        for region, region_slots in found:
            if config.region_id in (None, region.get("regionid")):
                regions.add(str(region.get("regionid")))
                slots.extend(slot for slot in region_slots if isinstance(slot, dict))
    if len(regions) > 1:
        raise malformed(
            NAME, "several regions in one answer; name one as region_id", "region_id", sorted(regions)
        )
    return slots, next(iter(regions), None)


def _read_slot(
    rows: RowCollector, slot: Mapping[str, Any], shares: list[Sample], intensities: list[Sample]
) -> None:
    """Read one half hour: the share of renewable fuels and the measured intensity."""
    start = read_utc(slot.get("from"))
    if start is None:
        rows.dropped["no_time"] += 1
        return
    if start > rows.raw.fetched_at:
        rows.dropped["future"] += 1
        return
    mix = slot.get("generationmix")
    if isinstance(mix, list) and rows.wants("renewable_share"):
        share = _renewable_share(mix)
        if share is None:
            rows.dropped["incomplete_mix"] += 1
        else:
            shares.append(Sample(start, HALF_HOUR, share))
    intensity = slot.get("intensity")
    if isinstance(intensity, dict) and "actual" in intensity and rows.wants("carbon_intensity_g_kwh"):
        actual = read_number(intensity["actual"])
        if actual is None:
            rows.dropped["missing"] += 1
        else:
            intensities.append(Sample(start, HALF_HOUR, actual))


def _renewable_share(mix: list[Any]) -> float | None:
    """Return the renewable share of a mix in percent; None when the fuels do not add up to the whole."""
    percent = {
        str(entry.get("fuel")).lower(): read_number(entry.get("perc"))
        for entry in mix
        if isinstance(entry, dict)
    }
    known = {fuel: value for fuel, value in percent.items() if value is not None}
    if len(known) < len(percent) or abs(sum(known.values()) - 100.0) > PERCENT_TOLERANCE:
        return None
    return min(max(sum(value for fuel, value in known.items() if fuel in RENEWABLE_FUELS) / 100.0, 0.0), 1.0)


def _add_half_hours(rows: RowCollector, samples: list[Sample], signal: str, flags: list[str]) -> None:
    """Average the half hours of each hour; a request from a half hour on returns the slot before as well."""
    for hour, mean in hourly_means(rows.distinct(samples)).items():
        rows.add(hour, signal, mean.value, *flags, *(["half_hour"] if mean.coverage < 1 else []))
