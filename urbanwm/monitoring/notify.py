"""Telling people, once: alerts to the log and to a webhook, with a memory of what was told.

An alert is told when it appears, again after `repeat_days` while it lasts, and once more when it is over. The
memory is one JSON file, replaced in one step. No failure of the webhook or of the memory reaches the night.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import requests
from filelock import FileLock

from urbanwm.monitoring.alerts import KINDS, Alert
from urbanwm.whole_file import written_whole

log = logging.getLogger(__name__)

STATE_FILE: Final = "alerts.json"
WEBHOOK_TIMEOUT_S: Final = 10.0
LOCK_TIMEOUT_S: Final = 30.0
LEVELS: Final = {"warning": logging.WARNING, "error": logging.ERROR, "critical": logging.CRITICAL}
ENDED_BY_A_NIGHT: Final = frozenset({"unit_change", "forecast_missing"})
"""Kinds that only a night can see end: they rest on what its ingest dropped, or on its own forecasts."""
Post = Callable[[str, Mapping[str, Any]], None]
"""Posts a JSON document to an address; raises `requests.RequestException` where it was not taken."""


@dataclass(frozen=True)
class Told:
    """What became of the alerts of a night.

    Attributes:
        new: Told to the log, and to the webhook where there is one.
        known: Kept back: told before and still there.
        cleared: Gone since the last night; told as cleared.
        failed: Could not be posted; they count as not told, so the next night tries again.
    """

    new: int = 0
    known: int = 0
    cleared: int = 0
    failed: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return plain JSON types."""
        return dict(vars(self))


def post_json(url: str, document: Mapping[str, Any]) -> None:
    """Post a document.

    Raises:
        requests.RequestException: It was not taken.
    """
    requests.post(url, json=document, timeout=WEBHOOK_TIMEOUT_S).raise_for_status()


@dataclass(frozen=True)
class Notifier:
    """Tells alerts once.

    Attributes:
        folder: Where the memory is.
        webhook_url: Where alerts are posted; None: to the log only.
        repeat_days: Days after which an alert that still holds is told again.
        post: How it is posted.
    """

    folder: Path
    webhook_url: str | None = None
    repeat_days: float = 7.0
    post: Post = post_json

    def tell(
        self, alerts: Sequence[Alert], now: datetime, cities: Sequence[str], *, between_nights: bool = False
    ) -> Told:
        """Tell what is new, remember it, and say what is over.

        Args:
            alerts: All that is wrong now.
            now: The time of the night.
            cities: The cities that were looked at; alerts of others are left as they were.
            between_nights: Whether no night looked: what is about a night as a whole, or rests on its ingest,
                is then left as it was too.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{STATE_FILE}.lock", timeout=LOCK_TIMEOUT_S):
            memory = self._read()
            present = {alert.identity: alert for alert in alerts}
            looked_at = {*cities} if between_nights else {"", *cities}
            left = ENDED_BY_A_NIGHT if between_nights else frozenset()
            gone = [(name, name.split("/")) for name in memory if name not in present]
            over = [name for name, (kind, city, *_) in gone if city in looked_at and kind not in left]
            due = [alert for name, alert in present.items() if self._is_due(memory.get(name), now)]
            for name in over:
                log.info("alert over: %s", name)
            for alert in due:
                log.log(LEVELS[alert.severity], "%s (%s)", alert.text(), alert.runbook)
            posted = not (due or over) or self._posted(_document(due, memory, over, now))
            # What the webhook did not take stays as it was, so that the next night tries again.
            forgotten = set(over) if posted else set()
            kept = {name: entry for name, entry in memory.items() if name not in forgotten}
            for alert in due if posted else ():
                since = memory.get(alert.identity, {}).get("since", now.isoformat())
                kept[alert.identity] = {"told_at": now.isoformat(), "since": since, "message": alert.message}
            self._write(kept)
        return Told(len(due), len(present) - len(due), len(over), 0 if posted else len(due) + len(over))

    def _is_due(self, entry: Mapping[str, str] | None, now: datetime) -> bool:
        """Whether an alert was never told, or so long ago that it is told again."""
        if entry is None:
            return True
        return now - datetime.fromisoformat(entry["told_at"]) >= timedelta(days=self.repeat_days)

    def _posted(self, document: Mapping[str, Any]) -> bool:
        """Post to the webhook, if there is one; a failure is logged without the address, which is secret."""
        if self.webhook_url is None:
            return True
        try:
            self.post(self.webhook_url, document)
        except (requests.RequestException, OSError) as error:
            log.error("the alert webhook did not take the alerts: %s", type(error).__name__)  # noqa: TRY400
            return False
        return True

    def _read(self) -> dict[str, dict[str, str]]:
        """Read the memory; one that is not readable is empty: telling twice is better than not at all."""
        try:
            document = json.loads((self.folder / STATE_FILE).read_text("utf-8"))
            return {
                str(name): {key: str(entry[key]) for key in ("told_at", "since", "message")}
                for name, entry in document.items()
                if name.split("/")[0] in KINDS and datetime.fromisoformat(entry["told_at"]).tzinfo
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("the memory of alerts is not readable and starts anew: %s", error)
            return {}

    def _write(self, memory: Mapping[str, Mapping[str, str]]) -> None:
        """Replace the memory in one step; where the disk does not take it, alerts are told again."""
        try:
            with written_whole(self.folder / STATE_FILE) as draft:
                draft.write_text(json.dumps(memory, indent=2, sort_keys=True), "utf-8")
        except OSError as error:
            log.warning("the memory of alerts cannot be written: %s", error.strerror)


def _document(
    due: Sequence[Alert], memory: Mapping[str, Mapping[str, str]], over: Sequence[str], now: datetime
) -> dict[str, Any]:
    """Return what the webhook gets: a `text` that chat systems show, and the alerts themselves."""
    lines = [f"{alert.text()} -> {alert.runbook}" for alert in due]
    lines += [f"over: {name} (since {memory[name]['since']})" for name in over]
    return {
        "text": "\n".join(["UrbanWM", *lines]),
        "as_of": now.isoformat(),
        "alerts": [alert.to_dict() for alert in due],
        "cleared": [{"identity": name, **memory[name]} for name in over],
    }
