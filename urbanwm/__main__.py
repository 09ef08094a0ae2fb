"""Allow `python -m urbanwm ...`."""

from urbanwm.cli import main

main()
