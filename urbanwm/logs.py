"""Logging for people: one readable line per event on stderr, with secrets masked."""

from __future__ import annotations

import logging
import re
import sys

MASK = "**********"
SHORT_SECRET = 6
"""A secret of fewer characters occurs inside of ordinary words: it is masked only where it stands alone."""


class MaskSecrets(logging.Filter):
    """Replace every configured secret in a record by asterisks; the last line of defence, not the first."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__()
        # The longest first: one secret may be a part of another.
        found = [_pattern(secret) for secret in sorted(filter(None, secrets), key=len, reverse=True)]
        self._secrets = re.compile("|".join(found)) if found else None

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record in place; never drops one."""
        if self._secrets is None:
            return True
        message = record.getMessage()
        masked = self._secrets.sub(MASK, message)
        if masked != message:
            record.msg, record.args = masked, None
        return True


def _pattern(secret: str) -> str:
    """Return the regular expression of a secret: anywhere, or a short one where it is a word of its own."""
    literal = re.escape(secret)
    return literal if len(secret) >= SHORT_SECRET else rf"(?<!\w){literal}(?!\w)"


def configure_logging(level: str = "INFO") -> None:
    """Send the library's log to stderr at `level`, and frameworks' at WARNING."""
    from urbanwm.settings import load_settings

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    handler.addFilter(MaskSecrets(load_settings().secret_values()))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("urbanwm", "flows", "serving"):
        logging.getLogger(name).setLevel(level)
