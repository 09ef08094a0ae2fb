"""Search for the policy that meets a goal: one forecast, many policies laid upon it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from urbanwm.cities import City
from urbanwm.contracts.scenario import Policy, Scenario, Time
from urbanwm.contracts.signals import ACTIONS, HORIZON_HOURS_MAX, SAMPLES_MAX, TARGETS
from urbanwm.errors import DataUnavailable
from urbanwm.simulator import Forecaster, Outlook, look_ahead, respond

__all__ = ["PlanRequest", "Weights", "optimise"]

Float = NDArray[np.float64]
WEIGHT_MAX = 100.0
"""A signal that counts a hundred times as much as another decides alone; more would only hide the others."""
Weight = Annotated[float, Field(ge=0.0, le=WEIGHT_MAX, allow_inf_nan=False, strict=True)]

GRID_SHARE = 0.5
"""Share of the budget that is spent on a regular grid before the search narrows."""
ELITE_SHARE = 0.25
"""Share of the candidates so far from which the next ones are drawn (cross-entropy method)."""
ROUND = 8
"""Candidates per refinement round."""
FIRST_SPREAD = 0.25
"""Standard deviation of the first refinement round, in units of a lever; halves with every round."""
EFFORT_WEIGHT = 1e-3
"""What a full turn of one lever costs in the score: only enough to prefer the smaller of equal measures."""
LEVER_DECIMALS = 4
SEARCH_STREAM = 0x5EED_0004


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Weights(_Strict):
    """What a relative change of each signal is worth; a decrease is good."""

    pm25: Weight = 1.0
    energy: Weight = 0.3
    traffic: Weight = 0.3

    def array(self) -> Float:
        """Return the weights in the order of the targets."""
        return np.array([self.pm25, self.energy, self.traffic])


class PlanRequest(_Strict):
    """The body of `POST /api/optimize`."""

    city: Annotated[str, Field(min_length=1, max_length=64)]
    start_time: Time | None = None
    horizon_hours: Annotated[int, Field(strict=True, ge=1, le=HORIZON_HOURS_MAX)] = 48
    weights: Weights = Weights()
    pm25_target: Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False, strict=True)] | None = None
    eval_budget: Annotated[int, Field(strict=True, ge=4, le=200)] = 32
    uncertainty_samples: Annotated[int, Field(strict=True, ge=1, le=SAMPLES_MAX)] = 20
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] | None = None
    assumptions: str | dict[str, Any] | None = None

    def scenario(self) -> Scenario:
        """Return the question whose outlook the search uses."""
        return Scenario(
            city=self.city,
            start_time=self.start_time,
            horizon_hours=self.horizon_hours,
            uncertainty_samples=self.uncertainty_samples,
            seed=self.seed,
            assumptions=self.assumptions,
        )


@dataclass(frozen=True)
class _Candidate:
    """A policy and what it gives: lower is better in every figure."""

    levers: tuple[float, float]
    score: float
    effort: float
    excess: float
    means: tuple[float, ...]

    def rank(self, *, has_target: bool) -> tuple[float, ...]:
        """Return the sorting key: with a target its excess, then the effort; without one the score."""
        return (self.excess, self.effort, self.score) if has_target else (self.score, self.effort)


class _Search:
    """Evaluates candidates on one outlook with common random numbers, and remembers them."""

    def __init__(self, outlook: Outlook, request: PlanRequest, checkpoint: Callable[[], None]) -> None:
        self.outlook = outlook
        self.checkpoint = checkpoint
        self.request = request
        self.status_quo = outlook.doses(Policy()).status_quo
        self.usual = _means(outlook.baseline)
        self.tested: dict[tuple[float, float], _Candidate] = {}
        if request.pm25_target is not None and np.isnan(self.usual[0]):
            raise DataUnavailable(
                "pm25 is not answered for this city, so no target for it can be met", field="pm25_target"
            )

    def test(self, levers: Float) -> None:
        """Evaluate one pair of levers, once."""
        pair = (round(float(levers[0]), LEVER_DECIMALS), round(float(levers[1]), LEVER_DECIMALS))
        if pair in self.tested:
            return
        self.checkpoint()
        doses = self.outlook.doses(Policy(car_free_ratio=pair[0], renewable_mix=pair[1]))
        means = _means(self.outlook.members_under(doses))
        quo = (self.status_quo.car_free_ratio, self.status_quo.renewable_mix)
        effort = sum(abs(value - usual) for value, usual in zip(pair, quo, strict=True))
        # An unanswered signal has no change to weigh.
        change = np.nan_to_num(means / np.where(self.usual > 0, self.usual, np.nan) - 1.0)
        score = float(self.request.weights.array() @ change) + EFFORT_WEIGHT * effort
        target = self.request.pm25_target
        excess = 0.0 if target is None else max(0.0, float(means[0]) - target)
        self.tested[pair] = _Candidate(pair, score, effort, excess, tuple(means.tolist()))

    def ranked(self) -> list[_Candidate]:
        """Return the candidates, best first."""
        has_target = self.request.pm25_target is not None
        return sorted(self.tested.values(), key=lambda candidate: candidate.rank(has_target=has_target))

    def run(self, seed: int) -> None:
        """Spend the budget: the status quo, a grid, then rounds of narrowing draws around the best."""
        budget = self.request.eval_budget
        self.test(np.array([self.status_quo.car_free_ratio, self.status_quo.renewable_mix]))
        side = max(2, int(np.sqrt(GRID_SHARE * budget)))
        ticks = np.linspace(0.0, 1.0, side)
        for levers in np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2):
            if len(self.tested) < budget:
                self.test(levers)
        generator = np.random.default_rng([seed, SEARCH_STREAM])
        spread = FIRST_SPREAD
        # Draws that round to a tested pair cost nothing, so the number of rounds needs its own end.
        for _ in range(budget):
            if len(self.tested) >= budget:
                break
            elite = self.ranked()[: max(2, int(ELITE_SHARE * len(self.tested)))]
            centre = np.array(elite[0].levers)
            around = np.array([candidate.levers for candidate in elite])
            scale = np.minimum(spread, np.maximum(around.std(axis=0), spread / 2))
            for levers in generator.normal(centre, scale, size=(ROUND, 2)):
                if len(self.tested) < budget:
                    self.test(np.clip(levers, 0.0, 1.0))
            spread /= 2


def _means(members: Float) -> Float:
    """Return the mean of each signal over members and hours, `(3,)`."""
    return np.asarray(members.mean(axis=(0, 1)), dtype=np.float64)


def go_on() -> None:
    """Let the search run to its end."""


def optimise(
    request: PlanRequest,
    city: City,
    history: pd.DataFrame | None,
    forecaster: Forecaster,
    *,
    now: datetime,
    provenance: Mapping[str, Any] | None = None,
    checkpoint: Callable[[], None] = go_on,
) -> dict[str, Any]:
    """Return the best policy found: `{policy, score, candidates_tested, target_met, predicted, baseline, …}`.

    Without a target the score is minimised: the weighted sum of relative changes of the horizon's means
    against the status quo. With `pm25_target` (µg/m³, mean over horizon and members) the policy that meets
    it with the least change of levers is returned; where none does, the one that comes closest, and
    `target_met` is false. The forecast is made once; seeded: the same request has the same answer.
    `checkpoint` is called before every candidate; what it raises ends the search.

    Raises:
        BadInput: The start or the assumptions are refused.
        DataUnavailable: There is nothing to answer from.
    """
    outlook = look_ahead(request.scenario(), city, history, forecaster, now=now)
    checkpoint()
    search = _Search(outlook, request, checkpoint)
    search.run(outlook.seed)
    best = search.ranked()[0]
    levers = dict(zip(ACTIONS, best.levers, strict=True))
    simulation = respond(outlook, Policy.model_validate(levers), provenance)
    return {
        "city": city.name,
        "start": outlook.start.isoformat(),
        "horizon": outlook.horizon_hours,
        "policy": levers,
        "score": best.score,
        "candidates_tested": len(search.tested),
        "pm25_target": request.pm25_target,
        "target_met": None if request.pm25_target is None else best.excess == 0.0,
        "weights": request.weights.model_dump(),
        "predicted": _named(best.means),
        "baseline": _named(tuple(search.usual.tolist())),
        "effect": simulation.effect,
        "meta": simulation.meta,
    }


def _named(means: tuple[float, ...]) -> dict[str, float | None]:
    """Return horizon means by signal, null where unanswered."""
    return {name: None if np.isnan(mean) else mean for name, mean in zip(TARGETS, means, strict=True)}
