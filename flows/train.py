"""Train: one candidate over the cities, judged on held-out origins and registered as challenger."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow, task

from flows.retrying import TASK_OPTIONS
from urbanwm.cities import nightly_city_names
from urbanwm.clock import parse_time
from urbanwm.pipeline import TrainOutcome, run_train
from urbanwm.settings import load_settings


@task(name="train", task_run_name="train {names}", **TASK_OPTIONS)
def train_task(
    names: list[str], experiment: str | None, until: datetime | None, steps: int | None
) -> TrainOutcome:
    """Train where the same data and configuration have not been trained before."""
    return run_train(names, load_settings(), experiment, until=until, steps=steps)


@flow(name="train", persist_result=False)
def train(
    cities: list[str] | None = None,
    experiment: str | None = None,
    until: str | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Train a candidate on what the lake has.

    Args:
        cities: City names; default: the nightly ones.
        experiment: Name under `urbanwm/configs`, or a YAML path.
        until: Use hours before this time only, ISO 8601.
        steps: Optimiser steps, in place of the experiment's.
    """
    settings = load_settings()
    moment = parse_time(until, "until") if until else None
    names = cities or nightly_city_names(settings)
    return train_task(names, experiment, moment, steps or settings.training_steps).to_dict()
