"""A batch of model inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """B windows of C context hours followed by H horizon hours, T = C + H; float32 arrays.

    What lies in the horizon of `observed` and `target` is the future: for the loss and the scores only.
    `known`, `action` and `skip` are point-in-time everywhere: no value at or after the origin enters them.

    Attributes:
        observed: `(batch, time, feature)` normalised measurements, 0 where missing.
        observed_mask: `(batch, time, feature)` 1.0 = present.
        known: `(batch, time, known)` inputs known ahead: calendar, lead, history of the targets.
        action: `(batch, time, action)` policy levers (urban: difference from the status quo).
        target: `(batch, time, 3)` normalised targets, 0 where missing.
        target_mask: `(batch, time, 3)` 1.0 = present.
        skip: `(batch, time, 3, skip)` seasonal predictions per target, normalised, for a linear skip path.
        hourly: `(batch, time, HOURLY_HOURS)` the scaled `HOURLY_TARGET` in the hours before, newest first;
            what similar days had where it is missing.
        usual: `(batch, time)` what the traffic level is divided by to give the index (see `usual.py`).
        local_hour: `(batch, time)` hour of the city's day, 0-23.
        city_index: `(batch,)` position of the city in `FeatureSpec.cities`, -1 for a city never seen.
        context_hours: C.
    """

    observed: Float
    observed_mask: Float
    known: Float
    action: Float
    target: Float
    target_mask: Float
    skip: Float
    hourly: Float
    usual: Float
    local_hour: NDArray[np.int64]
    city_index: NDArray[np.int64]
    context_hours: int

    @property
    def horizon_hours(self) -> int:
        """Return H."""
        return int(self.observed.shape[1]) - self.context_hours

    @classmethod
    def arrays(cls) -> list[str]:
        """Return the names of the fields that have a row for each window."""
        return [field.name for field in fields(cls) if field.name != "context_hours"]

    def each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Windows:
        """Return the windows with every array changed."""
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in self.arrays()}
        return replace(self, **changed)

    def rows(self, which: slice) -> Windows:
        """Return some of the windows."""
        return self.each(lambda array: array[which])

    def __len__(self) -> int:
        """Return B."""
        return int(self.observed.shape[0])
