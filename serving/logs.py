"""One JSON object per line on stdout: what happened, never what was in the request."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog


def _to_json(event: Any, **_: object) -> bytes:  # noqa: ANN401 - structlog hands over its event dictionary
    """Serialise one event; anything that JSON does not know becomes text."""
    return orjson.dumps(event, default=str)


def configure_request_log(level: str = "INFO") -> None:
    """Send the service's structured log to stdout, one JSON object per line, times in UTC."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=_to_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.BytesLoggerFactory(file=sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
