"""Promote: the gate's decision on a challenger, with the evidence where one looks for it."""

from __future__ import annotations

from typing import Any

from prefect import flow, task

from flows.retrying import TASK_OPTIONS
from urbanwm.pipeline import PromotionOutcome, run_promote
from urbanwm.settings import load_settings


@task(name="promote", task_run_name="promote {version}", **TASK_OPTIONS)
def promote_task(version: str | None) -> PromotionOutcome:
    """Judge the version against champion and baseline, and put it in service if it is better."""
    return run_promote(load_settings(), version=version)


@flow(name="promote", persist_result=False)
def promote(version: str | None = None) -> dict[str, Any]:
    """Judge a model version (default: the challenger); a refusal is a result, not a failure.

    Args:
        version: Registered version.
    """
    return promote_task(version).to_dict()
