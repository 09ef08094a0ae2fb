"""Watching what was promised: feeds, drift, live skill and plausibility; alerts that are told once.

Every check is a pure function of tables and a time. What a night does with them is in
`urbanwm.pipeline.monitor`.
"""

from urbanwm.monitoring.alerts import KINDS, Alert, AlertKind, make_alert
from urbanwm.monitoring.live import DayScore, LiveScore
from urbanwm.monitoring.report import DriftScore, FeedAge, MonitorReport

__all__ = [
    "KINDS",
    "Alert",
    "AlertKind",
    "DayScore",
    "DriftScore",
    "FeedAge",
    "LiveScore",
    "MonitorReport",
    "make_alert",
]
