"""Latent states in two dimensions, for people to look at."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbanwm.cities import City
from urbanwm.contracts.scenario import Simulation
from urbanwm.contracts.signals import TARGETS

PARTS_OF_DAY = ((6, "night"), (10, "morning"), (16, "midday"), (21, "evening"), (24, "night"))
"""Local hour (exclusive) at which each part of the day ends."""
FIRST_WEEKEND_DAY = 5


def sample_points(simulation: Simulation, city: City) -> list[dict[str, Any]]:
    """Return one point per simulated hour.

    `x` and `y` are the first two principal components of the stochastic latents z; `label` names the local
    time; `weight` is the hour's PM2.5 between the lowest (0) and highest (1) of the sample, 0.5 without one.
    """
    if simulation.latents is None:
        raise ValueError("a simulation without latents has no sample")
    places = principal_components(simulation.latents[0][1:])
    weights = _weights(simulation.baseline[..., TARGETS.index("pm25")].mean(axis=0))
    labels = [_label(time.astimezone(city.zone)) for time in simulation.timestamps]
    return [
        {"x": float(x), "y": float(y), "label": label, "weight": float(weight)}
        for (x, y), label, weight in zip(places, labels, weights, strict=True)
    ]


def principal_components(states: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the first two principal components of `(hours, features)`, as `(hours, 2)`.

    The sign of a component is arbitrary; it is fixed so that its largest loading is positive, which makes the
    picture the same every time.
    """
    centred = states.astype(np.float64) - states.mean(axis=0, dtype=np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = np.pad(axes, ((0, max(0, 2 - len(axes))), (0, 0)))[:2]
    largest = axes[np.arange(2), np.abs(axes).argmax(axis=1)]
    return np.asarray(centred @ (axes * np.where(largest < 0, -1.0, 1.0)[:, None]).T, dtype=np.float64)


def _weights(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale to 0…1."""
    spread = np.ptp(values)
    if not np.isfinite(spread) or spread == 0:
        return np.full(len(values), 0.5)
    return np.asarray((values - values.min()) / spread, dtype=np.float64)


def _label(local: datetime) -> str:
    """Name a local time, such as "weekday morning"."""
    part = next(name for end, name in PARTS_OF_DAY if local.hour < end)
    return f"{'weekend' if local.weekday() >= FIRST_WEEKEND_DAY else 'weekday'} {part}"
