"""The nightly loop driven over past dates as if live, so that months of nights can be watched in an hour."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from functools import partial
from pathlib import Path
from typing import Any, Final

from urbanwm.cities import load_city
from urbanwm.contracts.signals import TARGETS
from urbanwm.last_night import read_last_night
from urbanwm.pipeline.night import run_nightly
from urbanwm.pipeline.night_report import NightReport
from urbanwm.settings import Settings, apply_environment

NIGHT_HOUR: Final = time_of_day(4, 30)
"""Local time of a replayed night, that of the schedule."""


@dataclass(frozen=True)
class ReplayedNight:
    """One night of a replay, in one row.

    Attributes:
        night: Local date.
        status: As `NightReport.status`.
        decision: What became of the candidates, in one sentence.
        version: The candidate that met the champion, or None.
        promoted: Whether it serves now; None where nothing was decided.
        champion: The version in service afterwards, or None.
        rows_new: Hours that the ingest added to the lake.
        rows_corrected: Hours that it corrected.
        scores: Held-out errors of that candidate, in the signals' units.
        serving_ratio: CRPS of the version in service ÷ the baseline's on the night's held-out origins,
            geometric mean over the signals; None where nothing was trained.
        alerts: What the monitoring found: kind, city, signal, message.
        drift_alarms: How many of them say "drift".
        rolled_back: Whether live skill took the champion out of service.
        errors: What went wrong.
        seconds: Wall time.
    """

    night: date
    status: str
    decision: str
    version: str | None
    promoted: bool | None
    champion: str | None
    rows_new: int
    rows_corrected: int
    scores: dict[str, float]
    serving_ratio: float | None
    alerts: list[dict[str, Any]]
    drift_alarms: int
    rolled_back: bool
    errors: list[str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"night": self.night.isoformat()}

    def text(self) -> str:
        """Return one line for a terminal."""
        ratio = "" if self.serving_ratio is None else f", serving ÷ baseline {self.serving_ratio:.3f}"
        alerts = f", alerts {', '.join(alert['key'] for alert in self.alerts)}" if self.alerts else ""
        return (
            f"{self.night} {self.status}: +{self.rows_new} rows, champion {self.champion or 'none'}{ratio}"
            f"{alerts} ({self.seconds:.1f} s)  {self.decision}"
        )


@dataclass(frozen=True)
class Replay:
    """A replay in one document.

    Attributes:
        cities: Which cities.
        home: Where its lake, registry and forecasts are.
        nights: One row per night.
        seconds: Wall time in all.
    """

    cities: list[str]
    home: Path
    nights: list[ReplayedNight] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with what one counts first."""
        return {
            "cities": self.cities,
            "home": str(self.home),
            "promotions": sum(night.promoted is True for night in self.nights),
            "refusals": sum(night.promoted is False for night in self.nights),
            "rollbacks": sum(night.rolled_back for night in self.nights),
            "drift_alarms": sum(night.drift_alarms for night in self.nights),
            "failed": sum(night.status == "failed" for night in self.nights),
            "seconds": self.seconds,
            "nights": [night.to_dict() for night in self.nights],
        }


def replay_settings(settings: Settings, names: Sequence[str], start: date, home: Path | None) -> Settings:
    """Return settings that touch nothing live: an own home, lake and registry, and nobody is alarmed."""
    own = home or settings.home / "replay" / f"{'+'.join(names)}-{start.isoformat()}"
    return settings.model_copy(
        update={
            "home": own.resolve(),
            "lake_uri_override": None,
            "tracking_uri_override": None,
            "prefect_api_url": None,
            "alert_webhook_url": None,
        }
    )


def run_replay(
    settings: Settings,
    names: Sequence[str],
    start: date,
    nights: int,
    *,
    told: Callable[[ReplayedNight], None] | None = None,
) -> Replay:
    """Run the nightly loop as if on these dates, one night after the other.

    Each night sees what its date could have seen: a source's newer hours are not ingested, and nothing is
    trained or judged on them. A night that was replayed before changes nothing.

    Args:
        settings: As `replay_settings` gives them; steps, candidates and the nights between two trainings
            decide how long it takes.
        names: Cities.
        start: First date, local to the first city.
        nights: How many.
        told: Called after each night.

    Raises:
        BadInput: A city is unknown.
    """
    apply_environment(settings)
    zone = load_city(names[0], settings).zone
    began = time.perf_counter()
    rows: list[ReplayedNight] = []
    for offset in range(nights):
        day = start + timedelta(days=offset)
        moment = datetime.combine(day, NIGHT_HOUR, tzinfo=zone).astimezone(UTC)
        since = time.perf_counter()
        report = run_nightly(settings, names, as_of=moment, clock=partial(_at, moment))
        remembered = read_last_night(settings)
        champion = remembered.champion if remembered else None
        rows.append(_row(day, report, champion, time.perf_counter() - since))
        if told is not None:
            told(rows[-1])
    return Replay(list(names), settings.home, rows, round(time.perf_counter() - began, 2))


def _at(moment: datetime) -> datetime:
    """Return a replayed night's present."""
    return moment


def _row(day: date, report: NightReport, champion: str | None, seconds: float) -> ReplayedNight:
    """Shorten a night's report to one row; a night that decided nothing keeps its champion."""
    promotion, training = report.promotion, report.training
    metrics = training.metrics if training else {}
    return ReplayedNight(
        night=day,
        status=report.status,
        decision=report.decision,
        version=training.version if training else None,
        promoted=promotion.promoted if promotion else None,
        champion=champion,
        rows_new=sum(city.inserted for city in report.ingest),
        rows_corrected=sum(city.updated for city in report.ingest),
        scores={name: value for name, value in metrics.items() if name.endswith("/mae")},
        serving_ratio=_serving_ratio(metrics, promotion.promoted) if promotion else None,
        alerts=report.alerts,
        drift_alarms=sum(alert["key"] == "drift" for alert in report.alerts),
        rolled_back=bool(report.rollback and report.rollback["done"]),
        errors=report.errors,
        seconds=round(seconds, 2),
    )


def _serving_ratio(metrics: dict[str, float], promoted: bool) -> float | None:
    """Return the serving version's CRPS over the baseline's; None where the night did not forecast it."""
    serving = "test" if promoted else "champion"
    logs = [
        math.log(metrics[f"{serving}/{signal}/crps"] / metrics[f"baseline/{signal}/crps"])
        for signal in TARGETS
        if f"{serving}/{signal}/crps" in metrics and f"baseline/{signal}/crps" in metrics
    ]
    return math.exp(sum(logs) / len(logs)) if logs else None
