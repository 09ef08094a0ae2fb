"""The lake: one Delta table of hourly observations, one of forecasts, and the only code that writes them."""

from urbanwm.lake.forecasts import Forecasts
from urbanwm.lake.reader import LakeReader
from urbanwm.lake.records import Records
from urbanwm.lake.stored import NO_TABLE
from urbanwm.lake.table import Commit, Lake

__all__ = ["NO_TABLE", "Commit", "Forecasts", "Lake", "LakeReader", "Records"]
