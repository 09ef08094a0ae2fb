"""The lake: one Delta table of hourly observations, and the only code that writes it."""

from urbanwm.lake.reader import NO_TABLE, LakeReader
from urbanwm.lake.table import Commit, Lake

__all__ = ["NO_TABLE", "Commit", "Lake", "LakeReader"]
