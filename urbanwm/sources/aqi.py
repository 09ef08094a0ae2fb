"""The US-EPA air quality index of PM2.5 and back: two tables of break points, before and since 6 May 2024.

Source of the break points: US EPA, 40 CFR 58 App. G, the rule of 2012 and the rule effective 2024-05-06.
EPA made the index for 24-hour means; WAQI applies it to single hours: theirs is no "daily AQI".
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

AqiTable = Literal["pre_2024", "2024"]

INDEX_TOP = 500.0
# (lowest index, highest index, lowest µg/m³, highest µg/m³) of each band.
_Band = tuple[float, float, float, float]
BANDS: dict[AqiTable, tuple[_Band, ...]] = {
    "pre_2024": (
        (0, 50, 0.0, 12.0),
        (51, 100, 12.1, 35.4),
        (101, 150, 35.5, 55.4),
        (151, 200, 55.5, 150.4),
        (201, 300, 150.5, 250.4),
        (301, 400, 250.5, 350.4),
        (401, 500, 350.5, 500.4),
    ),
    "2024": (
        (0, 50, 0.0, 9.0),
        (51, 100, 9.1, 35.4),
        (101, 150, 35.5, 55.4),
        (151, 200, 55.5, 125.4),
        (201, 300, 125.5, 225.4),
        (301, 500, 225.5, 325.4),
    ),
}
_CORNERS = {
    table: (
        np.array([corner for band in bands for corner in band[:2]], dtype=float),
        np.array([corner for band in bands for corner in band[2:]], dtype=float),
    )
    for table, bands in BANDS.items()
}


def aqi_to_pm25(index: float, table: AqiTable = "pre_2024") -> float:
    """Return the PM2.5 concentration (µg/m³) that an AQI sub-index stands for.

    The inverse is exact to about half an index point: ±0.12 µg/m³ below 50, ±1 µg/m³ in 151-200. Between two
    bands (an index of 50.4, from a mean of indices) the value is interpolated; above 500 the last slope
    goes on. A negative or non-finite index has no concentration: NaN.
    """
    if not math.isfinite(index) or index < 0:
        return math.nan
    indices, concentrations = _CORNERS[table]
    if index > INDEX_TOP:
        slope = (concentrations[-1] - concentrations[-2]) / (indices[-1] - indices[-2])
        return float(concentrations[-1] + slope * (index - INDEX_TOP))
    return float(np.interp(index, indices, concentrations))


def pm25_to_aqi(concentration: float, table: AqiTable = "pre_2024") -> float:
    """Return the AQI sub-index of a PM2.5 concentration (µg/m³), a whole number, as EPA computes it.

    The concentration is truncated to 0.1 µg/m³ and the index rounded half up; above the table the last slope
    goes on. A negative or non-finite concentration has no index: NaN.
    """
    if not math.isfinite(concentration) or concentration < 0:
        return math.nan
    # 35.4 is stored as 35.39999…: the tiny allowance keeps truncation from losing a tenth.
    truncated = math.floor(concentration * 10 + 1e-6) / 10
    low, high, from_, to = next((band for band in BANDS[table] if truncated <= band[3]), BANDS[table][-1])
    return float(math.floor((high - low) / (to - from_) * (truncated - from_) + low + 0.5))
