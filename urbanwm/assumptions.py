"""What a lever is assumed to do: coefficients with ranges, sources and lags, as data (DESIGN §5)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from urbanwm.contracts.scenario import parse_strict
from urbanwm.contracts.signals import HORIZON_HOURS_MAX
from urbanwm.errors import BadInput

Lever = Literal[
    "car_free_ratio", "renewable_mix", "dynamic_pricing", "gdp_activity_index", "commercial_load_factor"
]
Target = Literal["pm25", "energy_mwh", "traffic_index"]
Part = Literal["whole", "local"]
RelativeChange = Annotated[float, Field(ge=-1.0, le=2.0, allow_inf_nan=False)]
ShortText = Annotated[str, Field(max_length=64)]
LongText = Annotated[str, Field(max_length=1000)]

PRESETS_DIR = Path(__file__).parent / "presets"
DEFAULT_PRESET = "literature"
COEFFICIENT_STREAM = 0x5EED_0001
"""Random stream of the coefficients: apart from the forecast's, so that neither disturbs the other."""


class _Strict(BaseModel):
    """Unknown keys are refused: a misspelt field must not be a silent no-op."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Coefficient(_Strict):
    """The relative change of one signal per +1.0 of one lever.

    `low`, `central` and `high` are the limits and the mode of a triangular distribution. The effect
    approaches its full size with the e-folding time `lag_hours` after the lever moves, and fades with it.
    `additive` terms of a signal share one bracket `1 + Σ c·dose`; a `multiplicative` term has its own.
    `part: local` acts on what PM2.5 has above the city's background, in place of the whole. With
    `no_effect_probability` that share of the members has no effect at all: a range that ends at 0 says that
    there may be none, its triangle alone that there is one.
    """

    lever: Lever
    signal: Target
    low: RelativeChange
    central: RelativeChange
    high: RelativeChange
    combine: Literal["additive", "multiplicative"] = "additive"
    unit: ShortText = "relative change per +1.0"
    lag_hours: Annotated[float, Field(ge=0.0, le=HORIZON_HOURS_MAX, allow_inf_nan=False)] = 0.0
    part: Part = "whole"
    no_effect_probability: Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)] = 0.0
    scope: LongText = ""
    source: Annotated[str, Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        """Refuse a central value outside its own range."""
        if not self.low <= self.central <= self.high:
            raise ValueError("low ≤ central ≤ high is required")
        if self.part == "local" and self.signal != "pm25":
            raise ValueError("only pm25 has a background, and so a local part")
        return self

    def sample(self, ranks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one value per rank in (0, 1): triangular quantiles, and 0 for the share without effect."""
        effective = 1.0 - self.no_effect_probability
        return np.where(ranks < effective, self._triangular(np.minimum(ranks / effective, 1.0)), 0.0)

    def _triangular(self, ranks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the quantiles at `ranks`; the constant where the range is a point."""
        span = self.high - self.low
        if span == 0.0:
            return np.full(ranks.shape, self.central)
        below, above = self.central - self.low, self.high - self.central
        left = self.low + np.sqrt(ranks * span * below)
        right = self.high - np.sqrt((1.0 - ranks) * span * above)
        return np.where(ranks < below / span, left, right)


class Assumptions(_Strict):
    """A named set of coefficients and the way they act.

    `difference`: on the difference from the status quo, never pushing PM2.5 below the background.
    `absolute`: on levels, as the reference formulas do; on a forecast the ratio f(policy)/f(status quo) acts.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    title: LongText = ""
    illustrative: bool = False
    form: Literal["difference", "absolute"] = "difference"
    car_ban_multiplier: Annotated[float, Field(ge=1.0, le=2.0, allow_inf_nan=False)] = 1.2
    coefficients: Annotated[list[Coefficient], Field(max_length=64)]

    def sample(self, samples: int, seed: int) -> list[NDArray[np.float64]]:
        """Draw one value per member for every coefficient, in their order.

        Latin hypercube: each coefficient takes the quantiles `(s + 0.5) / samples` in an order of its own, so
        that few members already span the range. Returns arrays of shape `(samples,)`.
        """
        generator = np.random.default_rng([seed, COEFFICIENT_STREAM])
        return [
            coefficient.sample((generator.permutation(samples) + 0.5) / samples)
            for coefficient in self.coefficients
        ]

    def describe(self) -> dict[str, Any]:
        """Return everything a reader needs to judge an effect (JSON-ready)."""
        return self.model_dump(mode="json")


def preset_names() -> list[str]:
    """Return the names that `load_assumptions` knows."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


@lru_cache(maxsize=8)
def _preset(name: str) -> Assumptions:
    return _read_yaml(PRESETS_DIR / f"{name}.yaml")


def _read_yaml(path: Path) -> Assumptions:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(
            f"assumptions cannot be read: {type(error).__name__}", field="assumptions", value=path.name
        ) from error
    return parse_strict(Assumptions, data)


def load_assumptions(
    source: str | Mapping[str, Any] | Assumptions | None = None, *, allow_path: bool = False
) -> Assumptions:
    """Return assumptions from a preset's name, an inline document, or (`allow_path`) a YAML file.

    `None` means the default preset. A request that comes over the network must not set `allow_path`.

    Raises:
        BadInput: No such preset, or a field is unknown or out of range.
    """
    if source is None:
        return _preset(DEFAULT_PRESET)
    if isinstance(source, Assumptions):
        return source
    if isinstance(source, Mapping):
        return parse_strict(Assumptions, dict(source))
    if source in preset_names():
        return _preset(source)
    if allow_path and Path(source).suffix in {".yaml", ".yml"}:
        return _read_yaml(Path(source))
    raise BadInput(
        "no such assumptions preset",
        field="assumptions",
        value=source,
        allowed=[*preset_names(), "or an inline document"],
    )
