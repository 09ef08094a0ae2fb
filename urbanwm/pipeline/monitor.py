"""Watching a night: data checks before training, forecasts stored after the gate, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import pandas as pd

from urbanwm.cities import City, load_city
from urbanwm.clock import Clock, require_utc, utc_now
from urbanwm.errors import DataUnavailable, UrbanWMError
from urbanwm.ingest import city_now
from urbanwm.lake import Lake
from urbanwm.monitoring import Alert, MonitorReport, make_alert
from urbanwm.monitoring.alerts import by_severity
from urbanwm.monitoring.checks import (
    drift_alerts,
    drift_scores,
    feed_ages,
    feed_alerts,
    forecast_alerts,
    live_alerts,
)
from urbanwm.monitoring.drift import HISTORY_DAYS as DRIFT_DAYS
from urbanwm.monitoring.feeds import HISTORY_DAYS as FEED_DAYS
from urbanwm.monitoring.feeds import VOLUME
from urbanwm.monitoring.live import DayScore, by_bucket, by_day, live_scores, with_observed
from urbanwm.monitoring.notify import Notifier
from urbanwm.monitoring.stored import ForecastStore
from urbanwm.pipeline.monitor_log import log_monitor
from urbanwm.pipeline.stored_forecasts import StoredForecasts, serving_champion, store_forecasts
from urbanwm.settings import Settings
from urbanwm.stores import lake_of

__all__ = ["MonitorReport", "StoredForecasts", "data_checks", "live_days", "run_monitor", "store_forecasts"]

LIVE_DAYS: Final = 30
"""Origins whose forecasts are scored, days back."""
Dropped = Mapping[str, Mapping[str, Mapping[str, int]]]
"""City → source label → rule → values that tonight's ingest dropped."""


def data_checks(
    settings: Settings, names: Sequence[str], as_of: datetime, *, dropped: Dropped | None = None
) -> list[Alert]:
    """Look at the newest hours of every city before anything learns from them.

    Args:
        settings: Where the lake is.
        names: Cities.
        as_of: The time of the night.
        dropped: What tonight's ingest dropped, where it is known.

    Returns:
        Alerts, gravest first; those with `blocks` forbid promotion. A city without data is left to the
        training, which says so.

    Raises:
        BadInput: An unknown city, or an `as_of` without a time zone.
    """
    moment = require_utc(as_of, "as_of")
    sight = _Sight(settings, moment)
    found: list[Alert] = []
    for city in (load_city(name, settings) for name in names):
        frame = sight.frame(city, FEED_DAYS)
        if frame is not None:
            found += feed_alerts(city, frame, sight.end(city), (dropped or {}).get(city.name, {}))
    return by_severity(found)


def run_monitor(
    settings: Settings,
    names: Sequence[str],
    as_of: datetime,
    clock: Clock = utc_now,
    *,
    checks: Sequence[Alert] | None = None,
) -> MonitorReport:
    """Score what was promised, look at feeds, drift and tonight's forecasts, and tell what is wrong, once.

    What cannot be looked at is named in the report and as an alert; the rest goes on.

    Args:
        settings: Where everything is; gives the webhook.
        names: Cities.
        as_of: The time of the night.
        clock: Handed to the registry.
        checks: Alerts that the night found already (data checks, a failure, a rollback); None: no night is at
            work, and the data checks are made here.

    Raises:
        BadInput: An unknown city, or an `as_of` without a time zone.
    """
    moment = require_utc(as_of, "as_of")
    cities = _cities(settings, names)
    alerts = list(data_checks(settings, names, moment) if checks is None else checks)
    sight = _Sight(settings, moment)
    frames = sight.frames(cities, DRIFT_DAYS)
    champion = _champion_version(settings, clock, sight.errors)
    came_true = _came_true(settings, cities, frames, moment)
    stored, rows, days = came_true.stored, came_true.rows, came_true.days
    errors = sight.errors + came_true.damaged
    live = by_bucket(rows) if len(rows) else []
    drifts = [row for name, frame in frames.items() for row in drift_scores(cities[name], frame)]
    alerts += drift_alerts(drifts) + live_alerts(live, days, champion, list(cities))
    if stored is not None:
        newest = stored[stored["origin"] == stored.groupby("city")["origin"].transform("max")]
        alerts += forecast_alerts(newest, frames)
    freshness = [
        row
        for name, frame in frames.items()
        for row in feed_ages(cities[name], frame, sight.end(cities[name]))
    ]
    report = MonitorReport(
        moment, list(cities), champion, by_severity(alerts), live, days, freshness, drifts, errors=errors
    )
    return _tell(settings, report, clock, between_nights=checks is None)


def live_days(settings: Settings, names: Sequence[str], as_of: datetime) -> list[DayScore]:
    """Score the stored forecasts per origin day, oldest first: what a rollback rests on.

    Args:
        settings: Where lake and stored forecasts are.
        names: Cities.
        as_of: The time of the night.

    Raises:
        BadInput: An unknown city, or an `as_of` without a time zone.
    """
    moment = require_utc(as_of, "as_of")
    cities = _cities(settings, names)
    frames = _Sight(settings, moment).frames(cities, LIVE_DAYS + 1)
    return _came_true(settings, cities, frames, moment).days


class _CameTrue(NamedTuple):
    """Stored forecasts with what happened: tables of forecasts and of scores, scores by day, and damage."""

    stored: pd.DataFrame | None
    rows: pd.DataFrame
    days: list[DayScore]
    damaged: list[str]


def _came_true(
    settings: Settings, cities: Mapping[str, City], frames: Mapping[str, pd.DataFrame], moment: datetime
) -> _CameTrue:
    """Read the forecasts of the last days and score them on what is known."""
    store = ForecastStore(settings.forecasts_dir)
    # Tonight's own origin may be this very moment.
    stored, damaged = store.read(
        list(cities), moment - timedelta(days=LIVE_DAYS), moment + timedelta(hours=1)
    )
    rows = live_scores(with_observed(stored, frames)) if stored is not None else pd.DataFrame()
    days = by_day(rows, {name: city.timezone for name, city in cities.items()}) if len(rows) else []
    return _CameTrue(stored, rows, days, damaged)


def _cities(settings: Settings, names: Sequence[str]) -> dict[str, City]:
    """Return the city files by name."""
    return {city.name: city for city in (load_city(name, settings) for name in names)}


def _tell(settings: Settings, report: MonitorReport, clock: Clock, *, between_nights: bool) -> MonitorReport:
    """Send scores to the tracker and alerts to people; a tracker that is away is itself an alert."""
    try:
        log_monitor(settings, report, clock)
    except (UrbanWMError, OSError) as error:
        report = replace(report, errors=[*report.errors, f"the tracker took no scores: {error}"])
    report = _with_errors(report)
    notifier = _notifier(settings)
    told = notifier.tell(report.alerts, report.as_of, report.cities, between_nights=between_nights)
    return replace(report, told=told.to_dict())


def _with_errors(report: MonitorReport) -> MonitorReport:
    """Add an alert for what could not run."""
    if not report.errors:
        return report
    alert = make_alert("monitor_incomplete", "; ".join(report.errors))
    return replace(report, alerts=by_severity([*report.alerts, alert]))


@dataclass
class _Sight:
    """What can be seen of the lake at the night's time, and what could not."""

    settings: Settings
    moment: datetime
    errors: list[str] = field(default_factory=list)

    def lake(self) -> Lake:
        """Return the lake."""
        return lake_of(self.settings)

    def frame(self, city: City, days: int) -> pd.DataFrame | None:
        """Read the last days of a city's signals; None, and a sentence, where there are none."""
        try:
            end = self.end(city)
            return self.lake().read(
                city.name,
                start=end - timedelta(days=days),
                end=end,
                signals=list(dict.fromkeys([*city.signals, *VOLUME.values()])),
            )
        except DataUnavailable as error:
            self.errors.append(str(error))
            return None

    def frames(self, cities: Mapping[str, City], days: int) -> dict[str, pd.DataFrame]:
        """Read the last days of every city that has any."""
        found = {name: self.frame(city, days) for name, city in cities.items()}
        return {name: frame for name, frame in found.items() if frame is not None}

    def end(self, city: City) -> datetime:
        """Return where a city's known hours end: the night, or the end of recorded or simulated data."""
        return min(self.moment, city_now(city, self.lake(), lambda: self.moment))


def _champion_version(settings: Settings, clock: Clock, errors: list[str]) -> str | None:
    """Return the version in service; None, and a sentence, where that cannot be found out."""
    try:
        cached = serving_champion(settings, clock)
    except (UrbanWMError, OSError) as error:
        errors.append(f"the champion cannot be found: {error}")
        return None
    return cached.version if cached else None


def _notifier(settings: Settings) -> Notifier:
    """Return who tells people, as configured."""
    url = settings.alert_webhook_url.get_secret_value() if settings.alert_webhook_url else None
    return Notifier(settings.home / "monitoring", url, settings.alert_repeat_days)
