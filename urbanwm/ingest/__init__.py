"""From upstreams to the lake: fetched, archived raw, parsed, checked, merged."""

from urbanwm.ingest.gather import Progress, gather_city
from urbanwm.ingest.maintain import LakeUpkeep, maintain_lake
from urbanwm.ingest.raw_archive import RawArchive
from urbanwm.ingest.report import IngestReport
from urbanwm.ingest.run import Runner, city_now, ingest_cities, ingest_city, merge_cities
from urbanwm.ingest.store import Gathered

__all__ = [
    "Gathered",
    "IngestReport",
    "LakeUpkeep",
    "Progress",
    "RawArchive",
    "Runner",
    "city_now",
    "gather_city",
    "ingest_cities",
    "ingest_city",
    "maintain_lake",
    "merge_cities",
]
