"""The weather at the origin: how the last hours differed from the last weeks and from the day before."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from urbanwm.features.names import (
    CHANGE_HOURS,
    COOLING,
    COOLING_ABOVE_C,
    DEGREES_OF,
    HEATING,
    HEATING_BELOW_C,
    STATE,
    USUAL_WEATHER_HOURS,
    state_features,
)
from urbanwm.features.spec import FeatureSpec
from urbanwm.features.trailing import trailing_mean


def state_columns(observed: NDArray[np.float32], city: str, spec: FeatureSpec) -> NDArray[np.float32]:
    """Return the weather just before each hour, `(N, state)`, in standard deviations; 0 where unknown.

    Args:
        observed: `(N, F)` measured inputs, NaN = missing.
        city: Whose scale.
        spec: Names the columns.
    """
    features = (feature for group in STATE for feature in state_features(group, spec.observed_names))
    columns = [np.empty((len(observed), 0), np.float32)]
    for (signal, of), part in groupby(features, key=itemgetter(0, 1)):
        values = _KINDS[of](_signal(observed, signal, city, spec))
        columns.append(trailing_mean(values, [hours for *_, hours in part])[:, 0])
    return np.concatenate(columns, axis=1)


def _signal(observed: NDArray[np.float32], signal: str, city: str, spec: FeatureSpec) -> NDArray[np.float32]:
    """Return a scaled signal `(N, 1)`, or the degrees that call for heating or cooling, NaN = missing."""
    if signal not in (HEATING, COOLING):
        return observed[:, [spec.observed_names.index(signal)]]
    scaler = spec.scaler(city)
    temperature = observed[:, [spec.observed_names.index(DEGREES_OF)]]
    limit_c = HEATING_BELOW_C if signal == HEATING else COOLING_ABOVE_C
    limit = np.float32((limit_c - scaler.mean[DEGREES_OF]) / scaler.std[DEGREES_OF])
    too_far = limit - temperature if signal == HEATING else temperature - limit
    return np.maximum(too_far, np.float32(0.0))


def _anomaly(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values `(N, 1)` minus what was usual in the weeks before."""
    return values - trailing_mean(values, [USUAL_WEATHER_HOURS])[..., 0]


def _change(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values `(N, 1)` minus those of a day earlier, NaN where either is missing."""
    change = np.full_like(values, np.nan)
    change[CHANGE_HOURS:] = values[CHANGE_HOURS:] - values[:-CHANGE_HOURS]
    return change


_KINDS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "anomaly": _anomaly,
    "change": _change,
    "mean": lambda values: values,
}
