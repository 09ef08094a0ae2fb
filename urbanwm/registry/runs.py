"""Finding a run again by its tags: what makes a night that was killed continue instead of begin anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from urbanwm.errors import BadInput
from urbanwm.registry.connection import translated
from urbanwm.registry.store import ABSENT_CODES, Registry
from urbanwm.registry.tracking import RunLog

RUNNING: Final = "RUNNING"
FINISHED: Final = "FINISHED"


@dataclass(frozen=True)
class FoundRun:
    """A run as the tracker knows it.

    Attributes:
        run_id: Its id.
        status: `RUNNING`, `FINISHED`, `FAILED` or `KILLED`; a killed process leaves `RUNNING`.
        tags: Everything that was noted on it.
        params: Its parameters.
        metrics: The newest value of each metric.
    """

    run_id: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def find_runs(registry: Registry, tags: Mapping[str, str]) -> list[FoundRun]:
    """Return the runs that have all these tags, newest first; empty where there is no registry yet."""
    if not registry.exists:
        return []
    conditions = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    with translated(registry.tracking_uri, "look for a run"):
        found = registry.client.search_runs([registry.experiment_id()], filter_string=conditions)
    return [_plain(run) for run in found]


def read_run(registry: Registry, run_id: str) -> FoundRun:
    """Return one run.

    Raises:
        BadInput: There is no such run.
    """
    from mlflow.exceptions import MlflowException

    registry.require_existing()
    client = registry.client
    with translated(registry.tracking_uri, "look up a run"):
        try:
            return _plain(client.get_run(run_id))
        except MlflowException as error:
            if error.error_code in ABSENT_CODES:
                raise BadInput(f"no run '{run_id}'", field="run_id", value=run_id) from error
            raise


def reopen(registry: Registry, run_id: str) -> RunLog:
    """Mark an ended run as running again and return its log."""
    with translated(registry.tracking_uri, "reopen a run"):
        registry.client.update_run(run_id, status=RUNNING)
    return registry.run_log(run_id)


def _plain(run: Any) -> FoundRun:  # noqa: ANN401 - MLflow comes without types
    info, data = run.info, run.data
    return FoundRun(
        str(info.run_id), str(info.status), dict(data.tags), dict(data.params), dict(data.metrics)
    )
