"""A small recorded-looking city for tests of features and evaluation: seeded, no files, no network."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd

from urbanwm.cities import City

START = datetime(2024, 1, 1, tzinfo=UTC)


def make_city(name: str = "testville", timezone: str = "Europe/Madrid", **fields: object) -> City:
    """Return a city without sources, with the public holidays of Madrid."""
    document: dict[str, object] = {
        "name": name,
        "timezone": timezone,
        "location": {"latitude": 40.4, "longitude": -3.7},
        "holidays": {"country": "ES", "subdivision": "MD"},
        "signals": {},
        **fields,
    }
    return City.model_validate(document)


def make_frame(hours: int, *, seed: int = 0, start: datetime = START) -> pd.DataFrame:
    """Return hourly observations with a daily and a weekly cycle and noise: targets, weather and NO2."""
    generator = np.random.default_rng(seed)
    index = pd.date_range(start, periods=hours, freq="h", unit="us", name="timestamp")
    hour, weekend = index.hour.to_numpy(), index.dayofweek.to_numpy() >= 5
    cycle = np.sin(2 * np.pi * (hour - 8) / 24)
    noise = generator.standard_normal((hours, 6))
    return pd.DataFrame(
        {
            "pm25": np.exp(2.3 + 0.3 * cycle + 0.3 * noise[:, 0]),
            "energy_mwh": 2000 + 400 * cycle - 300 * weekend + 50 * noise[:, 1],
            "traffic_index": np.clip(1 - 0.2 * weekend + 0.1 * noise[:, 2], 0, 2),
            "temperature_c": 15 + 5 * cycle + noise[:, 3],
            "wind_speed_ms": np.abs(2 + noise[:, 4]),
            "pressure_hpa": 940 + 3 * noise[:, 5],
            "no2": np.exp(3 + 0.2 * noise[:, 0]),
        },
        index=index,
    )
