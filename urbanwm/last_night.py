"""When a night last succeeded: a small file that the service reads, so that a dead scheduler is noticed."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from urbanwm.clock import require_utc
from urbanwm.settings import Settings
from urbanwm.whole_file import written_whole

STATE_FILE: Final = "last_night.json"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LastNight:
    """What the newest night left, and when one last succeeded.

    Attributes:
        as_of: The time for which it ran, UTC.
        finished_at: When it ended, UTC.
        status: "done", "nothing new", or "failed".
        cities: Cities it was run for.
        champion: The version in service afterwards; None where there is none.
        decision: One sentence: what became of the candidates.
        errors: What went wrong, one sentence each.
        succeeded_at: When a night last ended without an error, UTC; None where none ever did.
    """

    as_of: datetime
    finished_at: datetime
    status: str
    cities: list[str]
    champion: str | None = None
    decision: str = ""
    errors: list[str] | None = None
    succeeded_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; times are ISO 8601."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }


def read_last_night(settings: Settings) -> LastNight | None:
    """Return what the newest night left (below 1 ms); None where none ran yet.

    A file that cannot be read counts as none, and is logged: the alarm on absence then sounds, as it should.
    """
    path = _path(settings)
    try:
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
        for name in ("as_of", "finished_at", "succeeded_at"):
            if document[name] is not None:
                document[name] = require_utc(datetime.fromisoformat(document[name]), name)
        return LastNight(**document)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        _LOG.warning("the record of the last night cannot be read: %s", error)
        return None


def write_last_night(settings: Settings, night: LastNight) -> None:
    """Replace the record in one step: a reader, also after kill -9, sees the old one or the new one."""
    with written_whole(_path(settings)) as draft:
        draft.write_text(json.dumps(night.to_dict(), indent=2), "utf-8")


def _path(settings: Settings) -> Path:
    return settings.home / STATE_FILE
