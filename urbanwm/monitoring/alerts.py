"""What can be wrong, how grave it is, and where the way out is written: one table of alert kinds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from urbanwm.errors import InternalContractBroken

Severity = Literal["warning", "error", "critical"]
RUNBOOK: Final = "docs/runbook.md"
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "error", "warning")
"""Gravest first: the order in which alerts are shown."""


@dataclass(frozen=True)
class AlertKind:
    """One thing that can be wrong.

    Attributes:
        key: Its name, and the heading of its runbook entry.
        severity: "critical": data or service are wrong; "error": something is lost until someone acts;
            "warning": look at it by day.
        blocks: Whether no model may be promoted while it lasts.
        meaning: One line for people.
        action: The first thing to do.
    """

    key: str
    severity: Severity
    blocks: bool
    meaning: str
    action: str


KINDS: Final[dict[str, AlertKind]] = {
    kind.key: kind
    for kind in (
        AlertKind(
            "unit_change",
            "critical",
            True,
            "a feed jumped to another level within one hour, or its values were dropped as another unit",
            "compare the newest raw answer with the upstream's own page; fix the city file, ingest again",
        ),
        AlertKind(
            "feed_frozen",
            "critical",
            True,
            "a feed repeats one value",
            "ask the upstream; put another source in front until it moves again",
        ),
        AlertKind(
            "feed_silent",
            "error",
            False,
            "a feed that was complete gave nothing for a whole day",
            "look at the ingest errors of the night; nothing is invented meanwhile",
        ),
        AlertKind(
            "feed_stale",
            "error",
            False,
            "the newest value of a target is past the limit at which answers count as degraded",
            "see whether the source is down or its key has expired",
        ),
        AlertKind(
            "drift",
            "warning",
            False,
            "the last days differ from the same hours of the week before by more than such days ever did",
            "decide whether the world or the feed changed; a lasting change is learnt within some weeks",
        ),
        AlertKind(
            "live_skill",
            "warning",
            False,
            "the forecasts in service were worse than the baseline for several days in a row",
            "look at the live table; roll back if it was not the weather",
        ),
        AlertKind(
            "live_coverage",
            "warning",
            False,
            "the 90 % intervals in service hold far too few, or nearly all, of what was observed",
            "look at the spread by lead; the next training fits the calibration again",
        ),
        AlertKind(
            "implausible_forecast",
            "error",
            False,
            "tonight's forecast is not finite, not ordered, or far from anything ever observed",
            "ask the service whether it fell back; roll back if the champion still serves",
        ),
        AlertKind(
            "forecast_missing",
            "warning",
            False,
            "a forecast could not be made or stored tonight, so its skill will never be known",
            "read the message; the next night makes the next one",
        ),
        AlertKind(
            "monitor_incomplete",
            "warning",
            False,
            "a part of the monitoring could not run",
            "read the message; what did run is in the report",
        ),
        AlertKind(
            "night_failed",
            "critical",
            False,
            "the night ended without a verdict on its candidates",
            "read the night's errors and run it again: what was done is not done twice",
        ),
        AlertKind(
            "rolled_back",
            "critical",
            False,
            "the champion was taken out of service",
            "find out why before the next promotion",
        ),
    )
}


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong now.

    Attributes:
        key: Which kind, a key of `KINDS`.
        severity: How grave.
        city: Where; empty: everywhere.
        signal: In which signal; empty: in none alone.
        message: What was seen, with numbers, in one sentence.
        runbook: Where it is written what to do.
        blocks: Whether no model may be promoted while it lasts.
    """

    key: str
    severity: Severity
    city: str
    signal: str
    message: str
    runbook: str
    blocks: bool = False

    @property
    def identity(self) -> str:
        """What makes two alerts the same one, on whatever night they are seen."""
        return "/".join((self.key, self.city, self.signal))

    @property
    def where(self) -> str:
        """City and signal for people; empty where it concerns neither."""
        return " ".join(filter(None, (self.city, self.signal)))

    def text(self) -> str:
        """Return one line for a log or a terminal."""
        place = f" {self.where}" if self.where else ""
        return f"{self.severity}: {self.key}{place}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def make_alert(
    key: str, message: str, *, city: str = "", signal: str = "", blocks: bool | None = None
) -> Alert:
    """Return an alert of a known kind, with its severity and runbook entry.

    Args:
        key: Which kind.
        message: What was seen, with numbers.
        city: Where; empty: everywhere.
        signal: In which signal; empty: in none alone.
        blocks: Whether it blocks promotion; None: as its kind does.

    Raises:
        InternalContractBroken: There is no such kind.
    """
    kind = KINDS.get(key)
    if kind is None:
        raise InternalContractBroken(f"no alert kind '{key}'", field="key", value=key, allowed=sorted(KINDS))
    held = kind.blocks if blocks is None else blocks
    return Alert(key, kind.severity, city, signal, message, f"{RUNBOOK}#{key}", held)


def by_severity(alerts: Iterable[Alert]) -> list[Alert]:
    """Return alerts gravest first, then by kind and place; of the same one the messages are joined."""
    same: dict[str, list[Alert]] = {}
    for alert in alerts:
        same.setdefault(alert.identity, []).append(alert)
    joined = [
        replace(
            found[0],
            message="; ".join(dict.fromkeys(alert.message for alert in found)),
            blocks=any(alert.blocks for alert in found),
        )
        for found in same.values()
    ]
    return sorted(joined, key=lambda alert: (SEVERITIES.index(alert.severity), alert.identity))


def blocking_reasons(alerts: Iterable[Alert]) -> list[str]:
    """Return one sentence per alert that forbids promotion."""
    return [f"{alert.where or 'everywhere'}: {alert.message}" for alert in alerts if alert.blocks]
