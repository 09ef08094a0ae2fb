"""The account of an ingest: what came in, what was dropped and why, what failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from urbanwm.errors import UrbanWMError

SAME_IN_MINUTES = ("NoData", "StaleData")
"""Valid answers that may say more tomorrow; asking again in this run would only be impolite."""


@dataclass
class IngestReport:
    """What an ingest did for one city.

    Attributes:
        city: City name.
        started_at: When it began, UTC.
        finished_at: When it ended, UTC.
        version: Version of the lake that holds the result.
        inserted: Rows (hours) that are new.
        updated: Rows in which a value is new or corrected.
        rows_by_signal: Values that passed the rules, known ones included.
        dropped: Values dropped per source label and rule.
        flagged: Values flagged per source label and rule.
        forecasts: Forecast values that are new; they are kept apart, in a table of their own.
        errors: Failures of single sources: source, signal, type, message, retryable.
        failure: Why the city as a whole came to nothing: type, message, retryable; None: it did not.
        last_timestamp: Last hour of the city in the lake.
    """

    city: str
    started_at: datetime
    finished_at: datetime | None = None
    version: int = -1
    inserted: int = 0
    updated: int = 0
    rows_by_signal: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    flagged: dict[str, Counter[str]] = field(default_factory=dict)
    forecasts: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    failure: dict[str, Any] | None = None
    last_timestamp: datetime | None = None

    def count(self, kind: str, label: str, counts: Counter[str]) -> None:
        """Add counts of `dropped` or `flagged` values of one source."""
        if +counts:
            account: dict[str, Counter[str]] = getattr(self, kind)
            account.setdefault(label, Counter()).update(+counts)

    def failed(self, label: str, signal: str, error: UrbanWMError) -> None:
        """Record that a source failed; the others go on. A repetition is recorded once."""
        entry = {"source": label, "signal": signal, **_described(error)}
        if entry not in self.errors:
            self.errors.append(entry)

    def gave_up(self, error: UrbanWMError) -> None:
        """Record that the city as a whole failed."""
        self.failure = _described(error)

    @property
    def retryable(self) -> bool:
        """Whether one of the failures can be over at the next attempt, minutes later."""
        failures = self.errors if self.failure is None else [*self.errors, self.failure]
        return any(failure["retryable"] and failure["type"] not in SAME_IN_MINUTES for failure in failures)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON-ready document; times are ISO 8601."""
        document = asdict(self)
        for name in ("started_at", "finished_at", "last_timestamp"):
            moment = getattr(self, name)
            document[name] = None if moment is None else moment.isoformat()
        for name in ("dropped", "flagged"):
            document[name] = {label: dict(counts) for label, counts in getattr(self, name).items()}
        document["rows_by_signal"] = dict(self.rows_by_signal)
        return document


def _described(error: UrbanWMError) -> dict[str, Any]:
    """Return an error as plain JSON types."""
    return {"type": type(error).__name__, "message": str(error), "retryable": error.retryable}
