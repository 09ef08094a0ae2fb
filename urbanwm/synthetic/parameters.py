"""What is true in the simulated city: every structural coefficient, with its unit and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray


def _profile(text: str) -> NDArray[np.float64]:
    """Read 24 hourly values, 1.0 = the workday's mean."""
    return np.array(text.split(), dtype=np.float64)


WORKDAY_TRAFFIC = _profile(
    "0.28 0.17 0.13 0.13 0.22 0.50 1.00 1.55 1.70 1.45 1.30 1.30 "
    "1.32 1.32 1.35 1.45 1.60 1.72 1.60 1.30 1.00 0.75 0.55 0.40"
)
REST_DAY_TRAFFIC = _profile(
    "0.45 0.33 0.25 0.19 0.17 0.19 0.28 0.40 0.55 0.75 0.95 1.10 "
    "1.15 1.10 1.05 1.05 1.08 1.10 1.08 1.00 0.85 0.68 0.50 0.35"
)
WORKDAY_LOAD = _profile(
    "0.78 0.74 0.72 0.71 0.73 0.80 0.92 1.04 1.11 1.13 1.13 1.13 "
    "1.12 1.11 1.09 1.08 1.08 1.10 1.14 1.16 1.13 1.05 0.95 0.85"
)
REST_DAY_LOAD = _profile(
    "0.74 0.70 0.67 0.65 0.65 0.67 0.71 0.77 0.84 0.90 0.93 0.94 "
    "0.94 0.92 0.90 0.89 0.90 0.94 0.99 1.01 0.98 0.92 0.85 0.77"
)


@dataclass(frozen=True)
class CityParameters:
    """Structural coefficients of the simulated city: the truth that an estimate can be held against.

    Effects of measures act on the level that a signal tends to, never on the level it has: a measure that
    lasts does not drive it to zero. The effect sizes are the reference's: pm25 (1 - 0.25 renewable - 0.30
    car_free), energy (1 - 0.15 renewable), traffic (1 - car_free); PM2.5 follows with a memory, and only in
    its local part. The wind is a confounder: it raises the renewable share and it clears the air.

    Attributes:
        pm25_background: PM2.5 that no local measure can lower, µg/m³.
        pm25_local: Mean local contribution in average weather, µg/m³.
        pm25_traffic_part: Share of the local contribution that follows the usual traffic of the hour.
        pm25_heating_per_c: Relative increase of local emissions per °C below `heating_below_c`.
        pm25_memory: Share of the local contribution that is still there an hour later.
        pm25_wind_exponent: Local contribution ~ wind speed to this power (the air-cleaning half of the wind).
        pm25_mixing_exponent: Local contribution ~ boundary layer height to this power.
        pm25_washout_per_mm: Log decrease per mm of rain in the hour.
        pm25_noise: Standard deviation of the unexplained log contribution.
        pm25_per_renewable_share: Relative effect of +1.0 renewable share on the local contribution.
        pm25_per_car_free: Relative effect of +1.0 car-free ratio on the local contribution.
        energy_level_mwh: Mean demand of a workday in mild weather without renewables, MWh per hour.
        energy_heating_per_c: Relative increase per °C below `heating_below_c`.
        energy_cooling_per_c: Relative increase per °C above `cooling_above_c`.
        energy_noise: Standard deviation of the unexplained log demand.
        energy_per_renewable_share: Relative effect of +1.0 renewable share on demand.
        heating_below_c: Outdoor temperature below which is heated, °C.
        cooling_above_c: Outdoor temperature above which is cooled, °C.
        traffic_level: Mean volume of a workday, veh/h.
        traffic_noise: Standard deviation of the unexplained log volume.
        traffic_per_rain_mm: Log decrease per mm of rain in the hour.
        traffic_summer_dip: Relative decrease at the height of summer.
        traffic_special_day: Relative decrease on bridge days and around New Year.
        traffic_per_car_free: Relative effect of +1.0 car-free ratio on volume.
        renewable_status_quo: Mean renewable share without a measure.
        renewable_per_wind: Increase of the share per m/s of wind above the usual (the other half).
        renewable_per_sun: Increase of the share from night to full sun.
        renewable_noise: Standard deviation of the unexplained share.
        spell_probability: Chance that a lever is in force during a spell; 0 = nothing is ever tried.
        regime_change: Standard deviation of the log level that each target takes on for a regime of about
            two months, then leaves for another: a closed plant, a new ring road. 0 = one regime for ever.
    """

    pm25_background: float = 3.0
    pm25_local: float = 13.0
    pm25_traffic_part: float = 0.4
    pm25_heating_per_c: float = 0.05
    pm25_memory: float = 0.85
    pm25_wind_exponent: float = -0.6
    pm25_mixing_exponent: float = -0.35
    pm25_washout_per_mm: float = 0.15
    pm25_noise: float = 0.25
    pm25_per_renewable_share: float = -0.25
    pm25_per_car_free: float = -0.30
    energy_level_mwh: float = 1280.0
    energy_heating_per_c: float = 0.010
    energy_cooling_per_c: float = 0.018
    energy_noise: float = 0.02
    energy_per_renewable_share: float = -0.15
    heating_below_c: float = 15.0
    cooling_above_c: float = 21.0
    traffic_level: float = 60_000.0
    traffic_noise: float = 0.06
    traffic_per_rain_mm: float = 0.03
    traffic_summer_dip: float = 0.08
    traffic_special_day: float = 0.15
    traffic_per_car_free: float = -1.0
    renewable_status_quo: float = 0.42
    renewable_per_wind: float = 0.05
    renewable_per_sun: float = 0.15
    renewable_noise: float = 0.04
    spell_probability: float = 0.0
    regime_change: float = 0.0


PROFILES: dict[str, CityParameters] = {
    "demo": CityParameters(),
    "measures": CityParameters(spell_probability=0.5),
}
"""`demo` never tried a measure; in `measures` the levers come and go, so that effects can be learnt."""


@dataclass(frozen=True)
class Intervention:
    """Levers held at a level from an instant on; None leaves a lever as it would have been.

    Attributes:
        start: First hour, UTC.
        car_free_ratio: Level, 0-1.
        renewable_mix: Level, 0-1.
        end: The hour after the last; None = it lasts.
        hours: Local hours of day (0-23) in which the levers are held; empty = all.
    """

    start: datetime
    car_free_ratio: float | None = None
    renewable_mix: float | None = None
    end: datetime | None = None
    hours: tuple[int, ...] = ()
