"""The one vocabulary: every signal and action, with unit, range and meaning (DESIGN §3)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["target", "grid", "traffic", "weather", "pollutant"]


@dataclass(frozen=True)
class Signal:
    """One measured quantity.

    Attributes:
        name: Column name everywhere: lake, features, HTTP.
        unit: Physical unit of the value.
        minimum: Smallest value that can be true; below it a value is dropped and counted.
        maximum: Largest value that a forecast may hold, and an observation without a flag.
        kind: What family it belongs to.
        meaning: One line for people.
        measurable: Largest value that an instrument can report; above it an observation is dropped and
            counted, between `maximum` and it flagged `extreme`. None: `maximum`.
    """

    name: str
    unit: str
    minimum: float
    maximum: float
    kind: Kind
    meaning: str
    measurable: float | None = None

    @property
    def highest(self) -> float:
        """The largest observation that is kept."""
        return self.maximum if self.measurable is None else self.measurable


PM25_FULL_SCALE = 10_000.0
"""µg/m³: the widest range of beta attenuation monitors. Smoke, dust and fireworks do pass 1,000."""

_ALL = (
    Signal("pm25", "µg/m³", 0.0, 1000.0, "target", "PM2.5 mass concentration, hourly mean", PM25_FULL_SCALE),
    Signal(
        "energy_mwh", "MWh", 0.0, 1e7, "target", "electricity used in the hour by the city, or zone × share"
    ),
    Signal(
        "traffic_index", "1", 0.0, 2.0, "target", "traffic volume ÷ usual value for that hour of the week"
    ),
    Signal("renewable_share", "1", 0.0, 1.0, "grid", "observed renewable share of generation"),
    Signal("carbon_intensity_g_kwh", "g/kWh", 0.0, 2000.0, "grid", "CO2 per kWh generated"),
    Signal(
        "traffic_volume", "veh/h", 0.0, 1e8, "traffic", "traffic volume before division by its usual value"
    ),
    Signal("temperature_c", "°C", -90.0, 60.0, "weather", "air temperature at 2 m"),
    Signal("wind_speed_ms", "m/s", 0.0, 120.0, "weather", "wind speed at 10 m"),
    Signal("humidity_pct", "%", 0.0, 100.0, "weather", "relative humidity at 2 m"),
    Signal(
        "pressure_hpa", "hPa", 500.0, 1100.0, "weather", "air pressure (surface or sea level: see the source)"
    ),
    Signal("precipitation_mm", "mm", 0.0, 500.0, "weather", "precipitation in the hour"),
    Signal(
        "boundary_layer_height_m", "m", 0.0, 10000.0, "weather", "height of the atmospheric boundary layer"
    ),
    Signal("no2", "µg/m³", 0.0, 2000.0, "pollutant", "NO2 mass concentration, hourly mean"),
)

SIGNALS: dict[str, Signal] = {signal.name: signal for signal in _ALL}
TARGETS: tuple[str, str, str] = ("pm25", "energy_mwh", "traffic_index")
TRAFFIC_INDEX, TRAFFIC_VOLUME = "traffic_index", "traffic_volume"
WEATHER: tuple[str, ...] = tuple(signal.name for signal in _ALL if signal.kind == "weather")
ACTIONS: tuple[str, str] = ("car_free_ratio", "renewable_mix")
QUANTILE_LEVELS: tuple[float, ...] = (0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95)
MEDIAN = QUANTILE_LEVELS.index(0.5)
"""Place of the median among them."""

HORIZON_HOURS_MAX = 168
FORECAST_DAYS = HORIZON_HOURS_MAX // 24
"""Days ahead up to which weather forecasts are looked at."""
SAMPLES_MAX = 200
FACTOR_MIN, FACTOR_MAX = 0.5, 1.5


def forecast_column(signal: str, day: int) -> str:
    """Return the column of a record that holds forecasts of a signal, `day` 1 to `FORECAST_DAYS`.

    At hour t it has the newest forecast of t that was available 24 · day hours before t: whatever the
    origin, the forecast of its hours 24 · (day - 1) to 24 · day - 1 ahead was known there.
    """
    return f"{signal}_forecast_{day}d"


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the valid name closest to `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.6)
    return matches[0] if matches else None
