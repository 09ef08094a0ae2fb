"""A simulation as the JSON document of `POST /api/simulate` (DESIGN §6)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbanwm.contracts.scenario import Simulation
from urbanwm.contracts.signals import TARGETS

INTERVAL = {"q05": 0.05, "q50": 0.50, "q95": 0.95}
PREFIX = {"pm25": "pm25", "energy_mwh": "energy", "traffic_index": "traffic"}
"""Short names of the signals in `…_std` and `…_q05`, as clients know them."""


def hourly_rows(members: NDArray[np.float64], times: Sequence[datetime]) -> list[dict[str, Any]]:
    """Return one row per hour: mean, standard deviation and quantiles; null for an unanswered signal."""
    columns: dict[str, list[Any]] = {
        "hour": list(range(len(times))),
        "timestamp": [time.isoformat() for time in times],
    }
    means, spreads = members.mean(axis=0), members.std(axis=0)
    quantiles = np.quantile(members, list(INTERVAL.values()), axis=0, method="hazen")
    for position, name in enumerate(TARGETS):
        columns[name] = means[:, position].tolist()
    for position, name in enumerate(TARGETS):
        columns[f"{PREFIX[name]}_std"] = spreads[:, position].tolist()
        for row, label in enumerate(INTERVAL):
            columns[f"{PREFIX[name]}_{label}"] = quantiles[row, :, position].tolist()
    for position, name in enumerate(TARGETS):
        if np.isnan(means[:, position]).any():
            for column in (name, *(f"{PREFIX[name]}_{end}" for end in ("std", *INTERVAL))):
                columns[column] = [None] * len(times)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def to_response(simulation: Simulation) -> dict[str, Any]:
    """Return the answer of `POST /api/simulate` (DESIGN §6): JSON-ready, every number finite or null."""
    return {
        "city": simulation.city,
        "start": simulation.start.isoformat(),
        "horizon": simulation.horizon_hours,
        "policy": simulation.policy.model_dump(mode="json"),
        "simulated": hourly_rows(simulation.scenario, simulation.timestamps),
        "baseline": hourly_rows(simulation.baseline, simulation.timestamps),
        "effect": simulation.effect,
        "meta": simulation.meta,
    }
