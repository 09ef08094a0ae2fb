"""The present of a city whose data are recorded: a client's clock may be years ahead of it."""

from __future__ import annotations

from datetime import datetime, timedelta

from urbanwm.cities import City
from urbanwm.contracts.scenario import Policy, Scenario
from urbanwm.forecaster import MAX_DATA_AGE_HOURS
from urbanwm.simulator import START_LIMIT

REACH = timedelta(hours=MAX_DATA_AGE_HOURS)
"""A start further than this behind the data is out of the world model's reach."""


def lag_of(city: City, start: datetime, present: datetime, clock_now: datetime) -> timedelta:
    """Return by how much a request must be moved back to begin in the city's own present; 0: not at all.

    A recorded (`replay`) or simulated city stands still at the end of its data, and a client that sends the
    time of its own clock means "now". Answering such a start with climatology would hide the model for good;
    refusing it would break every client that sends its clock. So it is answered from the city's present, and
    the answer says so. A live city is never moved, nor is a start beyond any clock.
    """
    recorded = city.replay or city.simulated
    meant_as_now = present + REACH < start <= max(present, clock_now) + START_LIMIT
    return start - present if recorded and meant_as_now else timedelta(0)


def move_back(scenario: Scenario, start: datetime, lag: timedelta) -> Scenario:
    """Return the scenario with its start, and the times in its schedule, `lag` earlier."""
    return scenario.model_copy(
        update={"start_time": start - lag, "policy": move_policy_back(scenario.policy, lag)}
    )


def move_policy_back(policy: Policy, lag: timedelta) -> Policy:
    """Return the policy with the times in its schedule `lag` earlier: a measure keeps its place."""
    periods = [
        period.model_copy(
            update={
                end: None if (time := getattr(period, end)) is None else time - lag
                for end in ("start", "end")
            }
        )
        for period in policy.schedule
    ]
    return policy.model_copy(update={"schedule": periods})


def sentence(city: City, start: datetime, present: datetime) -> str:
    """Say that a start was moved."""
    kind = "simulated" if city.simulated else "recorded"
    return (
        f"{city.name} is a {kind} city whose present is {present.isoformat()}: the requested start "
        f"{start.isoformat()} lies beyond its data, so the simulation starts at its present"
    )
