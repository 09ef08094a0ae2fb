"""Data-quality rules: what is dropped, what is flagged, and the account of both."""

from urbanwm.quality.batch import check
from urbanwm.quality.points import check_points
from urbanwm.quality.report import (
    coverage,
    daily_coverage,
    flag_counts,
    gaps,
    quality_markdown,
    quality_report,
)
from urbanwm.quality.rules import CONTEXT_DAYS, RULES
from urbanwm.quality.series import check_series

__all__ = [
    "CONTEXT_DAYS",
    "RULES",
    "check",
    "check_points",
    "check_series",
    "coverage",
    "daily_coverage",
    "flag_counts",
    "gaps",
    "quality_markdown",
    "quality_report",
]
