"""A small training run for `torchrun`: `parallel_training.py FOLDER WINDOWS_PER_PROCESS`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.small_world import small_city, small_experiment, small_frame
from urbanwm.features import build_series
from urbanwm.model.config import experiment_spec
from urbanwm.training import train
from urbanwm.training.warm_start import weights_digest


def main(folder: Path, batch_size: int) -> None:
    """Train without gaps, held-out hours and dropout: then all shares of a batch weigh the same."""
    experiment = small_experiment(
        "urban",
        model__dropout=0.0,
        training__signal_dropout=0.0,
        training__validation_days=0,
        training__batch_size=batch_size,
        training__log_every=1,
        training__learning_rate=0.01,
    )
    frame, city = small_frame().interpolate().bfill(), small_city()
    spec = experiment_spec(experiment, {city.name: frame}, {city.name: city})
    losses: list[float] = []
    result = train(
        experiment,
        {city.name: build_series(frame, city.name, spec)},
        spec,
        folder,
        progress=False,
        on_metrics=lambda _, metrics: losses.append(metrics["loss"]),
    )
    weights = weights_digest(dict(result.model.named_parameters()))
    found = {"reports": len(losses), "weights": weights}
    (folder / f"result-{os.environ['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")
    if losses:  # only the first process reports
        (folder / "losses.json").write_text(json.dumps(losses), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
