"""From a policy to its effect: dose schedules, and the response layer that carries assumptions through time.

The response of signal i on member s at hour t is a factor on the forecast (DESIGN §5):

    factor = (1 + Σ additive c_s · r(t)) · Π multiplicative (1 + c_s · r(t))

where r is the dose, smoothed by a causal exponential kernel with the lag of the coefficient. The layer is
causal and linear in the dose: zero dose, nothing before the start and monotone hold by construction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.assumptions import Assumptions, Coefficient, Lever, load_assumptions
from urbanwm.cities import City
from urbanwm.contracts.scenario import Policy, PolicyPeriod
from urbanwm.contracts.signals import ACTIONS, SIGNALS, TARGETS
from urbanwm.freshness import rows_before

__all__ = [
    "LEVERS",
    "Doses",
    "StatusQuo",
    "action_schedule",
    "apply",
    "clip_to_vocabulary",
    "dose_schedule",
    "load_assumptions",
    "observed_status_quo",
    "policy_effective",
]

LEVERS: tuple[Lever, ...] = get_args(Lever)
NEUTRAL: dict[Lever, float] = {
    "car_free_ratio": 0.0,
    "renewable_mix": 0.0,
    "dynamic_pricing": 0.0,
    "gdp_activity_index": 1.0,
    "commercial_load_factor": 1.0,
}
"""Lever values at which an `absolute` formula has no effect."""

SHARE_WINDOW_HOURS = 168
"""Observed renewable shares averaged for the status quo: one week evens out wind and sun."""
SHARE_MAX_AGE_HOURS = 365 * 24
"""Older shares say little about today's power mix."""
SHARE_DECIMALS = 4
"""The status quo is published with this precision, so that a caller can send it back and mean the same."""
UNKNOWN_RENEWABLE_SHARE = 0.0
"""Used, and named as such, where a city neither observes nor states its share."""


@dataclass(frozen=True)
class StatusQuo:
    """The levers without a policy, and where the renewable share comes from."""

    renewable_mix: float = UNKNOWN_RENEWABLE_SHARE
    car_free_ratio: float = 0.0
    origin: str = "not known: taken as 0"

    def level(self, lever: Lever) -> float:
        """Return the status quo of one lever."""
        if lever == "car_free_ratio":
            return self.car_free_ratio
        return self.renewable_mix if lever == "renewable_mix" else NEUTRAL[lever]


@dataclass(frozen=True)
class Doses:
    """Lever values for every hour, `(horizon_hours,)` each, and the status quo they are compared with."""

    values: dict[Lever, NDArray[np.float64]]
    status_quo: StatusQuo

    def excess(self, lever: Lever) -> NDArray[np.float64]:
        """Return the lever minus its status quo, `(horizon_hours,)`; exactly 0 where it is left alone."""
        return self.values[lever] - self.status_quo.level(lever)


def observed_status_quo(history: pd.DataFrame | None, city: City, start: datetime) -> StatusQuo:
    """Return the renewable share observed before `start`, else the city file's, else 0, and say which."""
    if history is not None and "renewable_share" in history:
        first = rows_before(history, start - timedelta(hours=SHARE_MAX_AGE_HOURS))
        share = history["renewable_share"].iloc[first : rows_before(history, start)]
        recent = share.dropna().iloc[-SHARE_WINDOW_HOURS:]
        if len(recent):
            mean = round(float(recent.mean()), SHARE_DECIMALS)
            origin = f"mean of {len(recent)} observed hours up to {recent.index[-1].isoformat()}"
            return StatusQuo(mean, origin=origin)
    if city.renewable_share_status_quo is not None:
        return StatusQuo(city.renewable_share_status_quo, origin="stated in the city file")
    return StatusQuo()


def _period_covers(
    period: PolicyPeriod, times: pd.DatetimeIndex, local: pd.DatetimeIndex
) -> NDArray[np.bool_]:
    """Return which hours satisfy every condition of the period, `(horizon_hours,)`."""
    index = np.arange(len(times))
    covered = np.ones(len(times), dtype=bool)
    if period.start is not None:
        covered &= np.asarray(times >= period.start)
    if period.end is not None:
        covered &= np.asarray(times < period.end)
    if period.from_hour is not None:
        covered &= index >= period.from_hour
    if period.to_hour is not None:
        covered &= index < period.to_hour
    if period.hours is not None:
        covered &= np.isin(local.hour, period.hours)
    if period.weekdays is not None:
        covered &= np.isin(local.weekday, period.weekdays)
    return covered


def _ramp(covered: NDArray[np.bool_], ramp_hours: int) -> NDArray[np.float64]:
    """Return the share of the dose in force, `(horizon_hours,)`: 0 outside, rising linearly in each block.

    The value is the mean over the hour, so hour k of a block has `(k + 0.5) / ramp_hours`.
    """
    share = covered.astype(np.float64)
    if ramp_hours == 0:
        return share
    elapsed = 0
    for hour, inside in enumerate(covered):
        elapsed = elapsed + 1 if inside else 0
        if inside:
            share[hour] = min(1.0, (elapsed - 0.5) / ramp_hours)
    return share


def dose_schedule(
    policy: Policy,
    start: datetime,
    horizon_hours: int,
    city: City,
    status_quo: StatusQuo,
    ban_multiplier: float,
) -> Doses:
    """Lay a policy out over the hours of the horizon.

    The policy's own levers hold in every hour; a period of its schedule replaces those it names while it
    lasts (the later entry wins). `stricter_car_bans` multiplies the car-free ratio, capped at 1.
    """
    values: dict[Lever, NDArray[np.float64]] = {}
    for lever in ("car_free_ratio", "renewable_mix"):
        stated = getattr(policy, lever)
        values[lever] = np.full(horizon_hours, status_quo.level(lever) if stated is None else stated)
        for period in policy.schedule:
            wanted = getattr(period, lever)
            if wanted is not None:
                times = pd.date_range(start, periods=horizon_hours, freq="h", tz="UTC")
                covered = _period_covers(period, times, times.tz_convert(city.timezone))
                share = _ramp(covered, period.ramp_hours)
                ramped = values[lever] + share * (wanted - values[lever])
                # The full dose is set, not computed: x + 1 · (y − x) is not y in floating point.
                values[lever] = np.where(share == 1.0, wanted, ramped)
    if policy.stricter_car_bans:
        values["car_free_ratio"] = np.minimum(1.0, values["car_free_ratio"] * ban_multiplier)
    values["dynamic_pricing"] = np.full(horizon_hours, float(policy.dynamic_pricing))
    values["gdp_activity_index"] = np.full(horizon_hours, policy.gdp_activity_index)
    values["commercial_load_factor"] = np.full(horizon_hours, policy.commercial_load_factor)
    return Doses(values, status_quo)


def action_schedule(doses: Doses) -> NDArray[np.float64]:
    """Return the two actions of the world model, `(horizon_hours, 2)`, in the vocabulary's order."""
    return np.stack([doses.values[name] for name in ACTIONS], axis=1)  # type: ignore[index]


def policy_effective(policy: Policy, doses: Doses) -> dict[str, Any]:
    """Return what the policy means after defaults, bans and schedule (JSON-ready; ratios are means)."""
    return {
        "car_free_ratio": float(doses.values["car_free_ratio"].mean()),
        "renewable_mix": float(doses.values["renewable_mix"].mean()),
        "dynamic_pricing": policy.dynamic_pricing,
        "stricter_car_bans": policy.stricter_car_bans,
        "gdp_activity_index": policy.gdp_activity_index,
        "commercial_load_factor": policy.commercial_load_factor,
        "status_quo": {
            "car_free_ratio": doses.status_quo.car_free_ratio,
            "renewable_mix": doses.status_quo.renewable_mix,
            "origin": doses.status_quo.origin,
        },
    }


def _lagged(dose: NDArray[np.float64], lag_hours: float) -> NDArray[np.float64]:
    """Smooth a dose by a causal exponential kernel of e-folding time `lag_hours`, `(horizon_hours,)`.

    r(t) = ρ · r(t − 1) + (1 − ρ) · dose(t), ρ = exp(−1 / lag): exactly 0 until the first dose, the full dose
    in the limit, an echo that fades after it.
    """
    if lag_hours == 0.0:
        return dose
    keep = float(np.exp(-1.0 / lag_hours))
    response = np.empty_like(dose)
    level = 0.0
    for hour, value in enumerate(dose.tolist()):
        level = keep * level + (1.0 - keep) * value
        response[hour] = level
    return response


def _factor(
    terms: list[tuple[Coefficient, NDArray[np.float64]]], doses: Doses, form: str, *, lagged: bool
) -> NDArray[np.float64]:
    """Return one signal's factor, `(samples, horizon_hours)`; brackets never fall below 0."""
    samples, hours = len(terms[0][1]), len(doses.values["car_free_ratio"])
    bracket, product = np.ones((samples, hours)), np.ones((samples, hours))
    for coefficient, drawn in terms:
        dose = _lagged(doses.excess(coefficient.lever), coefficient.lag_hours if lagged else 0.0)
        if form == "absolute":
            dose = dose + (doses.status_quo.level(coefficient.lever) - NEUTRAL[coefficient.lever])
        if coefficient.combine == "additive":
            bracket += drawn[:, None] * dose
        else:
            product *= np.maximum(0.0, 1.0 + drawn[:, None] * dose)
    return np.maximum(0.0, bracket) * product


def _without_policy(doses: Doses) -> Doses:
    """Return the status quo over the same hours."""
    quo = doses.status_quo
    return replace(
        doses, values={lever: np.full_like(v, quo.level(lever)) for lever, v in doses.values.items()}
    )


def apply(
    members: NDArray[np.float64],
    doses: Doses,
    assumptions: Assumptions,
    *,
    background_pm25: float,
    seed: int = 0,
    draws: list[NDArray[np.float64]] | None = None,
    lagged: bool = True,
    on_levels: bool = False,
) -> NDArray[np.float64]:
    """Return the members under the policy, `(samples, horizon_hours, 3)`, physical units, not yet clipped.

    Args:
        members: Forecast under the status quo, or bare levels (`on_levels`); NaN stays NaN.
        doses: Levers by hour and the status quo.
        assumptions: Coefficients; each member keeps its own draw of each, so policies stay comparable.
        seed: Seed of the draws.
        draws: The draws themselves, as `Assumptions.sample` makes them, where the caller keeps them.
        background_pm25: µg/m³ that no measure can remove; a value already below it is left alone.
        lagged: False gives the response without delay or echo, for the decomposition.
        on_levels: Multiply by the absolute factor itself; only formulas of form `absolute` have one.
    """
    changed = members.copy()
    draws = assumptions.sample(members.shape[0], seed) if draws is None else draws
    for position, signal in enumerate(TARGETS):
        terms = [
            pair for pair in zip(assumptions.coefficients, draws, strict=True) if pair[0].signal == signal
        ]
        if not terms:
            continue
        factor = _factor(terms, doses, assumptions.form, lagged=lagged)
        if assumptions.form == "absolute" and not on_levels:
            usual = _factor(terms, _without_policy(doses), assumptions.form, lagged=lagged)
            # Where the status quo's own factor is 0 nothing is left that a policy could change.
            factor = np.divide(factor, usual, out=np.ones_like(factor), where=usual > 0.0)
        before = members[:, :, position]
        after = before * factor
        if signal == "pm25" and assumptions.form == "difference":
            after = np.maximum(after, np.minimum(before, background_pm25))
        changed[:, :, position] = after
    return changed


def clip_to_vocabulary(members: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return members limited to what the vocabulary allows for each target; NaN stays NaN."""
    low = np.array([SIGNALS[name].minimum for name in TARGETS])
    high = np.array([SIGNALS[name].maximum for name in TARGETS])
    return np.clip(members, low, high)
