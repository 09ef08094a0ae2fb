"""The truth city: a simulated city whose effects are known, to hold the tool's `effect` against.

Every scenario draws its own city from a stated distribution of structural coefficients, simulates it twice
with the same noise, with and without a measure, and asks the tool "what if?" with nothing but the record up
to the start and that distribution as assumptions. The wind raises renewables and clears the air, PM2.5 has a
memory, and levels change for good now and then; none of it may be mistaken for an effect.

200 scenarios answered by the default experiment trained on 600 days (`python -m benchmarks.truth_city
--train 600`), effect over leads 25-48 h: the relative effect is off by 8.8 % (PM2.5), 9.0 % (demand) and
6.7 % (traffic), and 90 % intervals cover 93, 85 and 93 %; in absolute units, which adds the error of the
forecast's own level, by 26.6, 9.7 and 8.7 %, cover 92, 84 and 93 %. Chance alone leaves 25.1, 2.6 and 3.7 %
of that to whoever knows the city's equations (`unavoidable_error`). Without an effect every interval
contains 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.assumptions import Assumptions, Coefficient
from urbanwm.cities import City, HolidayCalendar, Location
from urbanwm.contracts.scenario import Forecaster, Policy, PolicyPeriod, Scenario, Simulation
from urbanwm.contracts.signals import TARGETS
from urbanwm.simulator import INTERVAL_90, simulate
from urbanwm.synthetic import CityParameters, Intervention, SyntheticUrbanDataset
from urbanwm.synthetic.noise import Fork

Float = NDArray[np.float64]

TRUTH: Final = CityParameters(traffic_per_car_free=-0.65, regime_change=0.08)
"""Centre of the distribution that the cities are drawn from; about six changes of level a year and target."""
SPREAD: Final = 0.2
"""Half-width of the triangular distribution of each coefficient, relative to its centre."""
HORIZON_HOURS: Final = 48
JUDGED: Final = slice(24, 48)
"""Hours over which effects are averaged: leads 25-48 h."""
HISTORY_DAYS: Final = 240
FIRST_START: Final = datetime(2020, 1, 1, tzinfo=UTC)
START_DAYS: Final = 3 * 365
MORNING: Final = (7, 8, 9)
LATE_START_HOUR: Final = 12
KINDS: Final = ("car_free", "renewables", "morning_cut", "both_later")
CONTROL: Final = "control"
_LEVERS: Final = {
    ("car_free_ratio", "traffic_index"): "traffic_per_car_free",
    ("car_free_ratio", "pm25"): "pm25_per_car_free",
    ("renewable_mix", "pm25"): "pm25_per_renewable_share",
    ("renewable_mix", "energy_mwh"): "energy_per_renewable_share",
}
_STREAM: Final = 0x5EED_0010
FUTURE_SEED: Final = 10_000_000
"""Futures that might have come are drawn from seeds of their own."""


@dataclass(frozen=True)
class Question:
    """One scenario: a city, a start and a measure, as the truth has it and as the tool is asked."""

    kind: str
    parameters: CityParameters
    seed: int
    start: datetime
    intervention: Intervention
    policy: Policy


def truth_assumptions(centre: CityParameters = TRUTH, spread: float = SPREAD) -> Assumptions:
    """State the distribution of the cities' coefficients as an assumptions document."""
    lag = -1.0 / float(np.log(centre.pm25_memory))
    coefficients = []
    for (lever, signal), name in _LEVERS.items():
        value = float(getattr(centre, name))
        half = spread * abs(value)
        fields: dict[str, Any] = {"low": value - half, "central": value, "high": value + half}
        if signal == "pm25":
            fields |= {"lag_hours": lag, "part": "local"}
        fields |= {"lever": lever, "signal": signal, "source": "the generator's own distribution"}
        coefficients.append(Coefficient.model_validate(fields))
    return Assumptions(name="truth_city", form="absolute", coefficients=coefficients)


def truth_place(centre: CityParameters = TRUTH) -> City:
    """Return the city file of the truth city."""
    return City(
        name="truth_city",
        timezone="Europe/Berlin",
        location=Location(latitude=50.0, longitude=10.0),
        holidays=HolidayCalendar(country="DE"),
        simulated=True,
        pm25_background=centre.pm25_background,
        signals={},
    )


def questions(number: int, seed: int = 0, *, control: bool = False) -> list[Question]:
    """Draw scenarios: the kinds in turn, each with a city, a start and doses of its own.

    Args:
        number: How many.
        seed: Of the draws.
        control: Ask for more renewables in cities where they do nothing at all.
    """
    found = []
    for i in range(number):
        random = np.random.default_rng([seed, i, _STREAM])
        drawn = {
            name: float(getattr(TRUTH, name) * (1.0 + SPREAD * (random.random() - random.random())))
            for name in _LEVERS.values()
        }
        if control:
            drawn |= {"pm25_per_renewable_share": 0.0, "energy_per_renewable_share": 0.0}
        start = FIRST_START + timedelta(hours=int(random.integers(0, START_DAYS * 24)))
        ratio, mix = float(random.uniform(0.2, 0.9)), float(random.uniform(0.6, 0.85))
        kind = CONTROL if control else KINDS[i % len(KINDS)]
        measure = Intervention(start)
        period = PolicyPeriod()
        if kind in {"car_free", "morning_cut", "both_later"}:
            measure = replace(measure, car_free_ratio=ratio)
            period = period.model_copy(update={"car_free_ratio": ratio})
        if kind in {"renewables", "both_later", CONTROL}:
            measure = replace(measure, renewable_mix=mix)
            period = period.model_copy(update={"renewable_mix": mix})
        if kind == "morning_cut":
            measure = replace(measure, hours=MORNING)
            period = period.model_copy(update={"hours": list(MORNING)})
        if kind == "both_later":
            measure = replace(measure, start=start + timedelta(hours=LATE_START_HOUR))
            period = period.model_copy(update={"from_hour": LATE_START_HOUR})
        parameters = replace(TRUTH, **drawn)
        found.append(Question(kind, parameters, i, start, measure, Policy(schedule=[period])))
    return found


def worlds(question: Question, chance: Fork | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the record of the city without the measure, and with it, noise being the same.

    Args:
        question: Which city and measure.
        chance: What else might have come after the start; None: what came.
    """
    city, truth = truth_place(), SyntheticUrbanDataset(question.seed, question.parameters)
    span = (question.start - timedelta(days=HISTORY_DAYS), question.start + timedelta(hours=HORIZON_HOURS))
    without = truth.hours(*span, city.timezone, country="DE", chance=chance)
    held = truth.hours(*span, city.timezone, country="DE", intervention=question.intervention, chance=chance)
    return without, held


def true_effect(worlds_apart: tuple[pd.DataFrame, pd.DataFrame], start: datetime) -> tuple[Float, Float]:
    """Return the mean effect of the measure over the judged hours and the status quo's mean, `(3,)` each."""
    usual, changed = (
        world.loc[world.index >= start, list(TARGETS)].to_numpy()[JUDGED].mean(axis=0)
        for world in worlds_apart
    )
    return changed - usual, usual


def unavoidable_error(asked: list[Question], futures: int = 15) -> dict[str, float]:
    """Return the error of one who knows the city's equations, its coefficients and its state at the start.

    All that remains is chance: their best estimate is the median effect over futures that might have come
    from that state. The figures compare with `error` of `summarise_effects`, per signal.

    Args:
        asked: As `questions` draws them.
        futures: Futures per question.
    """
    wrong, true = np.zeros(len(TARGETS)), np.zeros(len(TARGETS))
    for question in asked:
        hour = int(question.start.timestamp()) // 3600
        courses = [Fork(question.seed, FUTURE_SEED + future, hour) for future in range(futures)]
        possible = [true_effect(worlds(question, course), question.start)[0] for course in courses]
        came = true_effect(worlds(question), question.start)[0]
        wrong += np.abs(np.median(possible, axis=0) - came)
        true += np.abs(came)
    return {name: float(value) for name, value in zip(TARGETS, wrong / true, strict=True)}


def ask(
    question: Question, record: pd.DataFrame, forecaster: Forecaster, samples: int, assumptions: Assumptions
) -> Simulation:
    """Put the question to the tool, which sees the record up to the start."""
    scenario = Scenario(
        city="truth_city",
        horizon_hours=HORIZON_HOURS,
        policy=question.policy,
        uncertainty_samples=samples,
        seed=question.seed,
        assumptions=assumptions.describe(),
    )
    known = record[record.index < question.start]
    return simulate(scenario, truth_place(), known, forecaster, now=question.start)


def compare_effects(
    forecaster: Forecaster,
    asked: list[Question],
    *,
    samples: int = 100,
    assumptions: Assumptions | None = None,
) -> pd.DataFrame:
    """Hold the tool's effects against the true ones: one row per question and target.

    Args:
        forecaster: Who forecasts the status quo.
        asked: As `questions` draws them.
        samples: Members.
        assumptions: What the tool is told; default the truth's own distribution.

    Returns:
        kind, signal, and the effect over leads 25-48 h, `true`, `mean`, `q05`, `q95` in the signal's unit and
        `relative_…` as a share of the status quo; `identical_before` and `zero_at_status_quo` as booleans.
    """
    told = truth_assumptions() if assumptions is None else assumptions
    rows: list[dict[str, Any]] = []
    for question in asked:
        without, held = worlds(question)
        effects, usual = true_effect((without, held), question.start)
        answer = ask(question, without, forecaster, samples, told)
        idle = ask(replace(question, policy=Policy()), without, forecaster, samples, told)
        before = (question.intervention.start - question.start) // timedelta(hours=1)
        shared = {
            "kind": question.kind,
            "zero_at_status_quo": idle.scenario.tobytes() == idle.baseline.tobytes(),
            "identical_before": answer.scenario[:, :before].tobytes()
            == answer.baseline[:, :before].tobytes(),
        }
        level = answer.baseline[:, JUDGED].mean(axis=1)
        effect = answer.scenario[:, JUDGED].mean(axis=1) - level
        for position, signal in enumerate(TARGETS):
            true = float(effects[position])
            absolute = _interval("", true, effect[:, position])
            share = effect[:, position] / level[:, position]
            relative = _interval("relative_", true / float(usual[position]), share)
            rows.append(shared | {"signal": signal} | absolute | relative)
    return pd.DataFrame(rows)


def _interval(prefix: str, true: float, members: Float) -> dict[str, float]:
    """Return the truth beside the members' mean and 90 % interval."""
    low, high = np.quantile(members, INTERVAL_90, method="hazen")
    values = {"true": true, "mean": float(members.mean()), "q05": float(low), "q95": float(high)}
    return {prefix + name: value for name, value in values.items()}


def summarise_effects(table: pd.DataFrame) -> dict[str, Any]:
    """Return the figures of `compare_effects` per signal (JSON-ready).

    `error` is the mean absolute error of the effect over the mean true effect; `coverage_90` the share of the
    scenarios whose true effect lies in the 90 % interval; both over scenarios in which there is an effect.
    `contains_zero` is the share of intervals that contain 0 where there is none.
    """
    summary: dict[str, Any] = {
        "zero_at_status_quo": bool(table["zero_at_status_quo"].all()),
        "identical_before": bool(table["identical_before"].all()),
    }
    for signal, rows in table.groupby("signal", observed=True):
        acts = rows["true"] != 0.0
        real, none = rows[acts], rows[~acts]
        found: dict[str, Any] = {"scenarios": len(real), "scenarios_without_effect": len(none)}
        for prefix in ("", "relative_") if len(real) else ():
            error = (real[f"{prefix}mean"] - real[f"{prefix}true"]).abs().mean()
            inside = real[f"{prefix}true"].between(real[f"{prefix}q05"], real[f"{prefix}q95"])
            found[f"{prefix}error"] = float(error / real[f"{prefix}true"].abs().mean())
            found[f"{prefix}coverage_90"] = float(inside.mean())
        if len(none):
            found["contains_zero"] = float(((none["q05"] <= 0.0) & (none["q95"] >= 0.0)).mean())
        summary[str(signal)] = found
    return summary
