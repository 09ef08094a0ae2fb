"""Nowcasts and forecasts that were just made, kept for the next question about the same hours."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Generic, TypeVar, cast

import pandas as pd

from urbanwm.cities import City
from urbanwm.contracts.scenario import Forecast, InitialState, ServedBy
from urbanwm.errors import DataUnavailable
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.nowcast import Kept as OfModel
from urbanwm.nowcast import Nowcast, Past
from urbanwm.simulator import Forecaster

FORECASTS_LIMIT_BYTES = 8 * 1024 * 1024
NOWCASTS_LIMIT_BYTES = 8 * 1024 * 1024
"""About 28 nowcasts of a week with their latent states: so many cities, or starts, that are asked about."""
PAST_BYTES = 4096
"""Some dictionaries of a dozen names."""

Kept = TypeVar("Kept", Forecast, Past | Nowcast)


class _Recent(Generic[Kept]):
    """The most recently used results, bounded by the bytes of their arrays."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """Return what is kept under `key`, else make it; two threads may make the same one at once."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = make()
        with self._lock:
            if key not in self._kept and _size(made) <= self._limit_bytes:
                self._kept[key] = made
                self._bytes += _size(made)
                while self._bytes > self._limit_bytes:
                    self._bytes -= _size(self._kept.popitem(last=False)[1])
        return made


def _size(result: Forecast | Past | Nowcast) -> int:
    """Return the bytes that the arrays take."""
    if isinstance(result, Past):
        return PAST_BYTES
    first = result.members if isinstance(result, Forecast) else result.quantiles
    return sum(array.nbytes for array in (first, result.z, result.h) if array is not None)


class ForecastMemory:
    """What does not depend on the policy, kept until it is the least recently used.

    A nowcast (the past filtered, the coming week rolled out) serves every horizon, seed and number of
    samples; a forecast serves an analyst who moves a slider. Both are made from seeds, so a kept one equals
    a new one, byte for byte. The keys hold model, city and reading of the lake: a new one of these never
    meets what was made from the old.
    """

    def __init__(
        self,
        forecasts_limit_bytes: int = FORECASTS_LIMIT_BYTES,
        nowcasts_limit_bytes: int = NOWCASTS_LIMIT_BYTES,
    ) -> None:
        """Start empty."""
        self.forecasts: _Recent[Forecast] = _Recent(forecasts_limit_bytes)
        self.nowcasts: _Recent[Past | Nowcast] = _Recent(nowcasts_limit_bytes)


class RememberingForecaster:
    """A forecaster for one request: asks the memory first, and notes why a model declined.

    Attributes:
        lacked_data: The forecaster said that it has too little data.
    """

    def __init__(self, forecaster: Forecaster, memory: ForecastMemory, identity: Hashable) -> None:
        """Forecast with `forecaster`; `identity` names model, city and data version."""
        self._forecaster = forecaster
        self._memory = memory
        self._identity = identity
        self.lacked_data = False

    @property
    def served_by(self) -> ServedBy:
        """The name under which it answers."""
        return self._forecaster.served_by

    def forecast(
        self,
        history: pd.DataFrame | None,
        city: City,
        start: datetime,
        horizon_hours: int,
        samples: int,
        seed: int,
        initial_state: InitialState | None = None,
    ) -> Forecast:
        """Return members `(samples, horizon_hours, 3)` of the status quo; see `Forecaster.forecast`."""
        question = (start, horizon_hours, samples, seed, initial_state)

        def make() -> Forecast:
            if isinstance(self._forecaster, WorldModelForecaster):
                return self._forecaster.forecast(history, city, *question, remember=self._remember)
            return self._forecaster.forecast(history, city, *question)

        try:
            return self._memory.forecasts.get((self._identity, question), make)
        except DataUnavailable:
            self.lacked_data = True
            raise

    def _remember(self, key: Hashable, make: Callable[[], OfModel]) -> OfModel:
        """Keep what this model makes of this city and data version apart from all others."""
        return cast("OfModel", self._memory.nowcasts.get((self._identity, key), make))
