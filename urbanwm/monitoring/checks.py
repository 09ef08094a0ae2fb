"""The checks of one city as alerts: its feeds before training, its drift and its forecasts after the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from urbanwm.cities import City
from urbanwm.contracts.signals import SIGNALS, TARGETS
from urbanwm.evaluation.metrics import ALL
from urbanwm.features.spec import calendar_of
from urbanwm.freshness import STALE_HOURS, ages_hours, is_stale
from urbanwm.monitoring.alerts import Alert, make_alert
from urbanwm.monitoring.drift import LIMIT, WINDOW_DAYS, drift
from urbanwm.monitoring.feeds import (
    SILENT_HOURS,
    VOLUME,
    frozen_hours,
    is_frozen,
    is_silent,
    level_jump,
    units_dropped,
)
from urbanwm.monitoring.live import BASELINE, CHAMPION, DayScore, LiveScore, days_below
from urbanwm.monitoring.plausibility import implausible
from urbanwm.monitoring.report import DriftScore, FeedAge

COVERAGE_LOW, COVERAGE_HIGH = 0.75, 0.985
"""Live coverage of the 90 % interval outside of which it is named."""
COVERAGE_ORIGINS = 14
"""Origin days without which live coverage says nothing: neighbouring days share their weather."""
SKILL_DAYS = 3
"""Origin days in a row below the baseline that are named."""


def feed_alerts(
    city: City, frame: pd.DataFrame, end: datetime, dropped: Mapping[str, Mapping[str, int]]
) -> list[Alert]:
    """Return what is wrong with a city's feeds: another unit, frozen, silent, stale.

    Args:
        city: The city file.
        frame: Hourly UTC frame up to the night.
        end: Where the known hours end: the night, or the end of recorded or simulated data.
        dropped: Source label → rule → values that tonight's ingest dropped.
    """
    found = []
    for signal in (name for name in city.signals if name in frame):
        series = frame[signal]
        if signal in TARGETS:
            found += _unit_alerts(city, signal, series, end, dropped)
        for name in dict.fromkeys((signal, VOLUME.get(signal, signal))):
            if name not in frame or not is_frozen(frame[name], name):
                continue
            value, hours = frame[name].dropna().iloc[-1], frozen_hours(frame[name])
            sentence = f"the value {value:g} {SIGNALS[name].unit} has been repeated for {hours} h"
            # A frozen weather field costs accuracy; a frozen target would be learnt.
            found.append(
                make_alert("feed_frozen", sentence, city=city.name, signal=signal, blocks=signal in TARGETS)
            )
    for signal, age in ages_hours(frame, end, city.targets()).items():
        if is_stale(age) and np.isfinite(age):
            sentence = f"the newest value is {age:.0f} h old; the limit is {STALE_HOURS} h"
            found.append(make_alert("feed_stale", sentence, city=city.name, signal=signal))
    return found


def _unit_alerts(
    city: City,
    signal: str,
    series: pd.Series,
    end: datetime,
    dropped: Mapping[str, Mapping[str, int]],
) -> list[Alert]:
    """Return the signs of another unit, in the values or in their absence."""
    jump = level_jump(series, signal, calendar_of(city))
    if jump is not None:
        sentence = (
            f"the level jumped by a factor of {jump.factor:.3g} within one hour, {jump.hours_ago} h ago, and "
            "stayed: another unit or another station"
        )
        return [make_alert("unit_change", sentence, city=city.name, signal=signal)]
    if not is_silent(series, end):
        return []
    lost = units_dropped(dropped, city.preference(signal))
    if lost:
        sentence = f"no value passed in {SILENT_HOURS} h, and {lost} were dropped as impossible: another unit"
        return [make_alert("unit_change", sentence, city=city.name, signal=signal)]
    if not (city.replay or city.simulated):
        # A live feed may be late by a day; past its limit it is stale.
        return []
    sentence = f"no value in {SILENT_HOURS} h of a record that was complete: it was dropped, or is not there"
    return [make_alert("feed_silent", sentence, city=city.name, signal=signal, blocks=True)]


def feed_ages(city: City, frame: pd.DataFrame, end: datetime) -> list[FeedAge]:
    """Return the age of each of a city's signals."""
    ages = ages_hours(frame, end, list(city.signals))
    return [
        FeedAge(city.name, signal, float(age) if np.isfinite(age) else None) for signal, age in ages.items()
    ]


def drift_scores(city: City, frame: pd.DataFrame) -> list[DriftScore]:
    """Return how far the last days of each target are from their likes."""
    found = []
    for signal in city.targets():
        judged = drift(frame[signal], signal, calendar_of(city)) if signal in frame else None
        if judged is not None:
            found.append(DriftScore(city.name, signal, judged.change, judged.score, LIMIT, WINDOW_DAYS))
    return found


def drift_alerts(scores: Sequence[DriftScore]) -> list[Alert]:
    """Return an alert per signal that drifted."""
    return [
        make_alert(
            "drift",
            f"{row.change:+.0%} against the same hours of the week over the last {row.days} days: "
            f"{abs(row.score):.1f} times what such days usually differ (limit {row.limit})",
            city=row.city,
            signal=row.signal,
        )
        for row in scores
        if row.score is not None and abs(row.score) > row.limit
    ]


def live_alerts(
    live: Sequence[LiveScore], days: Sequence[DayScore], champion: str | None, cities: Sequence[str]
) -> list[Alert]:
    """Return what the champion's live scores say: below the baseline for days, or a wrong spread."""
    found = []
    for city in cities:
        lost = days_below(days, champion, city)
        if lost >= SKILL_DAYS:
            ratios = [day.ratio for day in days if day.city == city][-lost:]
            sentence = (
                f"version {champion} was worse than the baseline on the last {lost} origin days (CRPS ratio "
                f"{min(ratios):.2f} to {max(ratios):.2f})"
            )
            found.append(make_alert("live_skill", sentence, city=city))
    for row in live:
        if row.model != CHAMPION or row.bucket != ALL or row.origins < COVERAGE_ORIGINS:
            continue
        if not COVERAGE_LOW <= row.coverage90 <= COVERAGE_HIGH:
            sentence = f"the 90 % interval held {row.coverage90:.0%} of {row.hours} hours"
            found.append(make_alert("live_coverage", sentence, city=row.city, signal=row.signal))
    return found


def forecast_alerts(newest: pd.DataFrame, frames: Mapping[str, pd.DataFrame]) -> list[Alert]:
    """Return what is implausible in the champion's newest forecasts.

    Args:
        newest: Stored forecasts of one origin per city.
        frames: City → what is known.
    """
    found = []
    # The baseline is made of observed days: where it is implausible, so are the feeds.
    judged = newest[newest["model"] != BASELINE]
    for (city, origin), table in judged.groupby(["city", "origin"]):
        frame = frames.get(city, pd.DataFrame())
        known = frame[frame.index < origin] if len(frame) else frame
        for signal, sentence in implausible(table, known).items():
            found.append(make_alert("implausible_forecast", sentence, city=str(city), signal=signal))
    return found
