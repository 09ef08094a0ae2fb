"""What the monitoring of one night found, in one document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from urbanwm.evaluation.metrics import ALL, BUCKETS
from urbanwm.markdown import table
from urbanwm.monitoring.alerts import Alert, blocking_reasons
from urbanwm.monitoring.live import DayScore, LiveScore, days_below


@dataclass(frozen=True)
class FeedAge:
    """How old a feed is.

    Attributes:
        city: City.
        signal: Signal.
        age_hours: Hours between the end of its newest hour and the night; None: it never had a value.
    """

    city: str
    signal: str
    age_hours: float | None


@dataclass(frozen=True)
class DriftScore:
    """How far the last days of a signal are from what is usual for them.

    Attributes:
        city: City.
        signal: Signal.
        change: Median ratio to the same hours of the week in the reference weeks, minus 1.
        score: The change in robust standard deviations of earlier such changes; None: too little history.
        limit: Score at which an alert is raised.
        days: Length of the window, days.
    """

    city: str
    signal: str
    change: float
    score: float | None
    limit: float
    days: int


@dataclass(frozen=True)
class MonitorReport:
    """The monitoring of one night.

    Attributes:
        as_of: The time for which it ran, UTC.
        cities: Which cities.
        champion: Version in service, or None.
        alerts: What is wrong, gravest first.
        live: Scores of stored forecasts against what happened, per city, signal, lead bucket and forecaster.
        days: Champion against baseline per city and origin day.
        freshness: Age of each feed.
        drift: Drift per city and signal.
        told: How many alerts were sent, kept back as known, and could not be sent.
        errors: Parts that could not run, one sentence each.
    """

    as_of: datetime
    cities: list[str]
    champion: str | None = None
    alerts: list[Alert] = field(default_factory=list)
    live: list[LiveScore] = field(default_factory=list)
    days: list[DayScore] = field(default_factory=list)
    freshness: list[FeedAge] = field(default_factory=list)
    drift: list[DriftScore] = field(default_factory=list)
    told: Mapping[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def blocking(self) -> list[str]:
        """Why no model may be promoted now; empty: one may."""
        return blocking_reasons(self.alerts)

    def days_below_baseline(self, city: str | None = None) -> int:
        """Return for how many origin days in a row, up to the last scored one, the champion lost.

        Args:
            city: One city; None: all cities together, each with the same weight on each day.
        """
        return days_below(self.days, self.champion, city)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        document = asdict(self) | {"as_of": self.as_of.isoformat(), "blocking": self.blocking}
        document["days"] = [day.to_dict() for day in self.days]
        document["days_below_baseline"] = {city: self.days_below_baseline(city) for city in self.cities}
        return document

    def text(self) -> str:
        """Return the report for a terminal."""
        lines = [f"monitoring of {self.as_of:%Y-%m-%d %H:%M} UTC: {len(self.alerts)} alerts"]
        lines += [f"  {alert.text()} ({alert.runbook})" for alert in self.alerts]
        lines += [f"  {score.text()}" for score in self.live if score.bucket == ALL]
        lines += [f"  not run: {error}" for error in self.errors]
        return "\n".join(lines)

    def live_table(self) -> list[dict[str, Any]]:
        """Return the live scores as rows for a page."""
        return [asdict(row) for row in self.live]

    def feed_table(self) -> list[dict[str, Any]]:
        """Return age and drift of every feed as rows for a page."""
        drift = {(row.city, row.signal): row for row in self.drift}
        rows = []
        for feed in self.freshness:
            judged = drift.get((feed.city, feed.signal))
            rows.append(
                {
                    "city": feed.city,
                    "signal": feed.signal,
                    "age_hours": feed.age_hours,
                    "change": judged.change if judged else None,
                    "drift_score": judged.score if judged else None,
                }
            )
        return rows

    def markdown(self) -> str:
        """Return the report as Markdown, as the orchestrator shows it."""
        head = [f"## Monitoring of {self.as_of:%Y-%m-%d %H:%M} UTC", ""]
        if not self.alerts:
            return "\n".join([*head, "Nothing is wrong."])
        rows = (asdict(alert) | {"where": alert.where or "everywhere"} for alert in self.alerts)
        columns = {
            "severity": "{severity}",
            "alert": "`{key}`",
            "where": "{where}",
            "what": "{message}",
            "what to do": "{runbook}",
        }
        return "\n".join([*head, *table(rows, columns)])

    def metrics(self) -> dict[str, float]:
        """Return flat metrics under names that stay the same, as means over cities where they are scores.

        `live/<model>/<signal>/<score>` over all leads and `…_h24` over leads 7-24 and so on,
        `age_hours/<city>/<signal>`, `drift/<city>/<signal>`, `live/ratio/<city>` (the champion's CRPS over
        the baseline's on the newest scored day), `alerts`, `blocking`.
        """
        collected: dict[str, list[float]] = {}
        for row in self.live:
            for name in ("mae", "crps", "coverage90"):
                until = "" if row.bucket == ALL else f"_h{BUCKETS[row.bucket][1]}"
                key = f"live/{row.model}/{row.signal}/{name}{until}"
                collected.setdefault(key, []).append(getattr(row, name))
        found = {key: sum(values) / len(values) for key, values in collected.items()}
        for feed in self.freshness:
            if feed.age_hours is not None:
                found[f"age_hours/{feed.city}/{feed.signal}"] = feed.age_hours
        for drift in self.drift:
            if drift.score is not None:
                found[f"drift/{drift.city}/{drift.signal}"] = drift.score
        found |= {f"live/ratio/{day.city}": day.ratio for day in self.days}
        return found | {"alerts": float(len(self.alerts)), "blocking": float(len(self.blocking))}
