"""One training as a piece of work that can be done anywhere, and what is known of one done before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from urbanwm.pipeline.data import NightData, read_window
from urbanwm.pipeline.outcome import TrainOutcome
from urbanwm.pipeline.plan import Candidate, Plan, plan_candidate
from urbanwm.registry import START_TAG, ModelVersion
from urbanwm.settings import Settings

VALIDATION_TAG: Final = "validation"


@dataclass(frozen=True)
class TrainJob:
    """One training that can be done in another process: it names its data, and reads them where it runs.

    Attributes:
        settings: Where everything is.
        candidate: What to train.
        key: Identity of the work.
        window: The hours, as `NightData.window` describes them.
        left_out: Why a city that was asked for is not among them.
        parent_run_id: The night's run, or None.
        tags: Noted on the run and on the version besides the plan's.
        direct: Where the direct forecast was fitted, see `direct_jobs`; None: it is fitted here.
        word: File that tells idle workers how to help, see `AssistJob`; None: nobody is asked.
    """

    settings: Settings
    candidate: Candidate
    key: str
    window: Mapping[str, Any]
    left_out: Mapping[str, str]
    parent_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    direct: Path | None = None
    word: Path | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        plan: Plan,
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        direct: Path | None = None,
        word: Path | None = None,
    ) -> TrainJob:
        """Return the job that carries out a plan."""
        data, noted = plan.data, dict(tags or {})
        window = data.window()
        return cls(
            settings, plan.candidate, plan.key, window, data.left_out, parent_run_id, noted, direct, word
        )

    def plan(self) -> Plan:
        """Read the data again: the same version of the lake, the same hours."""
        records = read_window(self.window, self.settings)
        data = NightData(self.settings.lake_uri, self.window["lake_version"], records, self.left_out)
        return plan_candidate(self.candidate, data)

    @property
    def folder(self) -> Path:
        """Return the working folder."""
        return self.settings.runs_dir / self.key

    @property
    def lock(self) -> FileLock:
        """Return the lock of this very training."""
        self.settings.locks_dir.mkdir(parents=True, exist_ok=True)
        return FileLock(self.settings.locks_dir / f"train-{self.key}.lock")


@dataclass(frozen=True)
class AssistJob:
    """The offer to help a training of the same spread, for a worker that has nothing else to do."""

    word: Path


def reused_outcome(
    version: ModelVersion, window: Mapping[str, Any], left_out: Mapping[str, str]
) -> TrainOutcome:
    """Describe a version that an earlier call made.

    Args:
        version: As the registry has it.
        window: The hours that it was asked for, as `NightData.window` describes them.
        left_out: Why a city that was asked for is not among them.
    """
    tags = version.tags
    noted = tags.get(VALIDATION_TAG)
    return TrainOutcome(
        run_id=version.run_id,
        version=version.version,
        experiment=tags.get("experiment", ""),
        parameters=int(tags.get("parameters", "0")),
        dataset_version=window["lake_version"],
        metrics=version.scores,
        cities=list(window["cities"]),
        left_out=dict(left_out),
        reused=True,
        label=tags.get("candidate", ""),
        validation=None if noted is None else float(noted),
        start=tags.get(START_TAG),
    )
