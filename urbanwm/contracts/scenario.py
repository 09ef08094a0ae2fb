"""What a simulation takes and returns; shared by the library, the CLI and the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from urbanwm.contracts.signals import FACTOR_MAX, FACTOR_MIN, HORIZON_HOURS_MAX, SAMPLES_MAX, nearest_name
from urbanwm.errors import BadInput

if TYPE_CHECKING:  # a city is read by the rules of this module, and contracts need no tables
    import pandas as pd

    from urbanwm.cities import City


def _text_or_time(value: object) -> object:
    """Refuse a bare number as a time: its unit would be a guess."""
    if isinstance(value, (str, datetime)):
        return value
    raise ValueError("should be an ISO 8601 time with an offset, such as 2026-01-31T08:00:00Z")


Ratio = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False, strict=True)]
Factor = Annotated[float, Field(ge=FACTOR_MIN, le=FACTOR_MAX, allow_inf_nan=False, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Time = Annotated[AwareDatetime, BeforeValidator(_text_or_time)]
ServedBy = Literal["world_model", "baseline"]


class _Strict(BaseModel):
    """Unknown keys are refused: a misspelt lever must not be a silent no-op."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicyPeriod(_Strict):
    """Levers that hold during a part of the horizon.

    A period covers the hours that satisfy every condition given: `start` ≤ t < `end` (times), or
    `from_hour` ≤ k < `to_hour` (hours since the simulation's start), on the named local `hours` of day
    (0-23) and `weekdays` (0 = Monday). The dose rises linearly over `ramp_hours`.
    """

    start: Time | None = None
    end: Time | None = None
    from_hour: Annotated[int, Field(strict=True, ge=0, le=HORIZON_HOURS_MAX)] | None = None
    to_hour: Annotated[int, Field(strict=True, ge=1, le=HORIZON_HOURS_MAX)] | None = None
    hours: Annotated[list[Annotated[int, Field(strict=True, ge=0, le=23)]], Field(max_length=24)] | None = (
        None
    )
    weekdays: Annotated[list[Annotated[int, Field(strict=True, ge=0, le=6)]], Field(max_length=7)] | None = (
        None
    )
    ramp_hours: Annotated[int, Field(strict=True, ge=0, le=HORIZON_HOURS_MAX)] = 0
    car_free_ratio: Ratio | None = None
    renewable_mix: Ratio | None = None


def _or_null(schema: dict[str, Any]) -> None:
    """Say in the JSON schema that every property may be null."""
    null = {"type": "null"}
    for name, form in schema["properties"].items():
        if null not in form.get("anyOf", []):
            around = {key: form[key] for key in ("title", "default") if key in form}
            inner = {key: value for key, value in form.items() if key not in around}
            schema["properties"][name] = {"anyOf": [inner, null], **around}


class Policy(_Strict):
    """The levers of a scenario; one that is left out, or null, stays at the status quo."""

    model_config = ConfigDict(json_schema_extra=_or_null)

    car_free_ratio: Ratio | None = None
    renewable_mix: Ratio | None = None
    dynamic_pricing: Flag = False
    stricter_car_bans: Flag = False
    gdp_activity_index: Factor = 1.0
    commercial_load_factor: Factor = 1.0
    schedule: Annotated[list[PolicyPeriod], Field(max_length=64)] = []

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, data: object) -> object:
        """Read an explicit null as "left out", as clients of the earlier implementation send it."""
        if isinstance(data, Mapping):
            return {key: value for key, value in data.items() if value is not None}
        return data


class InitialState(_Strict):
    """The present, as the caller knows it: overrides the newest observation."""

    pm25: Annotated[float, Field(ge=0.0, le=1000.0, allow_inf_nan=False, strict=True)]
    energy_mwh: Annotated[float, Field(gt=0.0, le=1e7, allow_inf_nan=False, strict=True)]
    traffic_index: Annotated[float, Field(ge=0.0, le=2.0, allow_inf_nan=False, strict=True)]


class Scenario(_Strict):
    """One "what if" question."""

    city: Annotated[str, Field(min_length=1, max_length=64)]
    start_time: Time | None = None
    horizon_hours: Annotated[int, Field(strict=True, ge=1, le=HORIZON_HOURS_MAX)] = 48
    policy: Policy = Policy()
    initial_state: InitialState | None = None
    uncertainty_samples: Annotated[int, Field(strict=True, ge=1, le=SAMPLES_MAX)] = 20
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] | None = None
    assumptions: str | dict[str, Any] | None = None


@dataclass(frozen=True)
class Forecast:
    """What a forecaster says about the status quo.

    Attributes:
        members: `(samples, horizon_hours, 3)` in physical units, targets in vocabulary order; NaN for a
            signal that nothing is known about.
        served_by: Who made it.
        z: `(horizon_hours + 1, 128)` stochastic latents of member 0, row 0 = state at the start; None from
            the baseline.
        h: `(horizon_hours + 1, 256)` deterministic latents, likewise.
        degraded: Whether something was missing.
        reasons: One sentence per thing that was missing.
        reference_form: The baseline answered from `initial_state` by the reference formulas.
    """

    members: NDArray[np.float64]
    served_by: ServedBy
    z: NDArray[np.float32] | None = None
    h: NDArray[np.float32] | None = None
    degraded: bool = False
    reasons: list[str] = field(default_factory=list)
    reference_form: bool = False


class Forecaster(Protocol):
    """Who forecasts the status quo, one origin at a time: the world model, the baseline, or a peer."""

    @property
    def served_by(self) -> ServedBy:
        """The name under which it answers."""
        ...

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
        """Return members `(samples, horizon_hours, 3)` of the status quo; reads rows before `start` only."""
        ...


@dataclass(frozen=True)
class Simulation:
    """Baseline beside scenario, member by member with common random numbers.

    Attributes:
        baseline: `(samples, horizon_hours, 3)` under the status quo, physical units.
        scenario: `(samples, horizon_hours, 3)` under the policy, same members.
        timestamps: Start of each hour, UTC.
        effect: Paired differences per signal, with intervals and decomposition (JSON-ready).
        meta: Who answered, from which data, under which assumptions (JSON-ready).
    """

    city: str
    start: datetime
    horizon_hours: int
    policy: Policy
    timestamps: list[datetime]
    baseline: NDArray[np.float64]
    scenario: NDArray[np.float64]
    effect: dict[str, Any]
    meta: dict[str, Any]
    latents: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None


Model = TypeVar("Model", bound=BaseModel)


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the (nested) model that holds the last name of an error's location."""
    current: Any = model
    for step in location[:-1]:
        if isinstance(step, int) or step not in getattr(current, "model_fields", {}):
            continue
        annotation = current.model_fields[step].annotation
        nested = [annotation, *getattr(annotation, "__args__", ())]
        nested += [argument for item in nested for argument in getattr(item, "__args__", ())]
        current = next((item for item in nested if hasattr(item, "model_fields")), current)
    return current


def _range_of(model: type[BaseModel], location: tuple[int | str, ...]) -> str | None:
    """Return the numeric range of the field an error points at, such as "0.0 to 1.0"."""
    field_info = _model_at(model, location).model_fields.get(str(location[-1])) if location else None
    if field_info is None:
        return None
    candidates = [field_info, *getattr(field_info.annotation, "__args__", ())]
    bounds = [
        item
        for candidate in candidates
        for holder in (*getattr(candidate, "metadata", ()), *getattr(candidate, "__metadata__", ()))
        for item in getattr(holder, "metadata", [holder])
    ]
    low = next((getattr(item, name) for item in bounds for name in ("ge", "gt") if hasattr(item, name)), None)
    high = next(
        (getattr(item, name) for item in bounds for name in ("le", "lt") if hasattr(item, name)), None
    )
    return None if low is None or high is None else f"{low:g} to {high:g}"


def parse_strict(model: type[Model], data: object) -> Model:
    """Validate `data` into `model`, translating the first failure into our own words.

    Raises:
        BadInput: Names the field, the value and what is allowed; an unknown key names the nearest valid one.
    """
    try:
        return model.model_validate(data)
    except ValidationError as failure:
        first = failure.errors(include_url=False, include_context=True)[0]
    location = tuple(first["loc"])
    name = ".".join(str(step) for step in location) or "body"
    if first["type"] == "extra_forbidden":
        valid = sorted(_model_at(model, location).model_fields)
        close = nearest_name(str(location[-1]), valid)
        hint = f"did you mean '{close}'?" if close else "see the allowed names"
        raise BadInput(f"unknown key '{name}': {hint}", field=name, allowed=valid)
    value = first["input"] if not isinstance(first["input"], (dict, list)) else None
    reason = first["msg"].removeprefix("Value error, ")
    allowed = _range_of(model, location) or reason.removeprefix("Input should be ")
    raise BadInput(f"{name}: {reason}", field=name, value=value, allowed=allowed)
