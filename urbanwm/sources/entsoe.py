"""ENTSO-E Transparency Platform: load and generation per type of European bidding zones; token needed.

An own parser in place of `entsoe-py`: two document types are read, for which that client would bring lxml,
BeautifulSoup and its own opinion about errors. Times are UTC, the start of the interval; power is in MW. Free
reuse with the source named. Facts and traps (curve types, code 999, consumption series): docs/sources.md.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated
from xml.etree.ElementTree import Element

from pydantic import Field

from urbanwm.errors import BadInput, KeyRefused, NoData, RateLimited, RequestRefused, SourceError
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, SourceConfig, Traits
from urbanwm.sources.body import malformed, own_config, required_key
from urbanwm.sources.collect import (
    COVERAGE_MIN,
    RowCollector,
    Sample,
    chunks,
    considerable_types,
    hourly_means,
)
from urbanwm.sources.entsoe_xml import Series, child_text, children, local_name, read_series, read_xml
from urbanwm.sources.http import check_status, get

NAME = "entsoe"
KEY: str | None = "entsoe_api_key"
TRAITS = Traits()
API_URL = "https://web-api.tp.entsoe.eu/api"
LONGEST_REQUEST = timedelta(days=365)
LOAD_LATENCY = timedelta(hours=2)
GENERATION_LATENCY = timedelta(hours=16)
ZIP_MAGIC = b"PK\x03\x04"
UNZIPPED_BYTES_MAX = 256 << 20
LOAD, GENERATION = "A65", "A75"
REALISED = "A16"
MEGAWATT = "MAW"
RENEWABLE_TYPES = frozenset({"B01", "B09", "B11", "B12", "B13", "B15", "B16", "B18", "B19"})
STORAGE_TYPES = frozenset({"B10", "B25"})  # they give back what was generated before


class Config(SourceConfig):
    """One bidding zone.

    Attributes:
        domain: EIC code of the zone, such as `10YES-REE------0`.
        share: Share of the zone's load that is the city's, above 0 and at most 1.
    """

    domain: Annotated[str, Field(pattern=r"^[0-9A-Z-]{16}$")] | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def label(self) -> str:
        """Provenance: `entsoe:10YES-REE------0*0.08`."""
        return f"{NAME}:{self.domain or 'any'}" + (f"*{self.share:g}" if self.share < 1 else "")


def fetch(ctx: FetchContext) -> Iterator[RawPayload]:
    """Ask for the load or the generation of the zone in pieces of at most a year.

    Raises:
        KeyMissing: `ENTSOE_API_KEY` is not set.
        BadInput: No zone is configured, or ENTSO-E does not offer the signal.
        SourceError: A request failed; see `urbanwm.sources.http.get`.
    """
    config = own_config(ctx.config, Config)
    if config.domain is None:
        raise BadInput("entsoe needs a zone", field="domain", allowed="an EIC code, such as 10YES-REE------0")
    if ctx.signal == "energy_mwh":
        question = {"documentType": LOAD, "outBiddingZone_Domain": config.domain}
    elif ctx.signal == "renewable_share":
        question = {"documentType": GENERATION, "in_Domain": config.domain}
    else:
        raise BadInput(
            f"entsoe has no {ctx.signal}",
            field="signal",
            value=ctx.signal,
            allowed=["energy_mwh", "renewable_share"],
        )
    token = required_key(ctx.settings, "entsoe_api_key", source=NAME, hint="a free token from ENTSO-E")
    for piece in chunks(ctx.window, LONGEST_REQUEST):
        yield get(
            API_URL,
            source=NAME,
            clock=ctx.clock,
            params={
                **question,
                "processType": REALISED,
                "periodStart": f"{piece.start:%Y%m%d%H%M}",
                "periodEnd": f"{piece.end:%Y%m%d%H%M}",
            },
            secret_params={"securityToken": token},
            accept=(400,),
        )


def parse(raw: RawPayload, ctx: ParseContext) -> Parsed:
    """Turn load into `energy_mwh` (mean MW of the hour times the share), generation into `renewable_share`.

    Raises:
        SourceError: `NoData`, `RequestRefused`, `KeyRefused`, `MalformedPayload`, or that of the status.
    """
    config = own_config(ctx.config, Config)
    series: list[Series] = []
    kinds: set[str] = set()
    for body in _documents(raw):
        root = read_xml(raw, body)
        if local_name(root) == "Acknowledgement_MarketDocument":
            raise _acknowledged(raw, root)
        check_status(raw)
        if local_name(root) != "GL_MarketDocument":
            raise malformed(NAME, "neither load nor generation", "root", local_name(root))
        if child_text(root, "process.processType") not in (None, REALISED):
            raise malformed(NAME, "a forecast, not realised values (A16)", "process.processType")
        kinds.add(child_text(root, "type") or LOAD)
        series.extend(read_series(element) for element in children(root, "TimeSeries"))
    if len(kinds) > 1 or not kinds <= {LOAD, GENERATION}:
        raise malformed(NAME, "neither load (A65) nor generation (A75)", "type", ",".join(sorted(kinds)))
    generation = kinds == {GENERATION} or any(one.production_type for one in series)
    rows = RowCollector(raw, ctx, GENERATION_LATENCY if generation else LOAD_LATENCY)
    rows.notes = {"attribution": "ENTSO-E Transparency Platform"}
    if config.share < 1:
        rows.notes["share"] = f"{config.share:g}"
    usable = [one for one in series if one.unit in (None, MEGAWATT)]
    if len(usable) < len(series):
        rows.dropped["unknown_unit"] += len(series) - len(usable)
    missing = sum(one.missing for one in usable)
    if missing:
        rows.dropped["missing"] += missing
    if generation and rows.wants("renewable_share"):
        _add_generation(rows, usable)
    elif not generation and rows.wants("energy_mwh"):
        _add_load(rows, usable, config)
    return rows.parsed()


def _documents(raw: RawPayload) -> list[bytes]:
    """Return the XML documents of a body: itself, or the members of a zip archive.

    Raises:
        MalformedPayload: The archive is damaged (retryable), encrypted, or implausibly large.
    """
    if not raw.body.startswith(ZIP_MAGIC):
        return [raw.body]
    try:
        with zipfile.ZipFile(io.BytesIO(raw.body)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            # Each member ends where its header says, so the sum of the headers bounds what is unpacked.
            if sum(member.file_size for member in members) > UNZIPPED_BYTES_MAX:
                raise malformed(NAME, "the zip archive is implausibly large", "body", UNZIPPED_BYTES_MAX)
            return [archive.read(member) for member in members]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as failure:
        error = malformed(NAME, f"the zip archive cannot be read ({failure})", "body")
        error.retryable = True
        raise error from None


def _acknowledged(raw: RawPayload, root: Element) -> SourceError:
    """Return the error of an acknowledgement; code 999 stands for several, so the text decides."""
    reason = next(iter(children(root, "Reason")), None)
    words = (child_text(reason, "text") if reason is not None else None) or "no reason given"
    lowered = words.lower()
    if "no matching data" in lowered:
        return NoData(f"entsoe: {words}", source=NAME, field="Reason", value=words)
    if "security token" in lowered or "unauthorized" in lowered:
        return KeyRefused(f"entsoe: {words}", source=NAME, field="ENTSOE_API_KEY")
    if "too many requests" in lowered or "max allowed requests" in lowered:
        return RateLimited(f"entsoe: {words}", source=NAME, field="Reason", value=words)
    if raw.status != 400:
        check_status(raw)
    return RequestRefused(f"entsoe: {words}", source=NAME, field="Reason", value=words)


def _add_load(rows: RowCollector, series: list[Series], config: Config) -> None:
    """Take the hourly means of the load: MW over an hour are its MWh."""
    samples = [sample for one in series for sample in one.samples]
    positive = [sample for sample in samples if sample.value > 0]
    if len(positive) < len(samples):
        rows.dropped["not_positive"] += len(samples) - len(positive)
    flags = ["zone_share"] if config.share < 1 else []
    rows.add_means(positive, "energy_mwh", *flags, scale=config.share)


def _add_generation(rows: RowCollector, series: list[Series]) -> None:
    """Take the renewable share of generation of each hour in which no considerable type is missing."""
    by_type: dict[str, list[Sample]] = defaultdict(list)
    for one in series:
        if one.is_consumption:
            rows.dropped["consumption_series"] += 1
        elif one.production_type is not None and one.production_type not in STORAGE_TYPES:
            by_type[one.production_type].extend(one.samples)
    hours: dict[datetime, dict[str, float]] = defaultdict(dict)
    for production_type, samples in by_type.items():
        for hour, mean in hourly_means(rows.distinct(samples)).items():
            if mean.coverage >= COVERAGE_MIN:
                hours[hour][production_type] = max(mean.value, 0.0)
    needed = considerable_types(hours.values())
    for hour, present in sorted(hours.items()):
        total = sum(present.values())
        if not needed <= present.keys():
            rows.dropped["incomplete_mix"] += 1
        elif total <= 0:
            rows.dropped["no_generation"] += 1
        else:
            renewable = sum(value for name, value in present.items() if name in RENEWABLE_TYPES)
            rows.add(hour, "renewable_share", renewable / total)
