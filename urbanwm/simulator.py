"""One question, one answer: status quo beside scenario, member by member, and their paired difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.assumptions import Assumptions, load_assumptions
from urbanwm.baseline import BaselineForecaster, reference_forecast
from urbanwm.cities import City
from urbanwm.clock import floor_hour, require_utc
from urbanwm.contracts.scenario import Forecast, Forecaster, Policy, Scenario, Simulation
from urbanwm.contracts.signals import SIGNALS, TARGETS
from urbanwm.effects import apply
from urbanwm.errors import BadInput, BundleInvalid, DataUnavailable
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.freshness import last_present, rows_before
from urbanwm.measures import measure_estimates
from urbanwm.policy import (
    Doses,
    StatusQuo,
    clip_to_vocabulary,
    dose_schedule,
    observed_status_quo,
    policy_effective,
)
from urbanwm.response import to_response

__all__ = [
    "Forecaster",
    "Outlook",
    "WorldModelForecaster",
    "look_ahead",
    "respond",
    "simulate",
    "to_response",
]

Float = NDArray[np.float64]

INTERVAL_90 = (0.05, 0.95)
DEFAULT_SEED = 0
"""Used when a request names no seed: the same question then has the same answer."""
START_LIMIT = timedelta(days=366)
"""How far a start may lie from the newest data (or from now): further out is no forecast of anything."""


@dataclass(frozen=True)
class Outlook:
    """The status quo ahead: all that a policy needs to be laid upon. Does not depend on the policy.

    Attributes:
        forecast: Members of the status quo.
        start: First hour, UTC.
        city: The city.
        history: What was known.
        assumptions: What levers are assumed to do.
        seed: Seed of forecast and coefficients.
    """

    forecast: Forecast
    start: datetime
    city: City
    history: pd.DataFrame | None
    assumptions: Assumptions
    seed: int

    @property
    def horizon_hours(self) -> int:
        """Return H."""
        return int(self.forecast.members.shape[1])

    @cached_property
    def status_quo(self) -> StatusQuo:
        """The levers without a policy."""
        return observed_status_quo(self.history, self.city, self.start)

    @cached_property
    def baseline(self) -> Float:
        """Members under the status quo, `(samples, horizon_hours, 3)`; computed once for all policies."""
        return self.members_under(self.doses(Policy()))

    @property
    def known(self) -> pd.DataFrame | None:
        """The hours before the start."""
        return None if self.history is None else self.history.iloc[: rows_before(self.history, self.start)]

    @cached_property
    def data_as_of(self) -> str | None:
        """The newest hour with a target value before the start, ISO 8601; None when there is none."""
        if self.history is None:
            return None
        rows = rows_before(self.history, self.start)
        known = [self.history[name].to_numpy() for name in TARGETS if name in self.history]
        found = [last for values in known if (last := last_present(values, rows)) is not None]
        return str(self.history.index[max(found)].isoformat()) if found else None

    def doses(self, policy: Policy) -> Doses:
        """Lay a policy out over the horizon."""
        ban = self.assumptions.car_ban_multiplier
        return dose_schedule(policy, self.start, self.horizon_hours, self.city, self.status_quo, ban)

    @cached_property
    def _draws(self) -> list[Float]:
        """One value per member for every coefficient; every policy meets the same ones."""
        return self.assumptions.sample(self.forecast.members.shape[0], self.seed)

    def members_under(self, doses: Doses, *, lagged: bool = True) -> Float:
        """Return members under these doses, `(samples, horizon_hours, 3)`, within the vocabulary's limits."""
        changed = apply(
            self.forecast.members,
            doses,
            self.assumptions,
            seed=self.seed,
            draws=self._draws,
            background_pm25=self.city.pm25_background,
            lagged=lagged,
            on_levels=self.forecast.reference_form,
        )
        return clip_to_vocabulary(changed)


def look_ahead(
    scenario: Scenario, city: City, history: pd.DataFrame | None, forecaster: Forecaster, *, now: datetime
) -> Outlook:
    """Forecast the status quo for a scenario; falls back to the baseline where the world model cannot answer.

    Args:
        scenario: The question; its policy is not looked at.
        city: Its city.
        history: Hourly UTC frame, columns = signals; None when the lake has nothing.
        forecaster: Who answers first.
        now: Start when the scenario names none (UTC).

    Raises:
        BadInput: The start lies before the data or too far from them, or the assumptions are refused.
        DataUnavailable: Neither data nor an initial state to answer from.
    """
    assumptions = load_assumptions(scenario.assumptions)
    start = floor_hour(require_utc(scenario.start_time or now, "start_time"))
    _check_start(start, history, scenario, now)
    seed = DEFAULT_SEED if scenario.seed is None else scenario.seed
    horizon, samples, state = scenario.horizon_hours, scenario.uncertainty_samples, scenario.initial_state
    notes: list[str] = []
    forecast: Forecast | None = None
    if forecaster.served_by == "world_model":
        try:
            forecast = forecaster.forecast(history, city, start, horizon, samples, seed, state)
        except (DataUnavailable, BundleInvalid) as failure:
            # The next rung of the ladder, named in the answer.
            notes.append(f"world model not used: {failure.message}")
    if forecast is None and assumptions.form == "absolute" and state is not None:
        forecast = reference_forecast(state, city, start, horizon, samples)
    if forecast is None:
        fallback = forecaster if forecaster.served_by == "baseline" else BaselineForecaster()
        forecast = fallback.forecast(history, city, start, horizon, samples, seed, state)
    return Outlook(
        replace(forecast, reasons=[*notes, *forecast.reasons]), start, city, history, assumptions, seed
    )


def _check_start(start: datetime, history: pd.DataFrame | None, scenario: Scenario, now: datetime) -> None:
    """Refuse a start that no data could answer; with an `initial_state` only nonsense is refused."""
    has_rows = history is not None and len(history) > 0
    newest = _last_observed(history) or now
    oldest = history.index[0].to_pydatetime() if history is not None and has_rows else now - START_LIMIT
    limit = max(newest, now) + START_LIMIT
    if start > limit or (start <= oldest and scenario.initial_state is None):
        raise BadInput(
            "start_time is outside of what can be answered",
            field="start_time",
            value=start.isoformat(),
            allowed=f"after {oldest.isoformat()}, up to {limit.isoformat()}",
        )


def _last_observed(history: pd.DataFrame | None) -> datetime | None:
    """Return the last hour in which any target was observed; weather forecasts reach further."""
    if history is None:
        return None
    position = last_present(history.reindex(columns=list(TARGETS)).to_numpy(), len(history))
    return None if position is None else history.index[position].to_pydatetime()


def respond(outlook: Outlook, policy: Policy, provenance: Mapping[str, Any] | None = None) -> Simulation:
    """Lay a policy on an outlook; members keep their random numbers, so the difference is policy, not dice.

    Args:
        outlook: The status quo ahead.
        policy: The levers.
        provenance: What the holder of the model adds to `meta` (model_version, run_id, dataset_version, …);
            its `degraded` and `reasons` are joined with the forecast's.
    """
    doses = outlook.doses(policy)
    baseline = outlook.baseline
    scenario = outlook.members_under(doses)
    immediate = outlook.members_under(doses, lagged=False)
    latents = None
    if outlook.forecast.z is not None and outlook.forecast.h is not None:
        latents = (outlook.forecast.z, outlook.forecast.h)
    return Simulation(
        city=outlook.city.name,
        start=outlook.start,
        horizon_hours=outlook.horizon_hours,
        policy=policy,
        timestamps=[outlook.start + timedelta(hours=hour) for hour in range(outlook.horizon_hours)],
        baseline=baseline,
        scenario=scenario,
        effect=_effects(baseline, scenario, immediate),
        meta=_meta(outlook, policy, doses, provenance or {}),
        latents=latents,
    )


def simulate(
    scenario: Scenario,
    city: City,
    history: pd.DataFrame | None,
    forecaster: Forecaster,
    *,
    now: datetime,
    provenance: Mapping[str, Any] | None = None,
) -> Simulation:
    """Answer one "what if": `look_ahead`, then `respond`. Pure: same arguments, same bytes.

    Raises:
        BadInput: The start or the assumptions are refused.
        DataUnavailable: There is nothing to answer from.
    """
    return respond(look_ahead(scenario, city, history, forecaster, now=now), scenario.policy, provenance)


def _effects(baseline: Float, scenario: Float, immediate: Float) -> dict[str, dict[str, Any] | None]:
    """Return the paired differences by signal, over the horizon and by hour; None for an unanswered signal.

    `assumed` is what the coefficients alone would do in the hours of the dose, `dynamic` what delay and echo
    add to it; they sum to `mean`.
    """
    difference = scenario - baseline
    assumed = (immediate - baseline).mean(axis=0)
    by_hour, usual = difference.mean(axis=0), baseline.mean(axis=(0, 1))
    low, high = np.quantile(difference, INTERVAL_90, axis=0, method="hazen")
    whole = np.quantile(difference.mean(axis=1), INTERVAL_90, axis=0, method="hazen")
    dynamic = by_hour - assumed
    effects: dict[str, dict[str, Any] | None] = {}
    for position, name in enumerate(TARGETS):
        mean = float(by_hour[:, position].mean())
        hourly = {"mean": by_hour, "q05": low, "q95": high, "assumed": assumed, "dynamic": dynamic}
        effects[name] = {
            "unit": SIGNALS[name].unit,
            "mean": mean,
            "q05": float(whole[0, position]),
            "q95": float(whole[1, position]),
            "relative": mean / float(usual[position]) if usual[position] else None,
            "assumed": float(assumed[:, position].mean()),
            "dynamic": float(dynamic[:, position].mean()),
            "hourly": {key: values[:, position].tolist() for key, values in hourly.items()},
        }
        if np.isnan(difference[..., position]).any():
            effects[name] = None
    return effects


def _beside_assumptions(outlook: Outlook) -> dict[str, Any]:
    """Return what the record says of marked measures; nothing for a city that marks none."""
    if not outlook.city.measures:
        return {}
    return {"estimates_from_record": measure_estimates(outlook.city, outlook.known, outlook.assumptions)}


def _meta(outlook: Outlook, policy: Policy, doses: Doses, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return who answered, from what, and how sure one may be of it."""
    forecast = outlook.forecast
    by_model = forecast.served_by == "world_model"
    reasons = [*provenance.get("reasons", []), *forecast.reasons]
    return {
        **provenance,
        "served_by": forecast.served_by,
        "model_version": provenance.get("model_version") if by_model else None,
        "run_id": provenance.get("run_id") if by_model else None,
        "dataset_version": provenance.get("dataset_version"),
        "data_as_of": outlook.data_as_of,
        "degraded": bool(provenance.get("degraded", False)) or forecast.degraded,
        "reasons": list(dict.fromkeys(reasons)),
        "assumptions": outlook.assumptions.describe() | _beside_assumptions(outlook),
        "policy_effective": policy_effective(policy, doses),
        "seed": outlook.seed,
        "samples": int(forecast.members.shape[0]),
        "simulated_city": outlook.city.simulated,
        "units": {name: SIGNALS[name].unit for name in TARGETS},
    }
