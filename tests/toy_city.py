"""A small simulated city and a stand-in for a model bundle, for tests of what happens after training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from urbanwm.cities import City
from urbanwm.contracts.signals import QUANTILE_LEVELS
from urbanwm.features import FeatureSpec, Windows, build_spec
from urbanwm.features.names import skip_names

END = datetime(2026, 3, 2, 23, tzinfo=UTC)
"""The hour after the last one: a local midnight."""
LATENT, HIDDEN = 128, 256


def toy_city(**changes: Any) -> City:
    """Return a city in a time zone with an offset, without sources."""
    fields = {
        "name": "toy",
        "timezone": "Europe/Madrid",
        "location": {"latitude": 40.4, "longitude": -3.7},
        "signals": {},
    }
    return City(**(fields | changes))


def toy_history(days: int = 60, seed: int = 0, end: datetime = END) -> pd.DataFrame:
    """Return hourly signals with a shape of the day, a level that wanders, and noise."""
    generator = np.random.default_rng(seed)
    index = pd.date_range(
        end - timedelta(days=days), end, freq="h", inclusive="left", tz="UTC", name="timestamp"
    )
    hour = index.tz_convert("Europe/Madrid").hour.to_numpy()
    wander = np.cumsum(generator.normal(0, 0.05, len(index)))
    wander -= np.linspace(wander[0], wander[-1], len(index))
    pm25 = 12 * np.exp(0.3 * np.cos(2 * np.pi * (hour - 8) / 24) + 0.5 * np.tanh(wander))
    return pd.DataFrame(
        {
            "pm25": pm25 * np.exp(generator.normal(0, 0.1, len(index))),
            "energy_mwh": 1000
            + 200 * np.sin(2 * np.pi * (hour - 9) / 24)
            + generator.normal(0, 20, len(index)),
            "traffic_index": np.clip(1 + generator.normal(0, 0.08, len(index)), 0, 2),
            "renewable_share": np.clip(0.4 + 0.1 * np.tanh(wander), 0, 1),
        },
        index=index,
    )


class Rollout(NamedTuple):
    """What `imagine` returns."""

    output: np.ndarray
    h: np.ndarray
    z: np.ndarray


@dataclass
class ToyBundle:
    """Answers with similar-day means, a spread that grows, and a little latent noise."""

    spec: FeatureSpec
    calibration: dict[str, Any] = field(default_factory=dict)
    experiment: dict[str, Any] = field(default_factory=lambda: {"model": {"latent_dim": LATENT}})
    broken: bool = False

    @classmethod
    def of(cls, history: pd.DataFrame, city: City) -> ToyBundle:
        """Return a bundle whose scales come from `history`."""
        return cls(build_spec("urban", {city.name: history}, {city.name: city}, None, 48, 48))

    def filter(self, windows: Windows, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return states that remember how much of the context was seen."""
        seen = windows.observed_mask[:, : windows.context_hours, :3].mean(axis=(1, 2))
        h = np.repeat(seen[:, None], HIDDEN, axis=1).astype(np.float32)
        return h, noise[:, -1].astype(np.float32)

    def imagine(self, h, z, known, action, skip, noise) -> Rollout:
        """Return quantiles around the mean of the last similar days, wider where less was seen."""
        centre = skip[..., skip_names().index("similar_8")][..., None]
        lead = np.arange(skip.shape[1], dtype=np.float32)[:, None, None]
        spread = (0.3 + 0.002 * lead) * (2.0 - h[:, :1, None, None])
        normal = np.array([-1.645, -1.282, -0.674, 0.0, 0.674, 1.282, 1.645], dtype=np.float32)
        wobble = 0.02 * noise[:, :, :3, None]
        output = centre + wobble + spread * normal
        if self.broken:
            output = output * np.nan
        assert output.shape[-1] == len(QUANTILE_LEVELS)
        states = np.repeat(h[:, None], skip.shape[1], axis=1)
        return Rollout(output.astype(np.float32), states, noise.astype(np.float32))

    def with_calibration(self, calibration: dict[str, Any]) -> ToyBundle:
        """Return the same model with a calibration."""
        return replace(self, calibration=calibration)
