"""The feature specification: all that is needed to build the same inputs again; travels in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.clock import require_utc
from urbanwm.contracts.signals import ACTIONS, SIGNALS, TARGETS
from urbanwm.errors import BadInput, InternalContractBroken
from urbanwm.features.calendar import CityCalendar
from urbanwm.features.direct import DirectForecast
from urbanwm.features.names import (
    FORECAST_SIGNALS,
    FORECAST_SUFFIX,
    LOG_SIGNALS,
    Kind,
    known_names,
    observed_names,
    scaled_signals,
    skip_names,
)
from urbanwm.features.scaling import CityScaler, fit_scaler, lend
from urbanwm.features.usual import INDEX

if TYPE_CHECKING:
    from urbanwm.cities import City


@dataclass(frozen=True)
class FeatureSpec:
    """Names, order, scales and calendars: everything needed to build the same inputs again anywhere.

    Attributes:
        kind: "reference" (the 12 inputs of DESIGN §4, raw-unit targets) or "urban".
        observed_names: Measured inputs, known up to the origin only.
        known_names: Inputs known ahead.
        action_names: Policy levers.
        skip_names: Seasonal predictions, the same for every target.
        context_hours: Hours filtered before the origin.
        horizon_hours: Hours imagined in training.
        cities: Cities trained on, in the order of `Windows.city_index`.
        scalers: Per city.
        calendars: Per city.
        renewable_status_quo: Share of renewables per city, where known.
        direct: The fitted direct forecast; stored beside the spec, not in it. None until it is fitted.
    """

    kind: Kind
    observed_names: tuple[str, ...]
    known_names: tuple[str, ...]
    action_names: tuple[str, ...]
    skip_names: tuple[str, ...]
    context_hours: int
    horizon_hours: int
    cities: tuple[str, ...]
    scalers: dict[str, CityScaler]
    calendars: dict[str, CityCalendar]
    renewable_status_quo: dict[str, float]
    targets: tuple[str, ...] = TARGETS
    direct: DirectForecast | None = field(default=None, compare=False)

    @property
    def observed_dim(self) -> int:
        """Return F."""
        return len(self.observed_names)

    @property
    def known_dim(self) -> int:
        """Return K."""
        return len(self.known_names)

    @property
    def action_dim(self) -> int:
        """Return A."""
        return len(self.action_names)

    @property
    def skip_dim(self) -> int:
        """Return J."""
        return len(self.skip_names)

    @property
    def forecast_signals(self) -> tuple[str, ...]:
        """Return the weather whose forecasts are inputs."""
        return tuple(name for name in FORECAST_SIGNALS if f"{name}{FORECAST_SUFFIX}" in self.known_names)

    def scaler(self, city: str) -> CityScaler:
        """Return a city's scaler; a city never fitted is our own mistake (`with_city` comes first)."""
        try:
            return self.scalers[city]
        except KeyError:
            raise InternalContractBroken(
                f"no scaler for city '{city}'", field="city", value=city, allowed=sorted(self.scalers)
            ) from None

    def is_log(self, signal: str) -> bool:
        """Return whether a signal is scaled as log(1 + x)."""
        return self.kind == "urban" and signal in LOG_SIGNALS

    def normalise(self, city: str, signal: str, values: NDArray[Any]) -> NDArray[np.float64]:
        """Scale one signal; NaN stays NaN."""
        scaler = self.scaler(city)
        raw = np.asarray(values, dtype=np.float64)
        transformed = np.log1p(raw) if self.is_log(signal) else raw
        return np.asarray((transformed - scaler.mean[signal]) / scaler.std[signal], dtype=np.float64)

    def normalise_targets(self, city: str, values: NDArray[Any]) -> NDArray[np.float64]:
        """Scale `(..., 3)` physical targets; the identity for the reference, which works in raw units."""
        raw = np.asarray(values, dtype=np.float64)
        if self.kind == "reference":
            return raw
        columns = [self.normalise(city, name, raw[..., i]) for i, name in enumerate(self.targets)]
        return np.stack(columns, axis=-1)

    def denormalise(
        self, city: str, values: NDArray[Any], usual: NDArray[Any] | float = 1.0
    ) -> NDArray[np.float64]:
        """Return `(..., 3)` normalised targets in µg/m³, MWh and 1.

        A logarithmic signal is cut at the largest value that can be true: exp() blows errors up.

        Args:
            city: Whose scale.
            values: `(..., 3)`.
            usual: What a traffic level is divided by to give an index, broadcast against `(...)`.
        """
        scaled = np.asarray(values, dtype=np.float64)
        if self.kind == "reference":
            return scaled
        scaler = self.scaler(city)
        columns = [
            scaled[..., i] * scaler.std[name] + scaler.mean[name] for i, name in enumerate(self.targets)
        ]
        columns = [
            np.expm1(np.minimum(column, np.log1p(SIGNALS[name].maximum))) if self.is_log(name) else column
            for name, column in zip(self.targets, columns, strict=True)
        ]
        columns[self.targets.index(INDEX)] = columns[self.targets.index(INDEX)] / usual
        return np.stack(columns, axis=-1)

    def with_city(self, city: City, frame: pd.DataFrame) -> FeatureSpec:
        """Return a spec that also knows `city`, never trained on, scaled by its own rows in `frame`.

        Raises:
            DataUnavailable: The frame holds no value of any target.
        """
        scaler = lend(
            fit_scaler(frame, scaled_signals(self.observed_names), self.kind, calendar_of(city)),
            self.scalers.values(),
        )
        status_quo = _renewable_status_quo(city, frame)
        return replace(
            self,
            scalers={**self.scalers, city.name: scaler},
            calendars={**self.calendars, city.name: calendar_of(city)},
            renewable_status_quo=self.renewable_status_quo
            | ({} if status_quo is None else {city.name: status_quo}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON types, without the direct forecast's arrays."""
        document = asdict(replace(self, direct=None))
        del document["direct"]
        return document

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FeatureSpec:
        """Rebuild a spec from `to_dict`.

        Raises:
            BadInput: A key is missing or unknown, or the kind is.
        """
        expected = set(cls.__dataclass_fields__) - {"direct"}
        if set(data) != expected:
            wrong = sorted(set(data) ^ expected)
            raise BadInput("the feature spec has missing or unknown keys", field=wrong[0], value=wrong)
        if data["kind"] not in get_args(Kind):
            raise BadInput(
                "unknown kind of features", field="kind", value=data["kind"], allowed=list(get_args(Kind))
            )
        listed = {key: tuple(value) for key, value in data.items() if isinstance(value, (list, tuple))}
        scalers = {
            name: CityScaler(
                dict(item["mean"]), dict(item["std"]), tuple(item["borrowed"]), item["mean_volume"]
            )
            for name, item in data["scalers"].items()
        }
        calendars = {name: CityCalendar(**item) for name, item in data["calendars"].items()}
        return cls(**{**data, **listed, "scalers": scalers, "calendars": calendars})


def calendar_of(city: City) -> CityCalendar:
    """Return where a city's local time and holidays come from."""
    if city.holidays is None:
        return CityCalendar(city.timezone)
    return CityCalendar(city.timezone, city.holidays.country, city.holidays.subdivision)


def build_spec(
    kind: Kind,
    frames: Mapping[str, pd.DataFrame],
    cities: Mapping[str, City],
    train_end: Mapping[str, datetime] | None,
    context_hours: int,
    horizon_hours: int,
) -> FeatureSpec:
    """Decide the inputs from what the cities have and fit the scales on the training rows.

    Args:
        kind: "reference" or "urban".
        frames: Hourly UTC frame per city, columns = signals.
        cities: City per name, at least those of `frames`.
        train_end: Per city, the first hour that is not training (UTC); None = every row is training.
        context_hours: Hours filtered before the origin.
        horizon_hours: Hours imagined in training.

    Raises:
        BadInput: The kind is unknown, no city is given, or a time is naive.
        DataUnavailable: A city has no target value before its `train_end`.
    """
    if kind not in get_args(Kind):
        raise BadInput("unknown kind of features", field="kind", value=kind, allowed=list(get_args(Kind)))
    if not frames:
        raise BadInput("no city to build features for", field="frames", value=0, allowed="one frame or more")
    training = {
        name: frame if train_end is None else frame[frame.index < require_utc(train_end[name], "train_end")]
        for name, frame in frames.items()
    }
    observed = observed_names(kind, training.values())
    fitted = {
        name: fit_scaler(frame, scaled_signals(observed), kind, calendar_of(cities[name]))
        for name, frame in training.items()
    }
    status_quo = {name: _renewable_status_quo(cities[name], frame) for name, frame in training.items()}
    urban = kind == "urban"
    return FeatureSpec(
        kind=kind,
        observed_names=observed,
        known_names=known_names(observed, training) if urban else (),
        action_names=ACTIONS,
        skip_names=skip_names() if urban else (),
        context_hours=context_hours,
        horizon_hours=horizon_hours,
        cities=tuple(frames),
        scalers={name: lend(scaler, fitted.values()) for name, scaler in fitted.items()},
        calendars={name: calendar_of(cities[name]) for name in frames},
        renewable_status_quo={name: share for name, share in status_quo.items() if share is not None},
    )


def _renewable_status_quo(city: City, frame: pd.DataFrame) -> float | None:
    """Return the stated share, else the mean of what was observed or driven in the training rows."""
    if city.renewable_share_status_quo is not None:
        return float(city.renewable_share_status_quo)
    for column in ("renewable_share", "renewable_mix"):
        if column in frame.columns and frame[column].notna().any():
            return float(frame[column].mean())
    return None
