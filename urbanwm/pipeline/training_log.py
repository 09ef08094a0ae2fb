"""What a training tells its run: inputs before the first step, metrics as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from urbanwm.contracts.signals import TARGETS
from urbanwm.pipeline.plan import EXPERIMENT_FILE, Plan
from urbanwm.registry import RunLog

WINDOW_FILE: Final = "evaluation/window.json"


def log_inputs(plan: Plan, run: RunLog) -> None:
    """Log configuration, lineage and the hours on which every model of this night is judged."""
    # The name is a tag already; a compare page stays readable below 25 parameters.
    params = {name: value for name, value in plan.experiment.flatten().items() if name != "name"}
    run.log_params(params | {"cities": ",".join(plan.data.records)})
    run.log_json(plan.experiment.to_dict(), EXPERIMENT_FILE)
    run.log_json(plan.data.window(), WINDOW_FILE)
    for name, record in plan.data.records.items():
        run.log_dataset(
            record.training,
            name=f"{name}-observations",
            uri=plan.data.lake_uri,
            version=plan.data.lake_version,
            digest=record.digest,
        )


class BatchedMetrics:
    """Sends training metrics to the run in one call per validation instead of one per report."""

    def __init__(self, run: RunLog) -> None:
        """Send to `run`."""
        self._run = run
        self._waiting: list[tuple[int, dict[str, float]]] = []
        self._sent: set[int] = set()

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take one report."""
        self._waiting.append((step, {metric_name(name): value for name, value in metrics.items()}))
        if "val_score" in metrics:
            self._send()

    def complete(self, history: Sequence[Mapping[str, float]]) -> None:
        """Send what is left, and what a killed process reported to a run that ended with it."""
        known = self._sent | {step for step, _ in self._waiting}
        for row in history:
            if int(row["step"]) not in known:
                self(int(row["step"]), {name: value for name, value in row.items() if name != "step"})
        self._send()

    def _send(self) -> None:
        self._run.log_history(self._waiting)
        self._sent |= {step for step, _ in self._waiting}
        self._waiting = []


def metric_name(reported: str) -> str:
    """Return the run's name of a training metric: `val_mae_pm25` → `val/pm25/mae`, `kl` → `train/kl`."""
    stage = "val" if reported.startswith("val_") else "train"
    name = reported.removeprefix("val_")
    for signal in TARGETS:
        if name.endswith(f"_{signal}"):
            return f"{stage}/{signal}/{name.removesuffix(f'_{signal}')}"
    return f"{stage}/{name}"
