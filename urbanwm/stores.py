"""The tables of the lake that the settings name."""

from __future__ import annotations

from urbanwm.lake import Forecasts, Lake, Records
from urbanwm.settings import Settings


def lake_of(settings: Settings) -> Lake:
    """Return the observations."""
    return Lake(settings.lake_uri, settings.storage_options)


def forecasts_of(settings: Settings) -> Forecasts:
    """Return the forecasts of the sources."""
    return Forecasts(settings.lake_forecasts_uri, settings.storage_options)


def records_of(settings: Settings) -> Records:
    """Return the observations for reading, with what was forecast of each hour beside them."""
    return Records(settings.lake_uri, settings.lake_forecasts_uri, settings.storage_options)
