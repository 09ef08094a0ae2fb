"""Logging for people: one readable line per event on stderr, with secrets masked."""

from __future__ import annotations

import logging
import sys


class MaskSecrets(logging.Filter):
    """Replace every configured secret in a record by asterisks; the last line of defence, not the first."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__()
        self._secrets = [secret for secret in secrets if secret]

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record in place; never drops one."""
        message = record.getMessage()
        masked = message
        for secret in self._secrets:
            masked = masked.replace(secret, "**********")
        if masked != message:
            record.msg, record.args = masked, None
        return True


def configure_logging(level: str = "INFO") -> None:
    """Send the library's log to stderr at `level`, and frameworks' at WARNING."""
    from urbanwm.settings import load_settings

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    handler.addFilter(MaskSecrets(load_settings().secret_values()))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("urbanwm", "flows", "serving"):
        logging.getLogger(name).setLevel(level)
