"""The world model: size, ranges, what enters it and what must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.small_world import random_model, small_experiment, small_series
from urbanwm.contracts.signals import MEDIAN, QUANTILE_LEVELS
from urbanwm.errors import InternalContractBroken
from urbanwm.model.config import ModelDims, load_experiment
from urbanwm.model.losses import kl_weight, masked_mean, quantile_loss
from urbanwm.model.predictor import Predictor
from urbanwm.model.world_model import Batch, Imagined, UrbanWorldModel

REFERENCE_DIMS = ModelDims(observed=12, known=0, action=2, skip=0)


def _batch(kind: str, rows: int = 3, horizon: int = 24) -> tuple[UrbanWorldModel, Batch]:
    experiment = small_experiment(kind)
    spec, series = small_series(experiment)
    model = random_model(experiment, spec)
    (city,) = series.values()
    context = experiment.training.context_hours
    return model, Batch.of(city.windows(list(range(800, 800 + rows)), context, horizon))


def _forecast(model: UrbanWorldModel, batch: Batch, noise: torch.Tensor | None = None) -> Imagined:
    shape = (len(batch.observed), batch.observed.shape[1], model.config.latent_dim)
    with torch.no_grad():
        return model.forecast(batch, torch.zeros(shape) if noise is None else noise)


def test_the_reference_has_exactly_the_designs_parameters() -> None:
    model = UrbanWorldModel(load_experiment("base").model, REFERENCE_DIMS)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert parts == {"encoder": 103_040, "rssm": 593_920, "predictor": 166_147}
    assert model.parameter_count() == 863_107


def test_the_references_heads_keep_their_documented_ranges() -> None:
    torch.manual_seed(0)
    head = Predictor(8, 16, 3, dropout=0.0)
    with torch.no_grad():
        pm25, energy, traffic = head(10.0 * torch.randn(200, 8))[..., 0].unbind(-1)
    assert pm25.min() >= 5.0
    assert energy.min() >= 100.0
    assert traffic.min() >= 0.0
    assert traffic.max() <= 2.0


def test_an_untrained_urban_forecast_is_the_direct_forecast() -> None:
    experiment = small_experiment("urban")
    spec, series = small_series(experiment)
    dims = ModelDims.of(spec)
    model = UrbanWorldModel(experiment.model, dims).eval()
    (city,) = series.values()
    windows = city.windows([800, 900], experiment.training.context_hours, 12)
    skip = np.random.default_rng(0).standard_normal(windows.skip.shape).astype(np.float32)
    batch = Batch.of(replace(windows, skip=skip))
    median = _forecast(model, batch).output[..., MEDIAN]
    torch.testing.assert_close(median, batch.skip[:, batch.context_hours :, :, dims.direct])


def _wild() -> tuple[UrbanWorldModel, Batch]:
    """Return an urban model whose head departs far from where it began."""
    model, batch = _batch("urban", horizon=48)
    with torch.no_grad():
        for parameter in model.predictor.parameters():
            if parameter.requires_grad:
                parameter.mul_(5.0)
    return model, batch


def test_quantiles_never_cross() -> None:
    model, batch = _wild()
    assert (_forecast(model, batch).output.diff(dim=-1) >= 0).all()


def test_the_network_widens_bands_and_narrows_none() -> None:
    model, batch = _wild()
    usual = model.direct(batch.skip[:, batch.context_hours :])[1][..., None]
    wider = _forecast(model, batch).output.diff(dim=-1) / usual - model.predictor.start.diff(dim=-1)
    assert wider.min() > -1e-3
    assert wider.max() > 1.0


@pytest.mark.parametrize("kind", ["reference", "urban"])
def test_latents_have_one_row_per_imagined_hour(kind: str) -> None:
    model, batch = _batch(kind, horizon=5)
    path = _forecast(model, batch)
    assert path.h.shape == (3, 5, model.config.hidden_dim)
    assert path.z.shape == (3, 5, model.config.latent_dim)
    assert path.output.shape == (3, 5, 3, 7 if kind == "urban" else 1)


@pytest.mark.parametrize("kind", ["reference", "urban"])
def test_the_future_does_not_reach_the_forecast(kind: str) -> None:
    model, batch = _batch(kind)
    ahead = slice(batch.context_hours, None)
    observed, target = batch.observed.clone(), batch.target.clone()
    observed[:, ahead] += 100.0
    target[:, ahead] -= 100.0
    torch.testing.assert_close(
        _forecast(model, batch).output,
        _forecast(model, replace(batch, observed=observed, target=target)).output,
    )


def test_the_urban_forecast_depends_on_the_start_hour() -> None:
    model, batch = _batch("urban")
    shifted = replace(batch, known=batch.known.roll(6, dims=1))
    assert not torch.allclose(_forecast(model, batch).output, _forecast(model, shifted).output)


@pytest.mark.parametrize("kind", ["reference", "urban"])
def test_dropout_is_off_outside_training(kind: str) -> None:
    model, batch = _batch(kind)
    assert torch.equal(_forecast(model, batch).output, _forecast(model, batch).output)


@pytest.mark.parametrize("kind", ["reference", "urban"])
def test_a_week_ahead_stays_finite(kind: str) -> None:
    model, batch = _batch(kind, horizon=168)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(3, batch.observed.shape[1], model.config.latent_dim, generator=generator)
    path = _forecast(model, batch, noise)
    assert all(torch.isfinite(part).all() for part in path)
    assert path.h.abs().max() <= 1.0


def test_any_set_of_missing_signals_still_gives_a_finite_forecast() -> None:
    model, batch = _batch("urban")
    for column in range(batch.observed.shape[2]):
        mask = batch.observed_mask.clone()
        mask[:, :, column] = 0.0
        path = _forecast(model, replace(batch, observed=batch.observed * mask, observed_mask=mask))
        assert torch.isfinite(path.output).all()
    nothing = torch.zeros_like(batch.observed)
    path = _forecast(model, replace(batch, observed=nothing, observed_mask=nothing))
    assert torch.isfinite(path.output).all()


def test_what_a_masked_hour_holds_does_not_matter_to_the_loss() -> None:
    model, batch = _batch("urban")
    recipe = small_experiment("urban").training
    mask = batch.target_mask.clone()
    mask[:, ::2] = 0.0
    noise = torch.zeros(3, batch.observed.shape[1], model.config.latent_dim)
    losses = [
        model.loss(
            replace(batch, target=batch.target + shift * (1.0 - mask), target_mask=mask), noise, recipe, 0
        )
        for shift in (0.0, 50.0)
    ]
    torch.testing.assert_close(losses[0].total, losses[1].total)


def _gradient_norms(model: UrbanWorldModel) -> dict[str, float]:
    groups = {
        "encoder": model.encoder,
        "recurrent": model.rssm.recurrent,
        "prior": model.rssm.prior_net,
        "posterior": model.rssm.posterior_net,
        "predictor": model.predictor,
    }
    return {
        name: float(torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm())
        for name, module in groups.items()
    }


def _backward(kind: str) -> UrbanWorldModel:
    """Return a fresh full-size model after one backward pass."""
    experiment = load_experiment("urban" if kind == "urban" else "base")
    spec, series = small_series(small_experiment(kind))
    torch.manual_seed(0)
    model = UrbanWorldModel(experiment.model, ModelDims.of(spec))
    if kind == "urban":  # a zero-initialised output lets nothing through at the very first step
        torch.nn.init.normal_(model.predictor.out.weight, std=0.05)
    (city,) = series.values()
    batch = Batch.of(city.windows([20, 110, 1000, 1100], 12, 24))  # 1 and 6 January are special
    model.loss(batch, torch.randn(4, 36, model.config.latent_dim), experiment.training, 200).total.backward()
    return model


def test_every_parameter_group_gets_a_gradient_of_comparable_size() -> None:
    model = _backward("urban")
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)
    norms = _gradient_norms(model)
    assert max(norms.values()) / min(norms.values()) < 1e3, norms


def test_the_references_raw_units_starve_the_prior_a_weakness_that_it_keeps() -> None:
    model = _backward("reference")
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)
    norms = _gradient_norms(model)
    assert norms["predictor"] / norms["prior"] > 1e3


def test_a_model_without_a_direct_forecast_cannot_be_urban() -> None:
    with pytest.raises(InternalContractBroken):
        UrbanWorldModel(load_experiment("urban").model, REFERENCE_DIMS)


def test_the_quantile_loss_of_a_point_is_the_absolute_error() -> None:
    torch.testing.assert_close(quantile_loss(torch.tensor([[3.0]]), torch.tensor([1.0])), torch.tensor([2.0]))


def test_the_quantile_loss_follows_its_definition() -> None:
    quantiles, target = torch.arange(7.0).unsqueeze(0), torch.tensor([2.5])
    expected = 2 * sum(
        max(tau * (2.5 - q), (tau - 1) * (2.5 - q)) for tau, q in zip(QUANTILE_LEVELS, range(7), strict=True)
    )
    torch.testing.assert_close(quantile_loss(quantiles, target), torch.tensor([expected / 7]))


def test_the_mean_over_no_observed_hour_is_zero_not_nan() -> None:
    assert torch.equal(masked_mean(torch.ones(2, 3, 3), torch.zeros(2, 3, 3)), torch.zeros(3))


def test_the_kl_weight_is_annealed_linearly() -> None:
    recipe = load_experiment("base").training
    assert [kl_weight(recipe, step) for step in (0, 50, 100, 400)] == pytest.approx([0.0, 0.05, 0.1, 0.1])
