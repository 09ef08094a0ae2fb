"""Hand-written derivatives of the networks and the latents equal plain autograd, for any size."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from unittest import mock

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from urbanwm.model.dropout import FastDropout
from urbanwm.model.latent import GaussianLatent
from urbanwm.model.perceptron import Perceptron

TOLERANCE = 1e-9


def _value_and_gradients(run: Callable[..., Tensor], arguments: list[Tensor]) -> list[Tensor]:
    """Return a function's result and its gradients along a fixed direction."""
    result = run(*arguments)
    direction = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=result.dtype)
    wanted = [value for value in arguments if value.requires_grad]
    return [result.detach(), *torch.autograd.grad(result, wanted, direction)]


def _assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=TOLERANCE, atol=TOLERANCE)


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    activation=st.sampled_from([nn.ReLU, nn.SiLU]),
    norm=st.booleans(),
    dropout=st.sampled_from([0.0, 0.4]),
    last=st.booleans(),
    first_needs_gradient=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_perceptron_is_the_sequence_of_its_layers(
    widths: list[int],
    shape: list[int],
    activation: type[nn.Module],
    norm: bool,
    dropout: float,
    last: bool,
    first_needs_gradient: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for width_in, width in itertools.pairwise(widths):
        layers += [nn.Linear(width_in, width), *([nn.LayerNorm(width)] if norm else [])]
        layers += [activation(), FastDropout(dropout)]
    if last:
        layers.append(nn.Linear(widths[-1], 3))
    fast, plain = Perceptron(*layers).double(), nn.Sequential(*layers).double()
    x = torch.randn(*shape, widths[0], dtype=torch.float64, requires_grad=first_needs_gradient)

    def run(net: nn.Module) -> list[Tensor]:
        torch.manual_seed(seed)  # the same elements are dropped
        parameters = list(net.parameters())
        return _value_and_gradients(lambda x, *_: net(x), [x, *parameters])

    _assert_equal(run(fast), run(plain))


@settings(max_examples=40, deadline=None)
@given(
    z=st.integers(1, 5),
    hours=st.integers(1, 3),
    batch=st.integers(1, 3),
    scale=st.sampled_from([0.3, 3.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_the_gaussians_bound_and_kl_are_their_formulas(
    z: int, hours: int, batch: int, scale: float, seed: int
) -> None:
    latent, generator = GaussianLatent(z, -2.0), torch.Generator().manual_seed(seed)
    q, p = (
        (scale * torch.randn(hours, batch, 2 * z, generator=generator, dtype=torch.float64)).requires_grad_()
        for _ in range(2)
    )

    def divergence(q: Tensor, p: Tensor) -> Tensor:
        return latent.kl(latent.bound(q), latent.bound(p))

    fast = _value_and_gradients(divergence, [q, p])
    with mock.patch("urbanwm.model.latent.written_by_hand", return_value=False):
        plain = _value_and_gradients(divergence, [q, p])
    _assert_equal(fast, plain)
