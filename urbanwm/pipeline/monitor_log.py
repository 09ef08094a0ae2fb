"""The monitoring as time series in the tracker: one run, one step per day."""

from __future__ import annotations

from typing import Final

from urbanwm.clock import Clock, utc_now
from urbanwm.monitoring import MonitorReport
from urbanwm.registry import Registry, find_runs, reopen
from urbanwm.settings import Settings

STAGE: Final = {"stage": "monitor"}
LOGGED_TAG: Final = "logged_until"


def log_monitor(settings: Settings, report: MonitorReport, clock: Clock = utc_now) -> bool:
    """Append a night's metrics to the monitoring run, so that the tracker draws them over the days.

    The step is the night's day number (days since 0001-01-01). A night that is not after the last one logged
    adds nothing, so a repetition leaves the series as it is.

    Args:
        settings: Where the tracker is.
        report: What the monitoring found.
        clock: Stamps the metrics.

    Returns:
        Whether anything was added; False also where there is no tracker yet.

    Raises:
        UpstreamUnavailable: The tracker cannot be written.
    """
    registry = Registry(settings, clock)
    tags = STAGE | {"cities": ",".join(sorted(report.cities))}
    found = next(iter(find_runs(registry, tags)), None)
    if not registry.exists or (found and found.tags.get(LOGGED_TAG, "") >= report.as_of.isoformat()):
        return False
    with reopen(registry, found.run_id) if found else registry.start_run("monitoring", tags) as run:
        run.log_metrics(report.metrics(), step=report.as_of.toordinal())
        run.log_json(report.to_dict(), "monitor/newest.json")
        run.set_tags({LOGGED_TAG: report.as_of.isoformat()})
    return True
