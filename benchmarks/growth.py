"""How cost grows with batch, horizon, samples and cities: median milliseconds of one thread.

    python -m benchmarks.growth [--rounds 5]

Batch and horizon: `Bundle.imagine` of the reference shape. Samples: one whole `simulate` of 48 h, default
experiment (untrained), a year of one city. Cities: reading them into training series, and a training step of
the default experiment, drawn from all of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import timedelta
from pathlib import Path

import torch

from benchmarks.our_worlds import World, made_up_city, made_up_hours, rollout_inputs
from benchmarks.timing import Job, interleave, load_average
from urbanwm.contracts.scenario import Policy, Scenario
from urbanwm.features import FeatureSpec, build_series
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.memory import keep_freed_memory
from urbanwm.model.bundle import Bundle
from urbanwm.model.config import ExperimentConfig, experiment_spec, load_experiment
from urbanwm.model.world_model import Batch
from urbanwm.simulator import simulate
from urbanwm.training.sampling import Sampler, split_origins

BATCHES = (1, 4, 16, 64, 256)
HORIZONS_HOURS = (24, 48, 96, 168)
SAMPLES = (1, 20, 100, 200)
CITIES = (1, 4, 16)
DAYS = 365


def rollouts(bundle: Bundle, rounds: int) -> dict[str, dict[int, float]]:
    """Return ms by batch (48 h) and by horizon (one row)."""

    def job(rows: int, hours: int) -> Job:
        inputs = rollout_inputs(bundle, rows, hours)
        return lambda: bundle.imagine(**inputs)

    jobs = {f"batch {rows}": job(rows, 48) for rows in BATCHES}
    jobs |= {f"hours {hours}": job(1, hours) for hours in HORIZONS_HOURS}
    timed = interleave(jobs, rounds)
    return {
        "batch": {rows: timed.milliseconds(f"batch {rows}") for rows in BATCHES},
        "horizon_hours": {hours: timed.milliseconds(f"hours {hours}") for hours in HORIZONS_HOURS},
    }


def answers(bundle: Bundle, rounds: int) -> dict[int, float]:
    """Return ms of one whole answer by number of samples."""
    city, history = made_up_city(), made_up_hours(DAYS)
    forecaster, now = WorldModelForecaster(bundle), history.index[-1].to_pydatetime() + timedelta(hours=1)

    def job(samples: int) -> Job:
        scenario = Scenario(
            city=city.name, policy=Policy(car_free_ratio=0.3), uncertainty_samples=samples, seed=0
        )
        return lambda: simulate(scenario, city, history, forecaster, now=now)

    timed = interleave({str(samples): job(samples) for samples in SAMPLES}, rounds)
    return {samples: timed.milliseconds(str(samples)) for samples in SAMPLES}


def cities(experiment: ExperimentConfig, rounds: int) -> dict[str, dict[int, float]]:
    """Return ms of reading n cities into training series, and of a step that draws from all of them.

    Every city is an input of its own to the model.
    """
    recipe = experiment.training
    frames = {f"city{number}": made_up_hours(DAYS, seed=number) for number in range(max(CITIES))}
    places = {name: made_up_city(name) for name in frames}

    def sampler(count: int) -> tuple[Sampler, FeatureSpec]:
        chosen = {name: frames[name] for name in list(frames)[:count]}
        spec = experiment_spec(experiment, chosen, places)
        series = {name: build_series(frame, name, spec) for name, frame in chosen.items()}
        splits = {name: split_origins(one, recipe) for name, one in series.items()}
        return Sampler(splits, spec, recipe), spec

    def step(drawn: Sampler, spec: FeatureSpec) -> Job:
        world = World.of(experiment, spec)
        return lambda: world.step(Batch.of(drawn.next()))

    def read(count: int) -> Job:
        return lambda: sampler(count)

    reading = interleave({str(count): read(count) for count in CITIES}, max(1, rounds // 2))
    training = interleave({str(count): step(*sampler(count)) for count in CITIES}, rounds)
    return {
        "cities_reading": {count: reading.milliseconds(str(count)) for count in CITIES},
        "cities_training_step": {count: training.milliseconds(str(count)) for count in CITIES},
    }


def measure(rounds: int) -> dict[str, object]:
    """Return the tables."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as a training run does
    load = load_average()
    with tempfile.TemporaryDirectory() as scratch:
        reference = World.make("base").bundle(Path(scratch) / "reference")
        default = World.make("urban").bundle(Path(scratch) / "default")
    return {
        "load_before": load,
        **rollouts(reference, rounds),
        "samples": answers(default, rounds),
        **cities(load_experiment("urban"), rounds),
    }


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    print(json.dumps(measure(parser.parse_args().rounds), indent=2))


if __name__ == "__main__":
    main()
