"""From a plan to a bundle on disk: features, training, export. Nothing is recorded here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from urbanwm.assumptions import load_assumptions
from urbanwm.features import CitySeries, FeatureSpec
from urbanwm.pipeline.direct_jobs import read_fit
from urbanwm.pipeline.plan import Candidate, Plan, training_series, training_spec
from urbanwm.pipeline.progress import Stopwatch
from urbanwm.provenance import collect_provenance
from urbanwm.registry import Registry

if TYPE_CHECKING:
    from urbanwm.training import TrainResult
    from urbanwm.training.team import Team

ASSUMPTIONS: Final = "literature"
CHECKPOINTS: Final = "checkpoints"


@dataclass(frozen=True)
class Fitted:
    """A trained model and what it was made of.

    Attributes:
        result: As the training returned it.
        spec: What its inputs mean.
        series: Training rows per city.
        bundle: Folder of the exported bundle.
    """

    result: TrainResult
    spec: FeatureSpec
    series: Mapping[str, CitySeries]
    bundle: Path


def fit(
    plan: Plan,
    folder: Path,
    registry: Registry,
    run_id: str,
    *,
    direct: Path | None = None,
    team: Team | None = None,
    on_metrics: Callable[[int, dict[str, float]], None] | None = None,
    watch: Stopwatch | None = None,
) -> Fitted:
    """Train a plan in `folder`, from its last checkpoint there, and export the bundle.

    Args:
        plan: What to train, on which data.
        folder: Working folder: checkpoints and `bundle/`.
        registry: Where a warm start finds its first weights.
        run_id: Noted in the bundle.
        direct: Where the direct forecast was fitted before, see `direct_jobs`; None: it is fitted now.
        team: Computes what a training divides; None: this process.
        on_metrics: Called with the step and its metrics.
        watch: Told how long each part took.

    Raises:
        BadInput: torchrun started this process.
        TrainingDiverged: The loss or a gradient stopped being finite.
        BundleInvalid: The exported graphs do not answer like the network.
    """
    from urbanwm.model.export import export_bundle
    from urbanwm.training import train
    from urbanwm.training.parallel import require_one_process
    from urbanwm.training.team import SOLO

    require_one_process()
    laps = watch or Stopwatch()
    spec = training_spec(plan)
    series = training_series(plan.data.records, spec)
    laps.lap("features")
    result = train(
        plan.experiment,
        series,
        spec,
        folder / CHECKPOINTS,
        direct=None if direct is None else read_fit(direct, series, spec),
        team=team or SOLO,
        on_metrics=on_metrics,
        initial_weights=_start_weights(plan.candidate, registry),
    )
    laps.lap("train")
    tags = {name: str(value) for name, value in plan.tags.items()}
    bundle = export_bundle(
        result.model,
        plan.experiment,
        result.spec,
        result.calibration,
        load_assumptions(ASSUMPTIONS).model_dump(mode="json"),
        collect_provenance().to_dict() | {"run_id": run_id} | tags,
        folder / "bundle",
    )
    laps.lap("export")
    return Fitted(result, result.spec, result.series, bundle)


def _start_weights(candidate: Candidate, registry: Registry) -> Any:  # noqa: ANN401 - tensors, or None
    """Return the weights that the candidate starts from, by name; None for random ones."""
    if candidate.start is None:
        return None
    from urbanwm.training.warm_start import bundle_weights

    with tempfile.TemporaryDirectory(prefix="urbanwm-start-") as scratch:
        return bundle_weights(registry.download(registry.version(candidate.start), Path(scratch) / "bundle"))
