"""What a training leaves: the record of a candidate before and after it was judged."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from urbanwm.whole_file import written_whole

TRAINED_FILE: Final = "trained.json"


@dataclass(frozen=True)
class Trained:
    """A candidate with its bundle on disk, before it was judged on held-out origins.

    Attributes:
        label: How reports name it.
        experiment: Name of its configuration.
        key: Identity of data, configuration and start.
        run_id: Its MLflow run, still open.
        folder: Working folder: checkpoints and `bundle/`.
        parameters: Number of trained weights.
        validation: Score on held-out blocks of the training rows; smaller is better.
        start: Version whose weights it started from, or None.
        seconds: Wall time by step.
    """

    label: str
    experiment: str
    key: str
    run_id: str
    folder: Path
    parameters: int
    validation: float | None
    start: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def bundle(self) -> Path:
        """Return the folder of the bundle."""
        return self.folder / "bundle"

    def save(self) -> None:
        """Write the record beside the bundle, in one step: from now on the training is done."""
        document = asdict(self) | {"folder": str(self.folder)}
        with written_whole(self.folder / TRAINED_FILE) as draft:
            draft.write_text(json.dumps(document), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Trained | None:
        """Return the record of a finished training; None where there is none."""
        try:
            document = json.loads((folder / TRAINED_FILE).read_text("utf-8"))
        except FileNotFoundError:
            return None
        return cls(**(document | {"folder": folder}))


@dataclass(frozen=True)
class TrainOutcome:
    """What a training run left.

    Attributes:
        run_id: MLflow run.
        version: Registered model version, as text.
        experiment: Name of the configuration.
        parameters: Number of trained weights.
        dataset_version: Lake version that was read.
        metrics: Held-out scores: `test/<signal>/mae` in the signal's unit, `skill/<signal>/h48` as a share.
        cities: Cities trained on.
        left_out: Why a city that was asked for was not trained on.
        reused: Whether the same data and configuration had been trained before, so that nothing was done.
        seconds: Wall time by step.
        label: How reports name the candidate.
        validation: Score on held-out blocks of the training rows, by which a night chooses; less is better.
        start: Version whose weights it started from, or None.
    """

    run_id: str
    version: str
    experiment: str
    parameters: int
    dataset_version: int
    metrics: dict[str, float]
    cities: list[str]
    left_out: dict[str, str]
    reused: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    label: str = ""
    validation: float | None = None
    start: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)
