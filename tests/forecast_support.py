"""Tables of forecasts for tests of scores and of the gate: seeded, with errors that last for days."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.contracts.signals import QUANTILE_LEVELS
from urbanwm.evaluation.forecasts import COLUMNS, QUANTILE_COLUMNS

SIGNALS = ("pm25", "energy_mwh", "traffic_index")
HORIZON = 48
# Standard normal quantiles of the seven levels: a calibrated forecast of a unit-variance error.
NORMAL_QUANTILES = np.array([-1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449])
LAST_DAYS = 0.5  # Correlation of a day's error level with the day before.


def truth(days: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return observed values and a good median `(days, 48, 3)`; errors vary in size from day to day."""
    generator = np.random.default_rng([seed, 1])
    size = np.exp(0.5 * _persistent(generator, days))
    median = 50.0 + 10.0 * np.sin(np.arange(HORIZON) / 24 * 2 * np.pi)[None, :, None] * np.ones((days, 1, 3))
    error = generator.standard_normal((days, HORIZON, 3)) * size[:, None, :]
    return median + error, median


def forecasts(
    days: int,
    *,
    seed: int = 0,
    noise: float = 0.0,
    noise_seed: int = 0,
    factor: float | tuple[float, float, float] = 1.0,
) -> pd.DataFrame:
    """Return a table of forecasts of the same truth for each `seed`.

    Args:
        days: Origins.
        seed: Of the truth.
        noise: Day-long shift of the forecast in standard deviations: what re-seeding a training run does.
        noise_seed: Of that shift.
        factor: Errors (and so the CRPS) are multiplied by this, per signal.
    """
    return table(*drawn(days, seed=seed, noise=noise, noise_seed=noise_seed, factor=factor))


def drawn(
    days: int,
    *,
    seed: int = 0,
    noise: float = 0.0,
    noise_seed: int = 0,
    factor: float | tuple[float, float, float] = 1.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what `forecasts` tabulates: observed `(days, 48, 3)` and quantiles `(days, 48, 3, 7)`."""
    observed, median = truth(days, seed)
    shift = noise * _persistent(np.random.default_rng([noise_seed, 2]), days)[:, None, :]
    quantiles = (median + shift)[..., None] + NORMAL_QUANTILES
    scale = np.broadcast_to(np.asarray(factor, dtype=np.float64), (3,))[None, None, :, None]
    return observed, observed[..., None] + scale * (quantiles - observed[..., None])


def table(observed: NDArray[np.float64], quantiles: NDArray[np.float64]) -> pd.DataFrame:
    """Lay `(days, 48, 3)` observations and `(days, 48, 3, 7)` quantiles out as the contract's table."""
    days = len(observed)
    origin = pd.date_range("2024-01-01", periods=days, freq="D", tz="UTC").repeat(HORIZON * 3)
    lead = np.tile(np.arange(1, HORIZON + 1).repeat(3), days)
    flat = quantiles.reshape(-1, len(QUANTILE_LEVELS))
    frame = pd.DataFrame(dict(zip(QUANTILE_COLUMNS, flat.T, strict=True)))
    frame = frame.assign(
        city="testville",
        origin=origin,
        timestamp=origin + pd.to_timedelta(lead - 1, unit="h"),
        lead_hours=lead,
        signal=np.tile(np.array(SIGNALS, dtype=object), days * HORIZON),
        mean=frame["q50"],
        observed=observed.reshape(-1),
    )
    return frame[list(COLUMNS)]


def _persistent(generator: np.random.Generator, days: int) -> NDArray[np.float64]:
    """Return a standard normal level per day and signal that lasts for days, `(days, 3)`."""
    level = generator.standard_normal((days, 3))
    for day in range(1, days):
        level[day] = LAST_DAYS * level[day - 1] + np.sqrt(1 - LAST_DAYS**2) * level[day]
    return level
