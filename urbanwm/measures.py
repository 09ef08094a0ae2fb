"""What the record says of a measure that really came into force: an estimate beside the assumption.

A city file may mark measures and their dates. Each is estimated as an interrupted series: the log of a
signal's daily mean is regressed on the calendar, the season and the weather, which is the counterfactual, and
on the share of the day in which the measure was in force (Bernal, Cummins, Gasparrini 2017, Int. J.
Epidemiol. 46, 348-355). The interval is the wider of two: resampled blocks of residual days, and measures
that never were, at earlier dates. No estimate replaces an assumption: one city, one date and no control group
identify little, and every estimate names its possible confounders.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from threading import Lock
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.assumptions import Assumptions
from urbanwm.cities import City, Measure
from urbanwm.evaluation.comparison import student_widening
from urbanwm.features.calendar import DAYS_PER_YEAR, HOURS_PER_DAY, REST_DAY, SPECIAL_DAY, SUNDAY, local_days
from urbanwm.features.spec import calendar_of

Float = NDArray[np.float64]

DAYS_BEFORE_MIN: Final = 56
DAYS_IN_FORCE_MIN: Final = 28
SEASON_DAYS_MIN: Final = 365
"""Days before the measure from which a season can be told from it."""
HOURS_PRESENT_MIN: Final = 18
"""Hours of a day that must have a value."""
WEATHER_PRESENT_MIN: Final = 0.9
BLOCK_DAYS: Final = 14
DRAWS: Final = 1000
INTERVAL_90: Final = (0.05, 0.95)
CONFIDENCE: Final = INTERVAL_90[1] - INTERVAL_90[0]
PLACEBO_STEP_DAYS: Final = 7
PLACEBOS_MIN: Final = 3
"""Stretches without a measure that must fit in side by side, if need be shortened."""
HEATING_BELOW_C: Final = 15.0
COOLING_ABOVE_C: Final = 21.0
KEPT_RECORDS: Final = 32
WEATHER: Final = ("wind_speed_ms", "temperature_c", "precipitation_mm", "pressure_hpa")
ALWAYS_CONFOUNDED: Final = (
    "anything else that changed for good at about the same time",
    "slow trends: no control city is compared with",
)


@dataclass(frozen=True)
class _Days:
    """Local days: `design (days, columns)`, what its columns adjust for, and each hour's day."""

    design: Float
    adjusted_for: list[str]
    day: NDArray[np.int64]
    number: int


def measure_estimates(
    city: City, frame: pd.DataFrame | None, assumptions: Assumptions
) -> list[dict[str, Any]]:
    """Return one estimate per marked measure and signal that its lever is assumed to act on (JSON-ready).

    Each has `measure`, `lever`, `signal`, `dose`, `start`, `days_before`, `days_in_force`, the `assumed`
    relative change at that dose, the `estimated` one with its 90 % interval (None where the record is too
    short), `adjusted_for`, `confounders` and a sentence, `text`.

    Args:
        city: Its `measures` are looked up.
        frame: Hourly record (UTC) up to the time of asking.
        assumptions: What stands beside the estimates.
    """
    if frame is None or frame.empty or not city.measures:
        return []
    estimates = []
    for measure in city.measures:
        for coefficient in assumptions.coefficients:
            if coefficient.lever != measure.lever or coefficient.signal not in frame:
                continue
            quo = _status_quo(measure, frame, city)
            excess = measure.dose - quo
            assumed = {end: getattr(coefficient, end) * excess for end in ("low", "central", "high")}
            found = _remembered(city, measure, coefficient.signal, frame)
            estimates.append(_described(measure, coefficient.signal, excess, assumed, found))
    return estimates


def _status_quo(measure: Measure, frame: pd.DataFrame, city: City) -> float:
    """Return the lever before the measure."""
    if measure.lever == "car_free_ratio":
        return 0.0
    before = (
        frame.loc[frame.index < measure.start, ["renewable_share"]] if "renewable_share" in frame else None
    )
    observed = None if before is None else before["renewable_share"].dropna()
    if observed is not None and len(observed):
        return float(observed.mean())
    return city.renewable_share_status_quo or 0.0


_memory: OrderedDict[Hashable, dict[str, Any]] = OrderedDict()
_lock = Lock()


def _remembered(city: City, measure: Measure, signal: str, frame: pd.DataFrame) -> dict[str, Any]:
    """Return the estimate of a record, worked out once: it takes far longer than a what-if may."""
    used = [name for name in (signal, *WEATHER) if name in frame]
    content = tuple((name, float(np.nansum(frame[name].to_numpy(dtype=np.float64)))) for name in used)
    place = city.model_dump_json(include={"timezone", "holidays"})
    key = (place, measure, frame.index[0], frame.index[-1], len(frame), content)
    with _lock:
        found = _memory.get(key)
    if found is None:
        found = _estimate(city, measure, signal, frame)
        with _lock:
            _memory[key] = found
            while len(_memory) > KEPT_RECORDS:
                _memory.popitem(last=False)
    return found


def _estimate(city: City, measure: Measure, signal: str, frame: pd.DataFrame) -> dict[str, Any]:
    """Return days, covariates and the relative change with its interval; None where the record is short."""
    frame = frame.asfreq("h")
    index = pd.DatetimeIndex(frame.index)
    in_force = np.asarray(index >= measure.start)
    if measure.end is not None:
        in_force &= np.asarray(index < measure.end)
    days = _days(city, frame, index, measure)
    values = _daily(days, frame[signal].to_numpy(dtype=np.float64))
    step = np.bincount(days.day, in_force, days.number) / np.maximum(
        np.bincount(days.day, minlength=days.number), 1
    )
    usable = np.isfinite(values) & (values > 0.0) & np.isfinite(days.design).all(axis=1)
    before, after = int((usable & (step == 0.0)).sum()), int((usable & (step > 0.5)).sum())
    found: dict[str, Any] = {"days_before": before, "days_in_force": after, "adjusted_for": days.adjusted_for}
    if before < DAYS_BEFORE_MIN or after < DAYS_IN_FORCE_MIN:
        return found | {"estimated": None}
    design = np.column_stack([step[usable], days.design[usable]])
    target = np.log(values[usable])
    weights = np.linalg.pinv(design)
    coefficients = weights @ target
    residuals = target - design @ coefficients
    freedom = np.sqrt(len(target) / max(len(target) - design.shape[1], 1))
    low, high = np.quantile(freedom * _block_sums(weights[0], residuals), INTERVAL_90)
    earlier = step[usable] == 0.0
    half = _placebo_half_width(days.design[usable][earlier], target[earlier], after)
    change = {"mean": 0.0, "q05": min(float(low), -half), "q95": max(float(high), half)}
    return found | {
        "estimated": {name: float(np.expm1(coefficients[0] + shift)) for name, shift in change.items()}
    }


def _days(city: City, frame: pd.DataFrame, index: pd.DatetimeIndex, measure: Measure) -> _Days:
    """Lay the record out in local days with what would have made them differ without the measure."""
    days = local_days(index, calendar_of(city))
    number = len(days.weekday)
    rest = days.day_class == REST_DAY
    kind = np.where(rest, SUNDAY, days.weekday)
    columns = [
        np.ones(number),
        *(kind == weekday for weekday in range(SUNDAY)),
        days.day_class == SPECIAL_DAY,
    ]
    adjusted = ["weekday", "public holidays"]
    layout = _Days(np.empty((number, 0)), adjusted, days.day, number)
    if (measure.start - index[0]).days >= SEASON_DAYS_MIN:
        angle = 2.0 * np.pi * np.arange(number) / DAYS_PER_YEAR
        columns += [np.sin(angle), np.cos(angle)]
        adjusted.append("season")
    for name in WEATHER:
        hourly = frame[name].to_numpy(dtype=np.float64) if name in frame else np.full(len(frame), np.nan)
        daily = _daily(layout, hourly)
        if np.isfinite(daily).mean() < WEATHER_PRESENT_MIN:
            continue
        adjusted.append(name)
        if name == "temperature_c":
            columns += [np.maximum(HEATING_BELOW_C - daily, 0.0), np.maximum(daily - COOLING_ABOVE_C, 0.0)]
        elif name == "pressure_hpa":
            columns.append(daily - np.nanmean(daily))
        else:
            columns.append(np.log1p(np.maximum(daily, 0.0)))
    design = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
    return _Days(design, adjusted, days.day, number)


def _daily(days: _Days, hourly: Float) -> Float:
    """Return daily means, `(days,)`; NaN where fewer than 18 hours have a value."""
    present = np.isfinite(hourly)
    count = np.bincount(days.day, present, days.number)
    total = np.bincount(days.day, np.where(present, hourly, 0.0), days.number)
    enough = count >= min(HOURS_PRESENT_MIN, HOURS_PER_DAY)
    return np.divide(total, count, out=np.full(days.number, np.nan), where=enough)


def _placebo_half_width(design: Float, target: Float, days_in_force: int) -> float:
    """Return the half-width of the interval that measures which never were would have needed.

    Every stretch before the measure that is as long as it was in force is estimated like it: their spread
    holds what the residuals of single days do not, levels that change for good and seasons not fully adjusted
    for (placebo dates: Abadie, Diamond, Hainmueller 2010, J. Am. Stat. Assoc. 105, 493-505).
    """
    number = len(target)
    length = min(days_in_force, number // PLACEBOS_MIN)
    starts = np.arange(0, number - length + 1, PLACEBO_STEP_DAYS)
    steps = ((np.arange(number)[:, None] >= starts) & (np.arange(number)[:, None] < starts + length)).astype(
        float
    )
    basis, _ = np.linalg.qr(design)
    # What the other columns leave of the steps and of the target (Frisch, Waugh, Lovell).
    left = steps - basis @ (basis.T @ steps)
    size = (left**2).sum(axis=0)
    effects = (left.T @ target)[size > 1.0] / size[size > 1.0]
    spread = float(np.sqrt((effects**2).mean())) if len(effects) else 0.0
    return NormalDist().inv_cdf(INTERVAL_90[1]) * student_widening(number / length, CONFIDENCE) * spread


def _block_sums(weights: Float, residuals: Float) -> Float:
    """Return the error of a weighted sum under circular block resamples of the residuals, `(draws,)`."""
    random, number = np.random.default_rng(0), len(residuals)
    starts = random.integers(0, number, size=(DRAWS, -(-number // BLOCK_DAYS)))
    chosen = (starts[:, :, None] + np.arange(BLOCK_DAYS)).reshape(DRAWS, -1)[:, :number] % number
    return np.asarray(residuals[chosen] @ weights)


def _described(
    measure: Measure, signal: str, excess: float, assumed: Mapping[str, float], found: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the estimate with its confounders and one sentence for people."""
    adjusted = list(found["adjusted_for"])
    confounders = list(ALWAYS_CONFOUNDED)
    confounders += (
        [] if "season" in adjusted else ["the season: less than a year is known before the measure"]
    )
    confounders += (
        [] if "wind_speed_ms" in adjusted else ["the wind, which clears the air and drives wind power"]
    )
    confounders += [measure.note] if measure.note else []
    span = " to ".join(f"{assumed[end]:+.1%}" for end in sorted(("low", "high"), key=assumed.__getitem__))
    estimated = found["estimated"]
    days = f"{found['days_in_force']} days in force, {found['days_before']} before"
    said = (
        f"the record is too short to say ({days})"
        if estimated is None
        else f"the record says {estimated['mean']:+.1%} ({estimated['q05']:+.1%} to {estimated['q95']:+.1%})"
    )
    return {
        "measure": measure.name,
        "lever": measure.lever,
        "signal": signal,
        "dose": measure.dose,
        "dose_above_status_quo": excess,
        "start": measure.start.isoformat(),
        "end": None if measure.end is None else measure.end.isoformat(),
        "assumed": dict(assumed),
        **found,
        "confounders": confounders,
        "text": f"{measure.name}, {signal}: assumed {span} at this dose; {said}; not told apart from "
        + "; ".join(confounders),
    }
