"""From a policy to doses: the status quo of a city, and the levers laid out hour by hour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.assumptions import Lever
from urbanwm.cities import City
from urbanwm.contracts.scenario import Policy, PolicyPeriod
from urbanwm.contracts.signals import ACTIONS, SIGNALS, TARGETS
from urbanwm.freshness import rows_before

LEVERS: tuple[Lever, ...] = get_args(Lever)
NEUTRAL: dict[Lever, float] = {
    "car_free_ratio": 0.0,
    "renewable_mix": 0.0,
    "dynamic_pricing": 0.0,
    "gdp_activity_index": 1.0,
    "commercial_load_factor": 1.0,
}
"""Lever values at which an `absolute` formula has no effect."""

SHARE_WINDOW_HOURS = 8 * 168
"""Observed renewable shares averaged for the status quo: one week does not even out wind and sun. On 40 truth
cities the error of an effect on energy falls from 13.2 % (1 week) to 11.5 % (4), 10.7 % (8), 11.1 % (26)."""
SHARE_MAX_AGE_HOURS = 365 * 24
"""Older shares say little about today's power mix."""
SHARE_DECIMALS = 4
"""The status quo is published with this precision, so that a caller can send it back and mean the same."""
ERROR_LIMIT = 2.5
"""Standard errors at which the uncertainty of the status quo is cut off."""
WEEK_HOURS = 168
UNKNOWN_RENEWABLE_SHARE = 0.0
"""Used, and named as such, where a city neither observes nor states its share."""


@dataclass(frozen=True)
class StatusQuo:
    """The levers without a policy, and where the renewable share comes from.

    Attributes:
        renewable_mix: Share, 0-1.
        car_free_ratio: Ratio, 0-1.
        origin: Where the share comes from.
        renewable_mix_error: Standard error of the share: what wind and sun leave uncertain of a mean.
    """

    renewable_mix: float = UNKNOWN_RENEWABLE_SHARE
    car_free_ratio: float = 0.0
    origin: str = "not known: taken as 0"
    renewable_mix_error: float = 0.0

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

    def member_excess(self, lever: Lever, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the excess as each member sees it, `(samples, horizon_hours)`; one row where all agree.

        A mix of 0.7 is a larger step from a status quo of 0.40 than from one of 0.44, and a mean of windy
        weeks does not tell which it is. Asking for the published status quo is asking for no change: towards
        it the error fades in proportion, so that the dose stays monotone and zero stays zero.

        Args:
            lever: Which.
            errors: `(samples,)` in standard errors of the status quo, within ± `ERROR_LIMIT`.
        """
        excess = self.excess(lever)[None, :]
        error = self.status_quo.renewable_mix_error
        if lever != "renewable_mix" or error == 0.0 or not excess.any():
            return excess
        known = np.minimum(1.0, np.abs(excess) / (ERROR_LIMIT * error))
        return np.asarray(excess + known * error * errors[:, None])


def observed_status_quo(history: pd.DataFrame | None, city: City, start: datetime) -> StatusQuo:
    """Return the renewable share observed before `start`, else the city file's, else 0, and say which."""
    if history is not None and "renewable_share" in history:
        first = rows_before(history, start - timedelta(hours=SHARE_MAX_AGE_HOURS))
        share = history["renewable_share"].iloc[first : rows_before(history, start)]
        recent = share.dropna().iloc[-SHARE_WINDOW_HOURS:]
        if len(recent):
            mean = round(float(recent.mean()), SHARE_DECIMALS)
            origin = f"mean of {len(recent)} observed hours up to {recent.index[-1].isoformat()}"
            return StatusQuo(mean, origin=origin, renewable_mix_error=_mean_error(recent.to_numpy()))
    if city.renewable_share_status_quo is not None:
        return StatusQuo(city.renewable_share_status_quo, origin="stated in the city file")
    return StatusQuo()


def _mean_error(values: NDArray[np.float64]) -> float:
    """Return the standard error of a mean of hours, from its whole weeks; 0 with fewer than two of them.

    Hours follow each other too closely to be counted one by one; weeks of wind hardly do.
    """
    weeks = values[len(values) % WEEK_HOURS :].reshape(-1, WEEK_HOURS).mean(axis=1)
    return float(weeks.std(ddof=1) / np.sqrt(len(weeks))) if len(weeks) > 1 else 0.0


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


def clip_to_vocabulary(members: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return members limited to what the vocabulary allows for each target; NaN stays NaN."""
    low = np.array([SIGNALS[name].minimum for name in TARGETS])
    high = np.array([SIGNALS[name].maximum for name in TARGETS])
    return np.clip(members, low, high)
