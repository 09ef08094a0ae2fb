"""What every forecaster must do before it may answer: identities, bounds and honest widening, in seconds.

Run before promotion and when the service loads a bundle. A failure is a sentence that begins with the name of
the check; an empty list means fit for service.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.cities import City
from urbanwm.contracts.scenario import Forecaster, Policy, PolicyPeriod, Scenario
from urbanwm.contracts.signals import HORIZON_HOURS_MAX, SIGNALS, TARGETS
from urbanwm.simulator import Outlook, look_ahead, respond

Float = NDArray[np.float64]

HORIZON_HOURS = 48
SAMPLES, MANY_SAMPLES = 20, 100
SEED = 7
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
MORNING = [7, 8, 9]
START_HOUR = 12
"""Hour of the horizon at which the measure of `nothing_before_the_start` begins."""
MISSING_HOURS = 48
"""How long the signal of `missing_signal_widens` has been silent."""
SILENT_STARTS, SILENT_STARTS_APART_DAYS = 5, 6
"""Starts that `missing_signal_widens` averages over: at a single one the hidden days may end a holiday, which
no honest forecast could know."""
SILENT_HISTORY_DAYS = 14
"""Record that has to lie before the earliest of them; a shorter record is judged by its end alone."""
SILENT_SHIFT_LIMIT = 0.5
"""Widths by which a silent signal's level may move on average. An honest level moves by a quarter of its 90 %
interval (mean |error| ÷ width of a Gaussian: 0.8 σ ÷ 3.3 σ); beyond a half the interval is half as wide as it
should be. Madrid, 92 sets of starts within 300 days: none failed; with silent levels taken as 0, 29 did."""
WIDTH_LOSS = 0.10
"""An interval may be this much narrower without a signal before that counts as shrinking: sampling noise."""
SHIFT_LIMIT = 1.0
"""Widths of its own 90 % interval by which a forecast may move at a single start."""
LEVEL_RATIO = 5.0
"""A forecast beyond this many times the largest recent value is in the wrong unit."""
QUANTILE_TOLERANCE = 0.15
"""Widths by which the 5-95 % quantiles may differ between few and many samples."""


@dataclass(frozen=True)
class _Bench:
    """A forecaster under test, and its answer for a day and for a week."""

    forecaster: Forecaster
    city: City
    history: pd.DataFrame
    start: datetime
    outlook: Outlook

    def ahead(
        self,
        history: pd.DataFrame,
        horizon_hours: int,
        samples: int = SAMPLES,
        start: datetime | None = None,
    ) -> Outlook:
        """Forecast the status quo from other data or start, for another horizon, with other samples."""
        scenario = Scenario(
            city=self.city.name, horizon_hours=horizon_hours, uncertainty_samples=samples, seed=SEED
        )
        return look_ahead(scenario, self.city, history, self.forecaster, now=start or self.start)

    def under(self, policy: Policy) -> Float:
        """Return the members under a policy, `(samples, horizon_hours, 3)`."""
        return self.outlook.members_under(self.outlook.doses(policy))


def check_behaviour(
    forecaster: Forecaster,
    city: City,
    history: pd.DataFrame,
    start: datetime,
    *,
    seed: int = SEED,
    checks: Collection[str] | None = None,
) -> list[str]:
    """Run the checks and return the failures, each `"name: what happened"`.

    Args:
        forecaster: World model or baseline.
        city: The city to try it on.
        history: Its hourly frame (UTC), some weeks at least.
        start: First hour to forecast, at the end of the history.
        seed: Seed of the forecasts.
        checks: Names out of `CHECKS`; default all.
    """
    scenario = Scenario(city=city.name, horizon_hours=HORIZON_HOURS, uncertainty_samples=SAMPLES, seed=seed)
    outlook = look_ahead(scenario, city, history, forecaster, now=start)
    bench = _Bench(forecaster, city, history, start, outlook)
    wanted = CHECKS if checks is None else {name: CHECKS[name] for name in checks}
    return [f"{name}: {found}" for name, check in wanted.items() for found in check(bench)]


def _answers_itself(bench: _Bench) -> Iterator[str]:
    """The forecaster under test answers, not a fallback in its place."""
    served_by = bench.outlook.forecast.served_by
    if served_by != bench.forecaster.served_by:
        yield f"answered by the {served_by}: {'; '.join(bench.outlook.forecast.reasons)}"


def _zero_dose(bench: _Bench) -> Iterator[str]:
    """A policy equal to the status quo is the forecast, bit for bit."""
    quo = bench.outlook.status_quo
    stated = Policy(car_free_ratio=quo.car_free_ratio, renewable_mix=quo.renewable_mix)
    for policy in (Policy(), stated):
        if bench.under(policy).tobytes() != bench.outlook.forecast.members.tobytes():
            yield f"{policy.model_dump(exclude_defaults=True) or 'an empty policy'} changed the forecast"
            return


def _monotone(bench: _Bench) -> Iterator[str]:
    """More car-free never means more traffic, nor more PM2.5."""
    always = [Policy(car_free_ratio=dose) for dose in DOSES]
    mornings = [Policy(schedule=[PolicyPeriod(hours=MORNING, car_free_ratio=dose)]) for dose in DOSES]
    for kind, policies in (("all day", always), ("in the morning", mornings)):
        answers = [bench.under(policy) for policy in policies]
        for name in ("traffic_index", "pm25"):
            position = TARGETS.index(name)
            steps = np.diff([answer[..., position] for answer in answers], axis=0)
            if np.nanmax(steps, initial=-np.inf) > 0.0:
                yield f"{name} rose by {np.nanmax(steps):.3g} with more car-free {kind}"


def _nothing_before_the_start(bench: _Bench) -> Iterator[str]:
    """Before a measure begins the scenario is the baseline, bit for bit; afterwards it is not."""
    period = PolicyPeriod(from_hour=START_HOUR, car_free_ratio=0.8, renewable_mix=1.0)
    changed, usual = bench.under(Policy(schedule=[period])), bench.outlook.forecast.members
    if changed[:, :START_HOUR].tobytes() != usual[:, :START_HOUR].tobytes():
        yield "the measure acts before it begins"
    traffic = TARGETS.index("traffic_index")
    answered = np.nan_to_num(usual[:, START_HOUR:, traffic])
    if (answered > 0).any() and not (np.nan_to_num(changed[:, START_HOUR:, traffic]) < answered).any():
        yield "the measure never acts"


def _bounded(bench: _Bench) -> Iterator[str]:
    """The strongest policies stay within the vocabulary and never push PM2.5 below the background."""
    strongest = Policy(
        car_free_ratio=1.0, renewable_mix=1.0, dynamic_pricing=True, stricter_car_bans=True,
        gdp_activity_index=0.5, commercial_load_factor=0.5,
    )  # fmt: skip
    busiest = Policy(gdp_activity_index=1.5, commercial_load_factor=1.5, renewable_mix=0.0)
    for policy in (strongest, busiest):
        members = bench.under(policy)
        for position, name in enumerate(TARGETS):
            signal, values = SIGNALS[name], members[..., position]
            if ((values < signal.minimum) | (values > signal.maximum)).any():
                yield f"{name} leaves {signal.minimum:g} to {signal.maximum:g} {signal.unit}"
    pm25 = TARGETS.index("pm25")
    usual = bench.outlook.forecast.members[..., pm25]
    if (bench.under(strongest)[..., pm25] < np.minimum(usual, bench.city.pm25_background)).any():
        yield "pm25 is pushed below the background"


def _unit(bench: _Bench) -> Iterator[str]:
    """The forecast has the level of the record: a forecast in another unit does not."""
    recent = bench.history[bench.history.index < bench.start].iloc[-HORIZON_HOURS_MAX * 4 :]
    members = bench.outlook.forecast.members
    for position, name in enumerate(TARGETS):
        observed = recent[name].dropna() if name in recent else pd.Series(dtype=float)
        level = float(members[..., position].mean())
        if len(observed) == 0 or np.isnan(level):
            continue
        low, high = float(observed.min()) / LEVEL_RATIO, float(observed.max()) * LEVEL_RATIO
        if not low <= level <= high:
            yield f"{name} averages {level:.3g} {SIGNALS[name].unit}, the record says {low:.3g} to {high:.3g}"


def _order_of_scenarios(bench: _Bench) -> Iterator[str]:
    """An answer does not depend on what was asked before it."""
    first, second = Policy(car_free_ratio=0.3), Policy(renewable_mix=0.9)
    alone = respond(bench.outlook, first).scenario.tobytes()
    respond(bench.outlook, second)
    again = bench.ahead(bench.history, HORIZON_HOURS)
    if respond(replace(again, seed=bench.outlook.seed), first).scenario.tobytes() != alone:
        yield "the same question had two answers"


def _samples(bench: _Bench) -> Iterator[str]:
    """More samples give the same quantiles, within the error of few."""
    few = bench.outlook.forecast.members
    many = bench.ahead(bench.history, HORIZON_HOURS, MANY_SAMPLES).forecast.members
    levels = (0.05, 0.5, 0.95)
    coarse, fine = (np.quantile(m, levels, axis=0, method="hazen").mean(axis=1) for m in (few, many))
    tolerance = QUANTILE_TOLERANCE * (fine[2] - fine[0])
    for position, name in enumerate(TARGETS):
        if (np.abs(coarse - fine)[:, position] > tolerance[position]).any():
            yield f"{name}: quantiles of {SAMPLES} and {MANY_SAMPLES} samples disagree"


def _week(bench: _Bench) -> Iterator[str]:
    """168 h ahead the forecast is finite, within the vocabulary, and has not run away."""
    members = bench.ahead(bench.history, HORIZON_HOURS_MAX).forecast.members
    for position, name in enumerate(TARGETS):
        values, day = members[..., position], bench.outlook.forecast.members[..., position]
        if np.isnan(day).all():
            continue
        if not np.isfinite(values).all():
            yield f"{name} is not finite at 168 h"
        elif not day.mean() / LEVEL_RATIO <= values[:, -24:].mean() <= day.mean() * LEVEL_RATIO:
            yield f"{name} runs away: {values[:, -24:].mean():.3g} on day 7, {day.mean():.3g} before"


def _missing_signal_widens(bench: _Bench) -> Iterator[str]:
    """Without its last days a signal's interval does not shrink, its level does not jump, and it is named."""
    starts = _silent_starts(bench)
    limit = SHIFT_LIMIT if len(starts) == 1 else SILENT_SHIFT_LIMIT
    usual = [bench.ahead(bench.history, HORIZON_HOURS, start=start).forecast.members for start in starts]
    for position, name in enumerate(TARGETS):
        if np.isnan(bench.outlook.forecast.members[..., position]).all():
            continue
        silent = [
            bench.ahead(_silenced(bench.history, name, start), HORIZON_HOURS, start=start).forecast
            for start in starts
        ]
        pairs = [
            (before[..., position], after.members[..., position])
            for before, after in zip(usual, silent, strict=True)
        ]
        if not np.isfinite([after for _, after in pairs]).all():
            yield f"{name}: not finite without its last {MISSING_HOURS} h"
            continue
        # Relative widths: an episode that has been forgotten takes its level and its width with it.
        widths = [
            (_width(after) / after.mean()) / (_width(before) / before.mean()) for before, after in pairs
        ]
        change = float(np.mean(widths)) - 1.0
        if change < -WIDTH_LOSS:
            yield f"{name}: the interval shrinks by {-change:.0%} when its feed is silent"
        shift = float(np.mean([abs(after.mean() - before.mean()) / _width(after) for before, after in pairs]))
        if shift > limit:
            yield f"{name}: the level shifts by {shift:.2f} of its interval when its feed is silent"
        if not all(any(name in reason for reason in forecast.reasons) for forecast in silent):
            yield f"{name}: the silent feed is not named"


def _silent_starts(bench: _Bench) -> list[datetime]:
    """Return the end of the record, and earlier starts at the same hour where the record is long enough."""
    starts = [
        bench.start - timedelta(days=number * SILENT_STARTS_APART_DAYS) for number in range(SILENT_STARTS)
    ]
    enough = bench.history.index[0] <= starts[-1] - timedelta(days=SILENT_HISTORY_DAYS)
    return starts if enough else starts[:1]


def _silenced(history: pd.DataFrame, name: str, start: datetime) -> pd.DataFrame:
    """Return the history without the last values of one signal before `start`."""
    gappy = history.copy()
    gappy.loc[gappy.index >= start - timedelta(hours=MISSING_HOURS), name] = np.nan
    return gappy


def _absent_signal(bench: _Bench) -> Iterator[str]:
    """Without a signal that it used to have, a city is answered for the others, at about the same level."""
    usual = bench.outlook.forecast.members
    answered = [i for i in range(len(TARGETS)) if not np.isnan(usual[..., i]).all()]
    for gone in answered if len(answered) > 1 else ():
        without = bench.ahead(bench.history.drop(columns=TARGETS[gone]), HORIZON_HOURS).forecast
        if not np.isnan(without.members[..., gone]).all():
            yield f"{TARGETS[gone]}: forecast although nothing was ever observed of it"
        for position in (i for i in answered if i != gone):
            before, after = usual[..., position], without.members[..., position]
            if not np.isfinite(after).all():
                yield f"{TARGETS[position]}: not finite without {TARGETS[gone]}"
            elif abs(float(after.mean() - before.mean())) > SHIFT_LIMIT * _width(before):
                yield f"{TARGETS[position]}: the level shifts when there is no {TARGETS[gone]}"


def _width(values: Float) -> float:
    """Return the mean width of the 90 % interval of `(samples, hours)`."""
    low, high = np.quantile(values, (0.05, 0.95), axis=0, method="hazen")
    return float((high - low).mean())


CHECKS: dict[str, Callable[[_Bench], Iterator[str]]] = {
    "answers_itself": _answers_itself,
    "zero_dose": _zero_dose,
    "monotone_in_dose": _monotone,
    "nothing_before_the_start": _nothing_before_the_start,
    "bounded": _bounded,
    "unit_preserving": _unit,
    "order_of_scenarios": _order_of_scenarios,
    "more_samples": _samples,
    "stable_for_a_week": _week,
    "missing_signal_widens": _missing_signal_widens,
    "absent_signal": _absent_signal,
}
