"""Training: what is drawn, what is held out, what is kept, and that the same seed gives the same bits."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.small_world import random_model, small_experiment, small_fit, small_series
from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import BadInput, DataUnavailable, TrainingDiverged
from urbanwm.model.config import ModelDims, load_experiment
from urbanwm.model.world_model import UrbanWorldModel
from urbanwm.training import TrainResult, train
from urbanwm.training.checkpoint import BEST, read_checkpoint
from urbanwm.training.optimisation import AdamW, AveragedWeights, learning_rate
from urbanwm.training.run import load_best
from urbanwm.training.sampling import Sampler, hide_signals, split_origins
from urbanwm.training.validation import Forecasts, HeldOut, best_shares, forecast_held_out, scores


def _train(out_dir: Path, kind: str = "urban", **overrides: object) -> TrainResult:
    experiment = small_experiment(kind, **overrides)
    spec, series = small_series(experiment)
    direct = small_fit() if kind == "urban" else None
    return train(experiment, series, spec, out_dir, progress=False, direct=direct)


def _weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in result.model.named_parameters()}


@pytest.mark.parametrize("kind", ["reference", "urban"])
def test_a_run_leaves_its_best_and_final_weights(kind: str, tmp_path: Path) -> None:
    result = _train(tmp_path, kind)
    assert result.steps == 6
    assert result.checkpoints["best"].exists()
    assert result.checkpoints["final"].exists()
    assert not result.model.training
    stored = read_checkpoint(tmp_path / BEST).group("model")
    assert all(torch.equal(stored[name], value) for name, value in _weights(result).items())


def test_the_best_weights_load_strictly_into_a_fresh_model(tmp_path: Path) -> None:
    result = _train(tmp_path)
    experiment = small_experiment("urban")
    spec, _ = small_series(experiment)
    loaded = load_best(experiment, spec, tmp_path)
    for (name, one), (_, other) in zip(
        loaded.named_parameters(), result.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    one, same = _weights(_train(tmp_path / "a")), _weights(_train(tmp_path / "b"))
    other = _weights(_train(tmp_path / "c", training__seed=1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_torchs_random_state_and_threads_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    _train(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_metrics_are_reported_by_part_and_by_signal(tmp_path: Path) -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    reports: dict[int, dict[str, float]] = {}
    result = train(experiment, series, spec, tmp_path, on_metrics=lambda step, m: reports.update({step: m}))
    assert sorted(reports) == [2, 4, 6]
    for name in ("loss", "forecast", "reconstruction", "kl", "gradient_norm", "learning_rate", "val_score"):
        assert np.isfinite(reports[6][name])
    assert {f"crps_{name}" for name in TARGETS} <= reports[6].keys()
    assert [entry["step"] for entry in result.history] == [2, 4, 6]


def test_without_a_terminal_progress_is_plain_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="urbanwm.training"):
        _train(tmp_path)
    assert any("step 6/6" in line for line in caplog.messages)


def test_a_short_run_learns_what_is_there_to_learn(tmp_path: Path) -> None:
    result = _train(tmp_path, "reference", training__steps=40, training__learning_rate=3e-3)
    losses = [entry["loss"] for entry in result.history]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]


def test_before_its_first_step_the_urban_model_forecasts_like_the_direct_regression(tmp_path: Path) -> None:
    result = _train(tmp_path / "a", training__steps=1, training__learning_rate=1e-12)
    assert result.spec.direct is not None
    assert result.history[-1]["val_mae_energy_mwh"] < 0.3


def test_patience_stops_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    result = _train(
        tmp_path, training__steps=40, training__patience=2, training__learning_rate=1e-12,
        training__ema_decay=0.0, training__min_learning_rate=0.0, training__weight_decay=0.0,
        training__validate_every=2,
    )  # fmt: skip
    assert result.stopped_early
    assert result.steps < 40


def test_a_loss_that_is_not_finite_stops_the_run_by_name(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged) as caught:
        _train(tmp_path, training__learning_rate=1e30, training__steps=30, training__gradient_clip=1e30)
    assert caught.value.field in {"loss", "gradient", "val_score"}


def test_a_record_too_short_to_train_on_is_refused(tmp_path: Path) -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment, days=1)
    with pytest.raises(DataUnavailable, match="smallville"):
        train(experiment, series, spec, tmp_path)


@pytest.mark.slow
def test_a_folder_of_another_run_is_not_continued(tmp_path: Path) -> None:
    _train(tmp_path)
    with pytest.raises(BadInput, match="another run"):
        _train(tmp_path, training__seed=3)
    assert _train(tmp_path / "fresh", training__seed=3).steps == 6


def test_no_held_out_hour_counts_in_a_training_loss() -> None:
    experiment = small_experiment("urban", training__validation_days=8, training__validation_blocks=3)
    _, series = small_series(experiment)
    recipe, whole = experiment.training, series["smallville"]
    split = split_origins(whole, recipe)
    held = np.unique(split.validation[:, None] + np.arange(recipe.horizon_hours))
    assert len(held) > 0
    assert not split.series.target_mask[held].any()
    assert whole.target_mask[held].any()
    trained_on = split.series.windows(split.training, recipe.context_hours, recipe.horizon_hours)
    assert (trained_on.target_mask[:, recipe.context_hours :].sum(axis=(1, 2)) > 0).all()
    assert max(split.validation) + recipe.horizon_hours > len(whole) - 48


def test_batches_depend_on_the_samplers_state_only() -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    splits = {name: split_origins(city, experiment.training) for name, city in series.items()}
    sampler = Sampler(splits, spec, experiment.training)
    sampler.next()
    state = sampler.state
    batch = sampler.next()
    sampler.state = state
    np.testing.assert_array_equal(sampler.next().observed, batch.observed)


def test_a_batch_drawn_ahead_is_the_next_one_and_no_part_of_the_state_before() -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    splits = {name: split_origins(city, experiment.training) for name, city in series.items()}
    plain, ahead = (Sampler(splits, spec, experiment.training) for _ in range(2))
    for _ in range(3):
        assert ahead.state == plain.state
        ahead.draw_ahead()
        ahead.draw_ahead()
        assert ahead.state == plain.state
        np.testing.assert_array_equal(ahead.next().observed, plain.next().observed)
    state = ahead.state
    ahead.draw_ahead()
    ahead.state = plain.state = state
    np.testing.assert_array_equal(ahead.next().observed, plain.next().observed)


def test_a_hidden_signal_leaves_no_trace_in_the_inputs() -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    windows = series["smallville"].windows(list(range(900, 940)), 12, 12)
    hidden = hide_signals(windows, spec, 0.999, np.random.default_rng(0))
    whole = hidden.observed_mask[:, :12, 0].sum(axis=1) == 0
    assert 0 < whole.sum() < len(windows)
    recent = spec.skip_names.index("deviation_1h")
    assert not hidden.skip[whole, 12:, 0, recent].any()
    assert (hidden.observed[hidden.observed_mask == 0] == 0).all()
    np.testing.assert_array_equal(hidden.target, windows.target)
    np.testing.assert_array_equal(hidden.observed_mask[:, 12:], windows.observed_mask[:, 12:])


def test_hiding_keeps_skip_features_and_known_inputs_in_step() -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    windows = series["smallville"].windows(list(range(900, 940)), 12, 12)
    hidden = hide_signals(windows, spec, 0.5, np.random.default_rng(1))
    for target, name in enumerate(spec.targets):
        for j, skip_name in enumerate(spec.skip_names):
            column = spec.known_names.index(f"{name}_{skip_name}")
            np.testing.assert_array_equal(hidden.known[..., column], hidden.skip[:, :, target, j])


def test_the_level_of_a_hidden_signal_is_that_of_similar_days() -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    windows = series["smallville"].windows(list(range(900, 940)), 12, 12)
    hidden = hide_signals(windows, spec, 0.999, np.random.default_rng(0))
    forgotten = hidden.known[:, 0, spec.known_names.index("energy_mwh_history_missing")] > 0
    rows = (hidden.observed_mask[:, 9:12, 1].sum(axis=1) == 0) & ~forgotten
    similar = windows.skip[rows, 9:12, 1, spec.skip_names.index("similar_8")]
    for hours in (1, 3):
        level = hidden.skip[rows, 12:, 1, spec.skip_names.index(f"level_{hours}h")]
        expected = np.broadcast_to(similar[:, -hours:].mean(axis=1, keepdims=True), level.shape)
        np.testing.assert_allclose(level, expected, atol=1e-5)


def test_validation_keeps_of_the_network_what_held_out_hours_support() -> None:
    random = np.random.default_rng(0)
    start = random.standard_normal((20, 12, 3)).astype(np.float32)
    truth = random.standard_normal((20, 12, 3)).astype(np.float32)
    median = start + np.array([1.0, 0.0, 0.0], np.float32) * (truth - start)
    median[..., 2] += 2.0
    quantiles = median[..., None] + np.linspace(-0.1, 0.1, 7, dtype=np.float32)
    observed = np.stack([truth[..., 0], start[..., 1], start[..., 2]], axis=-1)
    began = start[..., None] + np.linspace(-0.1, 0.1, 7, dtype=np.float32)
    forecasts = Forecasts(quantiles, began, observed, np.ones_like(observed), np.ones((20, 12), np.float32))
    assert best_shares(forecasts)[0] == 1.0
    assert best_shares(forecasts)[2] == 0.0


def test_a_head_that_keeps_a_share_forecasts_what_validation_scored() -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    model = random_model(experiment, spec)
    model.predictor.keep([1.0, 1.0, 1.0])
    splits = {name: split_origins(city, experiment.training) for name, city in series.items()}
    held_out = HeldOut.cut(series, splits, experiment.training)
    expected = forecast_held_out(model, held_out).keeping([0.5, 0.0, 1.0]).quantiles
    model.predictor.keep([0.5, 0.0, 1.0])
    np.testing.assert_allclose(forecast_held_out(model, held_out).quantiles, expected, atol=1e-5)


def test_held_out_windows_of_many_cities_are_thinned_to_every_city_and_hour_of_the_day() -> None:
    experiment = small_experiment("urban")
    _, series = small_series(experiment)
    (city,) = series.values()
    cities = {f"city{number}": city for number in range(3)}
    splits = {name: SimpleNamespace(validation=np.arange(100, 1060)) for name in cities}
    everything = HeldOut.cut(cities, splits, experiment.training)
    thinned = HeldOut.cut(cities, splits, experiment.training, most=len(everything) // 4)
    assert 0 < len(thinned) <= len(everything) // 4 + len(cities)
    hours = [np.concatenate(list(half.origins.values())) % 24 for half in (everything, thinned)]
    assert set(hours[0]) == set(hours[1])
    assert all(len(origins) for origins in thinned.origins.values())


def test_each_citys_rows_are_the_forecasts_of_its_own_windows() -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    model, (city,) = random_model(experiment, spec), series.values()
    cities, origins = (
        dict.fromkeys("abc", city),
        {"a": np.arange(300, 370), "b": [], "c": np.arange(500, 503)},
    )
    splits = {name: SimpleNamespace(validation=np.array(origins[name], int)) for name in cities}
    together = HeldOut.cut(cities, splits, experiment.training)
    forecasts = forecast_held_out(model, together)
    assert [len(forecasts.of_rows(rows).observed) for rows in together.rows.values()] == [70, 0, 3]
    alone = forecast_held_out(model, HeldOut.cut({"c": city}, splits, experiment.training))
    assert np.array_equal(forecasts.of_rows(together.rows["c"]).quantiles, alone.quantiles)


def test_the_learning_rate_warms_up_and_falls_to_its_minimum() -> None:
    recipe = load_experiment("base").training
    rates = [learning_rate(recipe, step) for step in range(501)]
    assert rates[0] == pytest.approx(3e-4 / 50)
    assert max(rates) == pytest.approx(3e-4)
    assert rates[49] == pytest.approx(3e-4)
    assert rates[500] == pytest.approx(1e-6)
    assert all(later <= earlier for earlier, later in pairwise(rates[50:]))


def test_the_optimiser_steps_as_torchs_adamw_does() -> None:
    recipe = load_experiment("base").training
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizer = AdamW(ours, recipe)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=recipe.betas, weight_decay=1e-4)
    for step in range(20):
        x = torch.randn(7, 5)
        for model in (ours, theirs):
            model.zero_grad()
            model(x).square().sum().backward()
        optimizer.step(step, 1e-3)
        reference.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_an_average_without_decay_is_the_weights_themselves() -> None:
    experiment = small_experiment("urban")
    spec, _ = small_series(experiment)
    model = UrbanWorldModel(experiment.model, ModelDims.of(spec))
    average = AveragedWeights(model, 0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update(model, 100)
    assert all(torch.equal(average.values[name], value) for name, value in model.named_parameters())


def test_a_signal_without_held_out_values_does_not_count_in_the_score() -> None:
    quantiles = np.zeros((2, 3, 3, 7), np.float32)
    observed = np.random.default_rng(0).standard_normal((2, 3, 3)).astype(np.float32)
    mask = np.ones((2, 3, 3), np.float32)
    mask[..., 1] = 0.0
    result = scores(Forecasts(quantiles, quantiles, observed, mask, np.ones((2, 3), np.float32)))
    assert "val_crps_energy_mwh" not in result
    assert np.isfinite(result["val_score"])
