"""The nightly report: one page that says what came in, what was decided, and what is wrong."""

from urbanwm.report.night import write_night_report

__all__ = ["write_night_report"]
