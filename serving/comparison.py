"""Several policies on one forecast: the same members and random numbers, so that they can be compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from serving.outlooks import RememberingForecaster
from serving.present import move_policy_back
from serving.requests import Variant
from urbanwm.assumptions import Assumptions, load_assumptions
from urbanwm.contracts.scenario import Scenario
from urbanwm.errors import BadInput
from urbanwm.response import hourly_rows
from urbanwm.simulator import Outlook, look_ahead, respond


@dataclass(frozen=True)
class View:
    """The status quo ahead, who forecast it, and what must be said about it.

    Attributes:
        scenario: The question, in the city's own time.
        outlook: The status quo ahead.
        forecaster: Who forecast it.
        now: The city's present, UTC.
        provenance: What the service adds to `meta`.
        lag: By how much the question was moved back to the city's present.
    """

    scenario: Scenario
    outlook: Outlook
    forecaster: RememberingForecaster
    now: datetime
    provenance: dict[str, Any]
    lag: timedelta


def compare(view: View, variant: Variant, number: int) -> dict[str, Any]:
    """Lay one more policy on the forecast; returns an entry of `scenarios`, JSON-ready.

    `baseline` is in it only where it differs from the answer's own, which takes assumptions of another form
    on a caller's `initial_state`.

    Raises:
        BadInput: The assumptions of scenario `number` are refused.
    """
    outlook = view.outlook
    if variant.assumptions is not None:
        assumptions = _assumptions(variant, number)
        if assumptions.form == outlook.assumptions.form:
            outlook = replace(outlook, assumptions=assumptions)
        else:
            # A caller's state has a shape of its own under absolute formulas, and under no other.
            scenario = view.scenario.model_copy(update={"assumptions": variant.assumptions})
            outlook = look_ahead(scenario, outlook.city, outlook.history, view.forecaster, now=view.now)
    simulation = respond(outlook, move_policy_back(variant.policy, view.lag), view.provenance)
    entry = {
        "name": variant.name,
        "policy": simulation.policy.model_dump(mode="json"),
        "policy_effective": simulation.meta["policy_effective"],
        "assumptions": simulation.meta["assumptions"],
        "simulated": hourly_rows(simulation.scenario, simulation.timestamps),
        "effect": simulation.effect,
    }
    if simulation.baseline.tobytes() != view.outlook.baseline.tobytes():
        entry["baseline"] = hourly_rows(simulation.baseline, simulation.timestamps)
    return entry


def _assumptions(variant: Variant, number: int) -> Assumptions:
    """Return a scenario's assumptions; a refusal names the scenario."""
    try:
        return load_assumptions(variant.assumptions)
    except BadInput as refused:
        field = f"scenarios.{number}.{refused.field}"
        raise BadInput(refused.message, field=field, value=refused.value, allowed=refused.allowed) from None
