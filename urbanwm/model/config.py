"""What an experiment is: model, training recipe, and nothing that the code does not read.

An experiment file holds only what differs from the defaults below; `base.yaml` spells the reference out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from urbanwm.contracts.signals import TARGETS, nearest_name
from urbanwm.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from urbanwm.cities import City
    from urbanwm.features import FeatureSpec

CONFIGS_DIR = Path(__file__).resolve().parent.parent / "configs"
HASH_CHARACTERS = 16
RECENT_NAME = re.compile(r"_(\d+)h$")
"""Ends the name of a feature that averages the last hours before the origin; the number is how many."""
_TRACKED = (
    "name", "config_hash", "model.kind", "model.hidden_dim", "model.latent_dim", "model.latent",
    "model.dropout", "training.steps", "training.batch_size", "training.context_hours",
    "training.horizon_hours", "training.learning_rate", "training.weight_decay", "training.warmup_steps",
    "training.gradient_clip",
    "training.reconstruction_weight", "training.kl_weight", "training.free_bits", "training.signal_dropout",
    "training.ema_decay", "training.validation_blocks", "training.validation_days", "training.seed",
    "training.threads",
)  # fmt: skip


class _Frozen(BaseModel):
    """Immutable settings that refuse unknown keys and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(_Frozen):
    """The shape of the world model (DESIGN §4); its widths are part of the HTTP contract."""

    kind: Literal["reference", "urban"]
    """`reference`: DESIGN §4 as written. `urban`: masks, filtered context, inputs known ahead, quantiles."""
    hidden_dim: int = Field(default=256, ge=1)
    """Width of the deterministic state h and of every hidden layer."""
    latent_dim: int = Field(default=128, ge=1)
    """Width of the stochastic state z and of the encoding."""
    latent: Literal["gaussian", "categorical"] = "gaussian"
    """Family of z: a diagonal Gaussian, or one-hot groups as in DreamerV3."""
    latent_groups: int = Field(default=8, ge=1)
    """Number of one-hot groups that z consists of (`categorical`)."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout probability in encoder and predictor, in training only."""
    latent_noise: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the latent spread that is sampled, in training and forecasts; 0 keeps to the means."""

    @model_validator(mode="after")
    def _refuse_groups_that_do_not_fill_z(self) -> Self:
        classes, left = divmod(self.latent_dim, self.latent_groups)
        if self.latent == "categorical" and (left or classes < 2):
            raise ValueError(f"latent_dim must be 2, 3, ... times latent_groups, {self.latent_groups}")
        return self


class TrainingConfig(_Frozen):
    """The training recipe; times are hours, steps are optimiser steps."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of weights, batches, noise and dropout."""
    threads: int = Field(default=1, ge=1)
    """Threads of one matrix product; another number gives other last bits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: matrix products in half the bits; for a GPU, or a CPU with AVX512-BF16 or AMX."""
    compile: Literal["no", "eager", "inductor"] = "no"
    """Backend of `torch.compile`; minutes before the first step, so only for long runs on a GPU."""
    steps: int = Field(default=400, ge=1)
    """Optimiser steps at most."""
    batch_size: int = Field(default=32, ge=1)
    """Windows per step."""
    pieces: int = Field(default=1, ge=1)
    """Parts that a batch is cut into, so that an idle process can take one; each averages over what its own
    windows observed. Another number gives other last bits."""
    context_hours: int = Field(default=48, ge=1)
    """Observed hours before the origin that bring the state up to date."""
    horizon_hours: int = Field(default=48, ge=1)
    """Hours after the origin that a training window imagines."""
    learning_rate: float = Field(default=3e-4, gt=0.0)
    """Peak learning rate of AdamW."""
    min_learning_rate: float = Field(default=1e-6, ge=0.0)
    """Learning rate at the end of the cosine."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps of linear warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    weight_decay: float = Field(default=1e-4, ge=0.0)
    """Decoupled weight decay."""
    gradient_clip: float = Field(default=1.0, gt=0.0)
    """Largest global gradient norm."""
    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Decay of the averaged weights that are validated and kept; 0 keeps the raw ones."""
    forecast_weight: float = Field(default=1.0, ge=0.0)
    """Weight of the open-loop loss on the imagined hours (`urban`)."""
    reconstruction_weight: float = Field(default=1.0, ge=0.0)
    """Weight of the loss on the filtered hours."""
    kl_weight: float = Field(default=0.1, ge=0.0)
    """Weight of the whole KL term after annealing."""
    kl_anneal_steps: int = Field(default=0, ge=0)
    """Steps over which the KL weight grows linearly from 0."""
    kl_dynamics: float = Field(default=1.0, ge=0.0)
    """Share of KL(sg(q)‖p), which trains the prior (`urban`)."""
    kl_representation: float = Field(default=0.1, ge=0.0)
    """Share of KL(q‖sg(p)), which regularises the posterior (`urban`)."""
    free_bits: float = Field(default=1.0, ge=0.0)
    """KL in nats per hour below which nothing is pushed (`urban`)."""
    signal_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Loss weights of pm25, energy_mwh and traffic_index."""
    signal_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that a signal is hidden from a window, and as much again for a stretch of it (`urban`)."""
    validate_every: int = Field(default=25, ge=1)
    """Steps between two open-loop validations."""
    patience: int = Field(default=5, ge=1)
    """Validations without improvement before training stops."""
    validation_days: int = Field(default=40, ge=0)
    """Days held out of training per city, at most a fifth of its record."""
    validation_blocks: int = Field(default=8, ge=1)
    """Number of blocks that the held-out days are spread over; the last block ends the record."""
    validation_stride_hours: int = Field(default=7, ge=1)
    """Hours between two validation origins; 7 visits every hour of the day."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between two resumable checkpoints."""
    log_every: int = Field(default=10, ge=1)
    """Steps between two reports of the losses."""

    @model_validator(mode="after")
    def _refuse_a_recipe_without_a_loss(self) -> Self:
        if self.forecast_weight == 0.0 and self.reconstruction_weight == 0.0:
            raise ValueError("forecast_weight and reconstruction_weight are both 0: nothing to learn from")
        return self


class ExperimentConfig(_Frozen):
    """One experiment: everything that, with the data and the code, decides the weights."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the experiment, as runs and bundles show it."""
    model: ModelConfig
    """Shape of the model."""
    training: TrainingConfig = TrainingConfig()
    """Training recipe."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, every default spelt out."""
        return self.model_dump(mode="json")

    def config_hash(self) -> str:
        """Return 16 hex digits that change with any value."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:HASH_CHARACTERS]

    def flatten(self) -> dict[str, str | int | float]:
        """Return what distinguishes runs, by dotted name: fewer than 25, for a tracker's compare page."""
        document = self.to_dict() | {"config_hash": self.config_hash()}
        return {key: _at(document, key) for key in _TRACKED}


@dataclass(frozen=True)
class ModelDims:
    """Widths of the model's inputs: F observed, K known ahead, A actions, J skip features per target.

    `direct` and `log_error` are the skip features that hold the direct forecast and the logarithm of its
    usual error; None for the reference, which has neither.
    """

    observed: int
    known: int
    action: int
    skip: int
    direct: int | None = None
    log_error: int | None = None
    targets: int = len(TARGETS)

    @classmethod
    def of(cls, spec: FeatureSpec) -> ModelDims:
        """Read the widths from a feature spec."""
        from urbanwm.features.names import DIRECT_NAMES

        direct, log_error = (
            spec.skip_names.index(name) if name in spec.skip_names else None for name in DIRECT_NAMES
        )
        return cls(spec.observed_dim, spec.known_dim, spec.action_dim, spec.skip_dim, direct, log_error)


def experiment_names() -> list[str]:
    """Return the names of the built-in experiments."""
    return sorted(path.stem for path in CONFIGS_DIR.glob("*.yaml"))


def load_experiment(
    name_or_path: str | Path, overrides: Mapping[str, object] | None = None
) -> ExperimentConfig:
    """Read an experiment by built-in name (`urban`) or from a YAML file.

    Args:
        name_or_path: A built-in name, or a path that ends in .yaml or .yml.
        overrides: Values by dotted name, such as `{"training.steps": 50}`; they win over the file.

    Raises:
        BadInput: No such experiment, not YAML, an unknown key (with the nearest valid one), or a refused
        value.
    """
    document = _read_document(name_or_path)
    for key, value in (overrides or {}).items():
        _set(document, key, value)
    return parse_experiment(document)


def parse_experiment(document: Mapping[str, Any]) -> ExperimentConfig:
    """Validate a mapping as an experiment; raises `BadInput` that names the offending key."""
    try:
        return ExperimentConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] != "extra_forbidden":
            raise BadInput(
                f"experiment value refused: {first['msg']}", field=field or "experiment", value=first["input"]
            ) from error
        valid = _keys_beside(first["loc"])
        nearest = nearest_name(str(first["loc"][-1]), valid)
        hint = f" (did you mean {nearest!r}?)" if nearest else ""
        raise BadInput(
            f"unknown key {field!r} in the experiment{hint}", field=field, allowed=", ".join(valid)
        ) from error


def experiment_spec(
    experiment: ExperimentConfig, frames: Mapping[str, pd.DataFrame], cities: Mapping[str, City]
) -> FeatureSpec:
    """Decide what an experiment's model reads, from training rows alone; see `features.build_spec`.

    Args:
        experiment: Kind of model, and how long context and horizon are.
        frames: Hourly UTC frame per city, every row a training row.
        cities: City per name.
    """
    from urbanwm.features import build_spec

    recipe = experiment.training
    return build_spec(experiment.model.kind, frames, cities, None, recipe.context_hours, recipe.horizon_hours)


def _read_document(name_or_path: str | Path) -> dict[str, Any]:
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        names = experiment_names()
        if str(name_or_path) not in names:
            nearest = nearest_name(str(name_or_path), names)
            hint = f" (did you mean {nearest!r}?)" if nearest else ""
            raise BadInput(
                f"no experiment named {str(name_or_path)!r}{hint}",
                field="experiment",
                allowed=", ".join(names),
            )
        path = CONFIGS_DIR / f"{name_or_path}.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(
            f"cannot read the experiment file: {error}", field="experiment", value=str(path)
        ) from error
    if not isinstance(document, dict):
        raise BadInput("the experiment file is not a mapping", field="experiment", value=str(path))
    return document


def _set(document: dict[str, Any], dotted: str, value: object) -> None:
    """Write `value` at a dotted name, making the sections on the way."""
    *sections, last = dotted.split(".")
    for section in sections:
        inner = document.setdefault(section, {})
        if not isinstance(inner, dict):
            raise BadInput("not a section of the experiment", field=dotted, value=section)
        document = inner
    document[last] = value


def _at(document: Mapping[str, Any], dotted: str) -> str | int | float:
    """Return the scalar at a dotted name."""
    value: Any = document
    for part in dotted.split("."):
        value = value[part]
    scalar: str | int | float = value
    return scalar


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are valid where an unknown one was found."""
    sections: dict[str, type[BaseModel]] = {"model": ModelConfig, "training": TrainingConfig}
    section = sections.get(str(location[0])) if len(location) > 1 else ExperimentConfig
    return sorted((section or ExperimentConfig).model_fields)
