"""The matrix products of a training step by themselves: what a step would take if nothing else cost time."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from benchmarks.timing import Job
from urbanwm.model.world_model import UrbanWorldModel

Product = tuple[Tensor, Tensor, Tensor]
"""Left factor, right factor, and where the result goes."""


def _product(rows: int, inner: int, columns: int) -> Product:
    return torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)


def _layer(rows: int, width_in: int, width_out: int, *, first: bool = False) -> list[Product]:
    """Return a layer's products over all rows: result, gradient of the weights, gradient of the input.

    The first layer's input needs no gradient.
    """
    forward = _product(rows, width_in, width_out)
    left, weights, result = forward
    by_weights = result.t(), left, torch.empty(width_out, width_in)
    by_input = result, weights.t(), torch.empty(rows, width_in)
    return [forward, by_weights] if first else [forward, by_weights, by_input]


def _widths(net: nn.Module) -> list[tuple[int, int]]:
    return [(one.in_features, one.out_features) for one in net.modules() if isinstance(one, nn.Linear)]


def step_products(model: UrbanWorldModel, batch: int, hours: int) -> tuple[Job, float]:
    """Return a job that does the products of a step of the reference, and their work in GFLOP.

    Encoder, prior and predictor are products over all rows. The recurrence has three an hour forward and
    three back, `batch` rows each, and afterwards the gradients of its weights over all rows.
    """
    rows, rssm = batch * hours, model.rssm
    hidden, latent, belief = rssm.hidden_dim, rssm.latent_dim, rssm.latent.parameters
    encoder = _widths(model.encoder)
    over_all: list[Product] = _layer(rows, *encoder[0], first=True)
    seen = [(encoder[-1][1], hidden)]  # what the posterior makes of the embedding
    for widths in itertools.chain(encoder[1:], _widths(rssm.prior_net), _widths(model.predictor), seen):
        over_all += _layer(rows, *widths)
    gates_in = rssm.recurrent.weight_ih.shape[1]
    recurrent = (latent, 3 * hidden, gates_in), (hidden, 4 * hidden, hidden), (hidden, belief, hidden)
    hourly: list[Product] = []
    for width_in, width_out, fed in recurrent:
        hourly += [_product(batch, width_in, width_out), _product(batch, width_out, width_in)]
        over_all.append(_product(width_out, rows, fed))

    def run() -> None:
        for left, right, result in over_all:
            torch.mm(left, right, out=result)
        for _ in range(hours):
            for left, right, result in hourly:
                torch.mm(left, right, out=result)

    def work(products: list[Product]) -> float:
        return sum(2 * left.numel() * right.shape[1] for left, right, _ in products) / 1e9

    return run, work(over_all) + hours * work(hourly)
