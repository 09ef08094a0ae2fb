"""What a training run would do, decided before the first optimiser step: data, configuration, identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from urbanwm.clock import Clock, utc_now
from urbanwm.features import FeatureSpec, build_spec
from urbanwm.model.config import ExperimentConfig, load_experiment
from urbanwm.pipeline.data import NightData, read_night
from urbanwm.provenance import document_hash
from urbanwm.registry import ModelVersion, Registry
from urbanwm.settings import Settings

KEY_TAG: Final = "night_key"


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first optimiser step."""

    experiment: ExperimentConfig
    data: NightData
    key: str

    @property
    def tags(self) -> dict[str, object]:
        """Return what identifies the run: data, configuration, code."""
        return {
            "stage": "train",
            KEY_TAG: self.key,
            "experiment": self.experiment.name,
            "config_hash": self.experiment.config_hash(),
            "seed": self.experiment.training.seed,
            "cities": ",".join(self.data.records),
            "dataset_version": self.data.lake_version,
            "data_digest": document_hash(self.data.digests),
        }


def make_plan(
    names: Sequence[str],
    settings: Settings,
    experiment_name: str | None = None,
    *,
    until: datetime | None = None,
    steps: int | None = None,
    clock: Clock = utc_now,
) -> Plan:
    """Read experiment and data, and derive the key under which the work is done once.

    The key holds the data's digest and the configuration, not the table's version: a compaction of the lake,
    or another city's rows, ask for no new training.
    """
    overrides = {} if steps is None else {"training.steps": steps}
    experiment = load_experiment(experiment_name or settings.experiment, overrides)
    data = read_night(names, settings, until=until, clock=clock)
    judged = {name: [record.origins[0], record.origins[-1]] for name, record in data.records.items()}
    key = document_hash({"config": experiment.config_hash(), "data": data.digests, "judged": judged})
    return Plan(experiment, data, key)


def plan_training(
    names: Sequence[str],
    settings: Settings,
    experiment_name: str | None = None,
    *,
    until: datetime | None = None,
    clock: Clock = utc_now,
) -> dict[str, Any]:
    """Build data, features and model, train and record nothing, and say what a run would do."""
    from urbanwm.model.config import ModelDims
    from urbanwm.model.world_model import UrbanWorldModel

    plan = make_plan(names, settings, experiment_name, until=until, clock=clock)
    spec = training_spec(plan)
    model = UrbanWorldModel(plan.experiment.model, ModelDims.of(spec))
    return {
        "run_id": None,
        "dry_run": True,
        "experiment": plan.experiment.name,
        "parameters": count_parameters(model),
        "inputs": {"observed": spec.observed_dim, "known": spec.known_dim, "skip": spec.skip_dim},
        "steps": plan.experiment.training.steps,
        "dataset_version": plan.data.lake_version,
        "cities": {
            name: {
                "training_from": record.frame.index[0].isoformat(),
                "held_out_from": record.origins[0].isoformat(),
                "held_out_origins": len(record.origins),
            }
            for name, record in plan.data.records.items()
        },
        "left_out": dict(plan.data.left_out),
        "already_trained": already_trained(Registry(settings, clock), plan.key) is not None,
    }


def training_spec(plan: Plan) -> FeatureSpec:
    """Build the feature spec from the training rows alone."""
    records = plan.data.records
    return build_spec(
        plan.experiment.model.kind,
        {name: record.training for name, record in records.items()},
        {name: record.city for name, record in records.items()},
        None,
        plan.experiment.training.context_hours,
        plan.experiment.training.horizon_hours,
    )


def already_trained(registry: Registry, key: str) -> ModelVersion | None:
    """Return the version that was registered for this key."""
    if not registry.exists:
        return None
    return next((item for item in registry.list_versions() if item.tags.get(KEY_TAG) == key), None)


def count_parameters(model: Any) -> int:  # noqa: ANN401 - a torch module; this file does not import torch
    """Return the number of trained weights."""
    return sum(int(parameter.numel()) for parameter in model.parameters())
