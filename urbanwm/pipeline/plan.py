"""What a training run would do, decided before the first optimiser step: data, configuration, identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from urbanwm.clock import Clock, utc_now
from urbanwm.features import CitySeries, FeatureSpec, build_series
from urbanwm.model.config import ExperimentConfig, experiment_spec, load_experiment
from urbanwm.pipeline.data import CityRecord, NightData, read_night
from urbanwm.pipeline.outcome import Trained
from urbanwm.provenance import document_hash
from urbanwm.registry import START_TAG, ModelVersion, Registry
from urbanwm.settings import Settings

KEY_TAG: Final = "night_key"
EXPERIMENT_FILE: Final = "config/experiment.json"


@dataclass(frozen=True)
class Candidate:
    """One way to train a model.

    Attributes:
        label: How reports name it: `urban`, `urban@7`, `warm`.
        experiment: The configuration.
        start: Version whose weights it starts from; None: random weights.
        start_digest: Digest of that version's bundle.
    """

    label: str
    experiment: ExperimentConfig
    start: str | None = None
    start_digest: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first optimiser step."""

    candidate: Candidate
    data: NightData
    key: str

    @property
    def experiment(self) -> ExperimentConfig:
        """Return the candidate's configuration."""
        return self.candidate.experiment

    @property
    def tags(self) -> dict[str, object]:
        """Return what identifies the run: data, configuration, start."""
        start = {} if self.candidate.start is None else {START_TAG: self.candidate.start}
        return {
            "stage": "train",
            KEY_TAG: self.key,
            "candidate": self.candidate.label,
            "experiment": self.experiment.name,
            "config_hash": self.experiment.config_hash(),
            "seed": self.experiment.training.seed,
            "cities": ",".join(self.data.records),
            "dataset_version": self.data.lake_version,
            "data_digest": document_hash(self.data.digests),
            **start,
        }


def plan_candidate(candidate: Candidate, data: NightData) -> Plan:
    """Derive the key under which this candidate is trained once on these data.

    The key holds the data's digest, the configuration and the start, not the table's version: a compaction of
    the lake, or another city's rows, ask for no new training.
    """
    judged = {name: [record.origins[0], record.origins[-1]] for name, record in data.records.items()}
    identity = {"config": candidate.experiment.config_hash(), "data": data.digests, "judged": judged}
    if candidate.start is not None:
        identity["start"] = candidate.start_digest
    return Plan(candidate, data, document_hash(identity))


def make_plan(
    names: Sequence[str],
    settings: Settings,
    experiment_name: str | None = None,
    *,
    until: datetime | None = None,
    steps: int | None = None,
    clock: Clock = utc_now,
) -> Plan:
    """Read experiment and data of a single training, which starts from random weights."""
    overrides = {} if steps is None else {"training.steps": steps}
    experiment = load_experiment(experiment_name or settings.experiment, overrides)
    data = read_night(names, settings, until=until, clock=clock)
    return plan_candidate(Candidate(experiment.name, experiment), data)


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
    training = {name: record.training for name, record in records.items()}
    return experiment_spec(plan.experiment, training, {name: record.city for name, record in records.items()})


def training_series(records: Mapping[str, CityRecord], spec: FeatureSpec) -> dict[str, CitySeries]:
    """Return each city's training rows as arrays."""
    return {name: build_series(record.training, name, spec) for name, record in records.items()}


def already_trained(registry: Registry, key: str) -> ModelVersion | None:
    """Return the version that was registered for this key."""
    if not registry.exists:
        return None
    return next((item for item in registry.list_versions() if item.tags.get(KEY_TAG) == key), None)


def untrained(settings: Settings, registry: Registry, plans: Sequence[Plan]) -> list[Plan]:
    """Return the plans that were not carried out yet, also not by a process that was killed after that."""
    return [
        plan
        for plan in plans
        if Trained.load(settings.runs_dir / plan.key) is None and already_trained(registry, plan.key) is None
    ]


def count_parameters(model: Any) -> int:  # noqa: ANN401 - a torch module; this file does not import torch
    """Return the number of trained weights."""
    return sum(int(parameter.numel()) for parameter in model.parameters())
