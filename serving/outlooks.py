"""Forecasts that were just made, kept for the next question about the same hours."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from datetime import datetime

import pandas as pd

from urbanwm.cities import City
from urbanwm.contracts.scenario import Forecast, InitialState, ServedBy
from urbanwm.errors import DataUnavailable
from urbanwm.simulator import Forecaster

MEMORY_LIMIT_BYTES = 16 * 1024 * 1024


class ForecastMemory:
    """The most recently used forecasts, bounded by their size.

    A forecast of the status quo does not depend on the policy: an analyst who moves a slider asks for the
    same one again and again. It is made from a seed, so a kept one equals a new one, byte for byte.
    """

    def __init__(self, limit_bytes: int = MEMORY_LIMIT_BYTES) -> None:
        """Start empty."""
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[Hashable, Forecast] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Forecast | None:
        """Return the forecast kept under `key`."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, forecast: Forecast) -> None:
        """Keep a forecast and forget the least recently used beyond the limit."""
        size = _size(forecast)
        if size > self._limit_bytes:
            return
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = forecast
            self._bytes += size
            while self._bytes > self._limit_bytes:
                self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(forecast: Forecast) -> int:
    """Return the bytes that a forecast's arrays take."""
    return sum(array.nbytes for array in (forecast.members, forecast.z, forecast.h) if array is not None)


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
        key = (self._identity, question)
        kept = self._memory.get(key)
        if kept is not None:
            return kept
        try:
            made = self._forecaster.forecast(history, city, *question)
        except DataUnavailable:
            self.lacked_data = True
            raise
        self._memory.put(key, made)
        return made
