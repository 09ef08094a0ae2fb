"""From upstreams to the lake: fetched, archived raw, parsed, checked, merged."""

from urbanwm.ingest.raw_archive import RawArchive
from urbanwm.ingest.report import IngestReport
from urbanwm.ingest.run import Progress, city_now, ingest_city

__all__ = ["IngestReport", "Progress", "RawArchive", "city_now", "ingest_city"]
