"""Training losses: the reference's, and the open-loop quantile loss of the urban model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.model.rssm import State

if TYPE_CHECKING:
    from urbanwm.model.config import TrainingConfig
    from urbanwm.model.world_model import Batch, UrbanWorldModel


class Losses(NamedTuple):
    """The loss to minimise and its parts, unweighted, for the log."""

    total: Tensor
    parts: dict[str, Tensor]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `(B, T, 3)` per signal over the observed hours; 0 for a signal without any."""
    return (values * mask).sum(dim=(0, 1)) / mask.sum(dim=(0, 1)).clamp(min=1.0)


def quantile_loss(quantiles: Tensor, target: Tensor) -> Tensor:
    """Return twice the mean pinball loss over the levels: an estimate of the CRPS.

    Args:
        quantiles: `(..., Q)` at `QUANTILE_LEVELS`, or a point forecast with Q = 1 (then the absolute error).
        target: `(...)`, same units.
    """
    levels = torch.tensor(QUANTILE_LEVELS if quantiles.shape[-1] > 1 else (0.5,), dtype=quantiles.dtype)
    error = target.unsqueeze(-1) - quantiles
    levels = levels.to(error.device)
    return 2.0 * torch.maximum(levels * error, (levels - 1.0) * error).mean(dim=-1)


def kl_weight(recipe: TrainingConfig, step: int) -> float:
    """Return the weight of the KL term at a step: linear from 0 over `kl_anneal_steps`."""
    if recipe.kl_anneal_steps == 0:
        return recipe.kl_weight
    return recipe.kl_weight * min(1.0, step / recipe.kl_anneal_steps)


def reference_loss(
    model: UrbanWorldModel, batch: Batch, noise: Tensor, recipe: TrainingConfig, step: int
) -> Losses:
    """Return the reference's loss: raw-unit MSE of the read-out plus annealed KL(q‖p) (DESIGN §4)."""
    path = model.observe(batch, noise, hours=batch.target.shape[1])
    prior = model.rssm.prior(path.h)
    kl = model.rssm.kl(path.belief, prior).mean()
    error = (model.decode(path.h, path.z, batch.skip).squeeze(-1) - batch.target).square()
    per_signal = masked_mean(error, batch.target_mask)
    reconstruction = per_signal.mean()
    total = recipe.reconstruction_weight * reconstruction + kl_weight(recipe, step) * kl
    return Losses(total, {"reconstruction": reconstruction, "kl": kl, **_by_signal("mse", per_signal)})


def open_loop_loss(
    model: UrbanWorldModel, batch: Batch, noise: Tensor, recipe: TrainingConfig, step: int
) -> Losses:
    """Return the urban model's loss: what it is used for is what it is trained on.

    Quantile loss of the hours imagined from the prior after filtering the context, a smaller one on the
    filtered hours, and the two halves of the KL with stop-gradients and free bits (Hafner et al. 2023).
    """
    hours = batch.context_hours
    seen = model.observe(batch, noise[:, :hours], hours=hours)
    ahead = model.rssm.imagine(
        model.inputs(batch.known[:, hours:], batch.action[:, hours:]),
        State(seen.h[:, -1], seen.z[:, -1]),
        noise[:, hours:],
    )
    h, z = torch.cat([seen.h, ahead.h], dim=1), torch.cat([seen.z, ahead.z], dim=1)
    output = model.decode(h, z, batch.skip)
    pinball = quantile_loss(output, batch.target)
    context = masked_mean(pinball[:, :hours], batch.target_mask[:, :hours])
    horizon = masked_mean(pinball[:, hours:], batch.target_mask[:, hours:])
    weights = torch.tensor(recipe.signal_weights, dtype=horizon.dtype, device=horizon.device)

    posterior, prior = seen.belief, model.rssm.prior(seen.h)
    dynamics = model.rssm.kl(posterior.detach(), prior)
    representation = model.rssm.kl(posterior, prior.detach())
    kl = (
        recipe.kl_dynamics * dynamics.clamp(min=recipe.free_bits).mean()
        + recipe.kl_representation * representation.clamp(min=recipe.free_bits).mean()
    )
    forecast, reconstruction = (weights * horizon).mean(), (weights * context).mean()
    total = (
        recipe.forecast_weight * forecast
        + recipe.reconstruction_weight * reconstruction
        + kl_weight(recipe, step) * kl
    )
    parts = {"forecast": forecast, "reconstruction": reconstruction, "kl": dynamics.mean()}
    return Losses(total, parts | _by_signal("crps", horizon))


def _by_signal(prefix: str, values: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}_{name}": value for name, value in zip(TARGETS, values.unbind(), strict=True)}
