"""Data-quality rules: what is dropped, what is flagged, and the account of both."""

from urbanwm.quality.report import coverage, flag_counts, gaps
from urbanwm.quality.rules import CONTEXT_DAYS, RULES, check, check_points, check_series

__all__ = [
    "CONTEXT_DAYS",
    "RULES",
    "check",
    "check_points",
    "check_series",
    "coverage",
    "flag_counts",
    "gaps",
]
