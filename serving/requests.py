"""What `POST /api/simulate` takes beyond one scenario: further policies on the same forecast."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from urbanwm.contracts.scenario import Policy, Scenario
from urbanwm.errors import BadInput

SCENARIOS_MAX = 16
"""Policies beside the first: what one chart can show, and a second of work at most."""


FIRST_YEAR, LAST_YEAR = 1990, 2200
"""Nanosecond timestamps end in 2262, and a horizon must still fit in."""


class Variant(BaseModel):
    """Another policy for the same hours: it shares the forecast and the random numbers of the first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    policy: Policy = Policy()
    assumptions: str | dict[str, Any] | None = None


class SimulationRequest(Scenario):
    """The body of `POST /api/simulate`: one scenario, and any number of others to compare it with."""

    scenarios: Annotated[list[Variant], Field(max_length=SCENARIOS_MAX, default_factory=list)]

    @field_validator("scenarios", mode="after")
    @classmethod
    def _name_each(cls, variants: list[Variant]) -> list[Variant]:
        """Number those without a name; a name must point at one."""
        named = [
            variant if variant.name else variant.model_copy(update={"name": f"scenario {number}"})
            for number, variant in enumerate(variants, start=1)
        ]
        if len({variant.name for variant in named}) < len(named):
            raise ValueError("should have names that differ")
        return named


def check_years(scenario: Scenario) -> None:
    """Refuse times that no calendar here can hold; what is too far to forecast is the simulator's to say.

    Raises:
        BadInput: Names the field.
    """
    for field, time in _times(scenario):
        if time is not None and not FIRST_YEAR <= time.year <= LAST_YEAR:
            raise BadInput(f"{field} is out of range", field=field, allowed=f"{FIRST_YEAR} to {LAST_YEAR}")


def _times(scenario: Scenario) -> Iterator[tuple[str, datetime | None]]:
    """Return every time of a request with the name of its field."""
    yield "start_time", scenario.start_time
    policies = [("", scenario.policy)]
    if isinstance(scenario, SimulationRequest):
        policies += [(f"scenarios.{n}.", variant.policy) for n, variant in enumerate(scenario.scenarios)]
    for prefix, policy in policies:
        for number, period in enumerate(policy.schedule):
            yield f"{prefix}policy.schedule.{number}.start", period.start
            yield f"{prefix}policy.schedule.{number}.end", period.end
