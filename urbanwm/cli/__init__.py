"""`urbanwm …`: the library for people without an orchestrator.

Every command takes `--json` (one JSON document on stdout and nothing else). Exit codes: 0 done, 2 bad input,
3 upstream or data not available, 4 refused by the gate. Frameworks are imported inside the commands, so that
`urbanwm --help` is fast.
"""

from urbanwm.cli.app import main

__all__ = ["main"]
