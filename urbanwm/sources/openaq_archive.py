"""OpenAQ's public archive: one gzipped CSV per station and local day; a stamp ENDS its interval."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise

from urbanwm.sources.base import RawPayload
from urbanwm.sources.body import decode_text, malformed, read_number, read_utc
from urbanwm.sources.collect import HOUR, RowCollector, Sample
from urbanwm.sources.geo import read_place, require_near
from urbanwm.sources.openaq_values import convert

GZIP_MAGIC = b"\x1f\x8b"
FIRST_COLUMN = b"location_id"
COLUMNS = frozenset({"datetime", "parameter", "units", "value"})
BYTES_MAX = 64 << 20  # a station's day is some kilobytes; this only stops a decompression bomb


def is_archive_file(body: bytes) -> bool:
    """Return whether a body is an archive file, gzipped or unpacked."""
    return body.startswith(GZIP_MAGIC) or body.lstrip(b'\xef\xbb\xbf"').startswith(FIRST_COLUMN)


def add_archive(rows: RowCollector, *, max_distance_km: float) -> None:
    """Read an archive file into hourly means of one sensor per signal.

    Raises:
        MalformedPayload: The file is damaged, or lacks a column.
        StationTooFar: Its station is farther from the city than `max_distance_km`.
    """
    reader = csv.DictReader(io.StringIO(_text(rows.raw)))
    if not set(reader.fieldnames or ()) >= COLUMNS:
        raise malformed(rows.raw.source, "the archive file lacks a column", "columns", reader.fieldnames)
    readings: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for record in reader:
        place = read_place(read_number(record.get("lat")), read_number(record.get("lon")))
        require_near(rows.raw.source, rows.ctx, place, max_distance_km=max_distance_km, field="lat,lon")
        end = read_utc(record["datetime"])
        if end is None:
            rows.dropped["no_time"] += 1
            continue
        converted = convert(rows, record["parameter"], record["units"], record["value"])
        if converted is not None:
            sensor = str(record.get("sensors_id"))
            readings[converted.signal][sensor].append(Sample(end, HOUR, converted.value, converted.flags))
    for signal, sensors in readings.items():
        # A station with two sensors would otherwise interleave two series.
        chosen = min(sensors)
        length = _interval_length(sample.start for sample in sensors[chosen])
        rows.add_means(
            [sample._replace(start=sample.start - length, length=length) for sample in sensors[chosen]],
            signal,
        )
        others = sum(len(samples) for sensor, samples in sensors.items() if sensor != chosen)
        if others:
            rows.dropped["other_sensor"] += others


def _interval_length(ends: Iterable[datetime]) -> timedelta:
    """Return the interval of a series: the smallest step between its stamps, an hour at most."""
    ordered = sorted(set(ends))
    return min([HOUR, *(later - earlier for earlier, later in pairwise(ordered))])


def _text(raw: RawPayload) -> str:
    """Return the file's text.

    Raises:
        MalformedPayload: Cut off or damaged (retryable), or implausibly large.
    """
    if not raw.body.startswith(GZIP_MAGIC):
        return decode_text(raw)
    try:
        with gzip.open(io.BytesIO(raw.body)) as file:
            content = file.read(BYTES_MAX + 1)
        if len(content) <= BYTES_MAX:
            return content.decode("utf-8-sig")
    except (EOFError, OSError, zlib.error, UnicodeDecodeError):
        error = malformed(raw.source, "the archive file is damaged", "body")
        error.retryable = True
        raise error from None
    raise malformed(raw.source, "the archive file is implausibly large", "body", BYTES_MAX)
