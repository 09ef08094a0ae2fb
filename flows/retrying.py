"""When a task is tried again: only where the same call can succeed later."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from urbanwm.errors import UrbanWMError

RETRIES = 2
FIRST_DELAY_S = 30
JITTER_FACTOR = 0.5


def can_succeed_later(
    task: Task[..., Any],  # noqa: ARG001 - Prefect's signature
    task_run: TaskRun,  # noqa: ARG001
    state: State[Any],
) -> bool:
    """Return whether a failed task is worth another attempt: not after bad input or a refused key."""
    error = state.data
    return isinstance(error, UrbanWMError) and error.retryable


# Requests are repeated within seconds by the sources themselves; these attempts wait for outages of minutes.
TASK_OPTIONS: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(FIRST_DELAY_S),
    "retry_jitter_factor": JITTER_FACTOR,
    "retry_condition_fn": can_succeed_later,
    "persist_result": False,
    "cache_policy": NO_CACHE,
}
