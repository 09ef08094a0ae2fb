"""What held-out windows are forecast by: the same bits, whoever computes them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from urbanwm.model.predictor import QuantilePredictor
from urbanwm.model.world_model import Batch, UrbanWorldModel


class Outlook(NamedTuple):
    """Forecasts of a pass `(B, H, 3, Q)`, and what an untrained model forecasts; on the CPU."""

    quantiles: Tensor
    start: Tensor


@torch.no_grad()
def outlook(model: UrbanWorldModel, batch: Batch) -> Outlook:
    """Forecast a pass from the latent means, dropout off."""
    was_training = model.training
    model.eval()
    noise = batch.observed.new_zeros(*batch.observed.shape[:2], model.config.latent_dim)
    quantiles = model.forecast(batch, noise).output
    start = quantiles.clone()
    if isinstance(model.predictor, QuantilePredictor):
        parts = model.direct(batch.skip[:, batch.context_hours :])
        direct, usual_error = (part.unsqueeze(-1) for part in parts)
        start = direct + usual_error * model.predictor.start
    model.train(was_training)
    return Outlook(quantiles.cpu().contiguous(), start.cpu().contiguous())
