"""Settings applied before Prefect is imported, and what all flows share."""

from __future__ import annotations

from urbanwm.errors import UrbanWMError
from urbanwm.settings import apply_environment, load_settings

SETTINGS = load_settings()
apply_environment(SETTINGS)

RETRIES = 2
FIRST_DELAY_S = 30
"""Doubles with each retry. Requests are repeated within seconds by the sources themselves; these retries are for
outages of minutes, so the two layers do not multiply into one."""
JITTER = 0.5


def can_succeed_later(error: BaseException) -> bool:
    """Return whether the same call can succeed later: never for bad input, a refused key or a failed gate."""
    return isinstance(error, UrbanWMError) and error.retryable
