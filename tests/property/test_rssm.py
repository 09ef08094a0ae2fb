"""The recurrence with its hand-written backward equals plain autograd, for any size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from urbanwm.model.recurrence import RecurrentWeights, Trajectory, run_recurrence
from urbanwm.model.recurrence_plain import run_recurrence_plain
from urbanwm.model.rssm import RSSM, Gaussian, State, kl_divergence

TOLERANCE = 1e-9


def _arguments(
    hours: int, batch: int, d: int, z: int, seed: int, *, shared: bool, scale: float
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def tensor(*shape: int) -> Tensor:
        values = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    head_drive = (1, 1, d) if shared else (hours, batch, d)
    return [
        tensor(hours, batch, 3 * d), tensor(*head_drive), tensor(hours, batch, z).detach(),
        tensor(batch, d), tensor(batch, z),
        tensor(3 * d, z), tensor(3 * d, d), tensor(3 * d), tensor(d, d), tensor(2 * z, d), tensor(2 * z),
    ]  # fmt: skip


def _value_and_gradients(
    run: Callable[..., Trajectory], arguments: list[Tensor], seed: int, *, silu: bool
) -> list[Tensor]:
    path: Trajectory = run(*arguments[:5], RecurrentWeights(*arguments[5:]), silu=silu, logvar_min=-4.0)
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in path]
    total = sum((part * weight).sum() for part, weight in zip(path, weights, strict=True))
    wanted = [value for value in arguments if value.requires_grad]
    gradients = torch.autograd.grad(total, wanted)  # type: ignore[arg-type]
    return [part.detach() for part in path] + list(gradients)


@settings(max_examples=40, deadline=None)
@given(
    hours=st.integers(1, 6),
    batch=st.integers(1, 4),
    d=st.integers(1, 6),
    z=st.integers(1, 5),
    seed=st.integers(0, 2**31 - 1),
    silu=st.booleans(),
    shared=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
)
def test_the_hand_written_backward_equals_autograd(
    hours: int, batch: int, d: int, z: int, seed: int, silu: bool, shared: bool, scale: float
) -> None:
    arguments = _arguments(hours, batch, d, z, seed, shared=shared, scale=scale)
    fast = _value_and_gradients(run_recurrence, arguments, seed, silu=silu)
    plain = _value_and_gradients(run_recurrence_plain, arguments, seed, silu=silu)
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3), hours=st.integers(2, 6), split=st.integers(1, 5), seed=st.integers(0, 2**31 - 1)
)
def test_imagining_in_two_parts_equals_imagining_in_one(
    batch: int, hours: int, split: int, seed: int
) -> None:
    split = min(split, hours - 1)
    torch.manual_seed(seed)
    rssm = RSSM(input_dim=3, embedding_dim=4, hidden_dim=5, latent_dim=4).double()
    inputs = torch.randn(batch, hours, 3, dtype=torch.float64)
    noise = torch.randn(batch, hours, 4, dtype=torch.float64)
    with torch.no_grad():
        whole = rssm.imagine(inputs, rssm.initial(batch), noise)
        first = rssm.imagine(inputs[:, :split], rssm.initial(batch), noise[:, :split])
        rest = rssm.imagine(inputs[:, split:], State(first.h[:, -1], first.z[:, -1]), noise[:, split:])
    torch.testing.assert_close(torch.cat([first.h, rest.h], dim=1), whole.h, rtol=TOLERANCE, atol=TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 6), seed=st.integers(0, 2**31 - 1))
def test_kl_is_never_negative_and_zero_only_for_equals(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = Gaussian(torch.randn(3, size, generator=generator), torch.randn(3, size, generator=generator))
    p = Gaussian(torch.randn(3, size, generator=generator), torch.randn(3, size, generator=generator))
    assert (kl_divergence(q, p) >= -1e-6).all()
    torch.testing.assert_close(kl_divergence(q, q), torch.zeros(3))


def test_the_first_imagined_state_follows_the_papers_equations() -> None:
    torch.manual_seed(3)
    rssm = RSSM(input_dim=2, embedding_dim=4, hidden_dim=6, latent_dim=4, silu=True)
    action, noise = torch.randn(5, 1, 2), torch.randn(5, 1, 4)
    state = State(torch.randn(5, 6), torch.randn(5, 4))
    with torch.no_grad():
        path = rssm.imagine(action, state, noise)
        h = rssm.recurrent(torch.cat([state.z, action[:, 0]], dim=-1), state.h)
        prior = rssm.prior(h)
        z = prior.mean + noise[:, 0] * torch.exp(prior.logvar / 2)
    torch.testing.assert_close(path.h[:, 0], h)
    torch.testing.assert_close(path.z[:, 0], z)


def test_the_first_filtered_state_follows_the_papers_equations() -> None:
    torch.manual_seed(4)
    rssm = RSSM(input_dim=2, embedding_dim=4, hidden_dim=6, latent_dim=4)
    action, embedding, noise = torch.randn(5, 1, 2), torch.randn(5, 1, 4), torch.randn(5, 1, 4)
    with torch.no_grad():
        path = rssm.observe(embedding, action, rssm.initial(5), noise)
        h = rssm.recurrent(torch.cat([torch.zeros(5, 4), action[:, 0]], dim=-1), torch.zeros(5, 6))
        mean, logvar = rssm.posterior_net(torch.cat([h, embedding[:, 0]], dim=-1)).chunk(2, dim=-1)
    torch.testing.assert_close(path.h[:, 0], h)
    torch.testing.assert_close(path.z[:, 0], mean + noise[:, 0] * torch.exp(logvar / 2))
