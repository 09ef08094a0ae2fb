"""What the forecaster asks of a bundle, and the part of its work that a service may keep."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from urbanwm.features import FeatureSpec, Windows


class Rollout(Protocol):
    """What a bundle's `imagine` returns: quantiles `(B, H, 3, Q)`, h `(B, H, D)`, z `(B, H, Z)`."""

    @property
    def output(self) -> NDArray[np.float32]:
        """Normalised quantiles."""
        ...

    @property
    def h(self) -> NDArray[np.float32]:
        """Deterministic states."""
        ...

    @property
    def z(self) -> NDArray[np.float32]:
        """Stochastic states."""
        ...


class WorldModel(Protocol):
    """What this module needs of a bundle; `urbanwm.model.bundle.Bundle` has it."""

    @property
    def spec(self) -> FeatureSpec:
        """The inputs and their scales."""
        ...

    @property
    def calibration(self) -> Mapping[str, Any]:
        """What `apply_calibration` reads; may be empty."""
        ...

    @property
    def experiment(self) -> Mapping[str, Any]:
        """The experiment's document; `model.latent_dim` is read."""
        ...

    def filter(
        self, windows: Windows, noise: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return h `(B, D)` and z `(B, Z)` at the origin."""
        ...

    def imagine(
        self,
        h: NDArray[np.float32],
        z: NDArray[np.float32],
        known: NDArray[np.float32],
        action: NDArray[np.float32],
        skip: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> Rollout:
        """Roll the prior forward."""
        ...


class Nowcast(NamedTuple):
    """A city's coming week as the model sees it at one hour; depends on no policy, samples or horizon.

    Attributes:
        quantiles: `(1, T, 3, 7)` normalised, silent signals widened.
        h: `(1, T + 1, ·)` deterministic states of the first trajectory.
        z: `(1, T + 1, ·)` stochastic states.
        spec: Scales to denormalise with.
        usual: `(1, T)` what a traffic level is divided by to give an index.
    """

    quantiles: NDArray[np.float64]
    h: NDArray[np.float32]
    z: NDArray[np.float32]
    spec: FeatureSpec
    usual: NDArray[np.float32]


class Past(NamedTuple):
    """What a forecast has to know about the rows before its start.

    Attributes:
        ages: Hours since the last value of each target; infinity without one.
        late_inputs: The same for the model's other inputs that the city has.
        absent: Targets with too few values to be answered.
    """

    ages: dict[str, float]
    late_inputs: dict[str, float]
    absent: list[str]


Kept = TypeVar("Kept", Past, Nowcast)


class Remember(Protocol):
    """Returns what is kept under a key, or makes and keeps it."""

    def __call__(self, key: Hashable, make: Callable[[], Kept], /) -> Kept:
        """Return the past or the nowcast of `key`; the two have different keys."""
        ...


def make_anew(_key: Hashable, make: Callable[[], Kept]) -> Kept:
    """Remember nothing."""
    return make()
