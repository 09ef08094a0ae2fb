"""The recurrence with its hand-written backward equals plain autograd, for any size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from urbanwm.model.latent import CategoricalLatent, GaussianLatent, Latent
from urbanwm.model.recurrence import RecurrentWeights, Trajectory, run_recurrence
from urbanwm.model.recurrence_plain import run_recurrence_plain
from urbanwm.model.rssm import RSSM, State

TOLERANCE = 1e-9
GROUPS = 2


def _latent(family: str, z: int) -> Latent:
    """Return a family of about `z` values."""
    return GaussianLatent(z, -4.0) if family == "gaussian" else CategoricalLatent(GROUPS, z + 1)


def _arguments(sizes: dict[str, int], latent: Latent, seed: int, scale: float) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(seed)

    def tensor(*shape: int) -> Tensor:
        values = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    hours, batch, d, inputs, e = (sizes[name] for name in ("hours", "batch", "d", "inputs", "embedding"))
    parameters = latent.parameters
    z = parameters // 2 if isinstance(latent, GaussianLatent) else parameters
    return [
        tensor(hours, batch, inputs), tensor(hours, batch, e) if e else None,
        tensor(hours, batch, z).detach(), tensor(batch, d), tensor(batch, z),
        tensor(3 * d, z + inputs), tensor(3 * d, d), tensor(3 * d), tensor(3 * d),
        tensor(d, d + e), tensor(d), tensor(parameters, d), tensor(parameters),
    ]  # fmt: skip


def _value_and_gradients(
    run: Callable[..., Trajectory], arguments: list[Tensor | None], latent: Latent, *, silu: bool
) -> list[Tensor]:
    weights = RecurrentWeights(*arguments[5:])  # type: ignore[arg-type]
    path: Trajectory = run(*arguments[:5], weights, latent, silu=silu)
    generator = torch.Generator().manual_seed(1)
    weighted = [
        (part * torch.randn(part.shape, generator=generator, dtype=part.dtype)).sum() for part in path
    ]
    wanted = [value for value in arguments if value is not None and value.requires_grad]
    gradients = torch.autograd.grad(torch.stack(weighted).sum(), wanted)
    return [part.detach() for part in path] + list(gradients)


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.fixed_dictionaries(
        {
            "hours": st.integers(1, 6),
            "batch": st.integers(1, 4),
            "d": st.integers(1, 6),
            "inputs": st.integers(1, 3),
            "embedding": st.integers(0, 3),
        }
    ),
    z=st.integers(1, 5),
    family=st.sampled_from(["gaussian", "categorical"]),
    seed=st.integers(0, 2**31 - 1),
    silu=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
)
def test_the_hand_written_backward_equals_autograd(
    sizes: dict[str, int], z: int, family: str, seed: int, silu: bool, scale: float
) -> None:
    latent = _latent(family, z)
    arguments = _arguments(sizes, latent, seed, scale)
    fast = _value_and_gradients(run_recurrence, arguments, latent, silu=silu)
    plain = _value_and_gradients(run_recurrence_plain, arguments, latent, silu=silu)
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_second_way_back_is_refused() -> None:
    """The first one writes gradients over the values that it was given."""
    latent = _latent("gaussian", 3)
    arguments = _arguments({"hours": 3, "batch": 2, "d": 4, "inputs": 2, "embedding": 1}, latent, 0, 1.0)
    weights = RecurrentWeights(*arguments[5:])  # type: ignore[arg-type]
    total = run_recurrence(*arguments[:5], weights, latent, silu=True).h.sum()  # type: ignore[arg-type]
    total.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()  # type: ignore[no-untyped-call]


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
@given(
    size=st.integers(1, 6),
    family=st.sampled_from(["gaussian", "categorical"]),
    seed=st.integers(0, 2**31 - 1),
)
def test_kl_is_never_negative_and_zero_only_for_equals(size: int, family: str, seed: int) -> None:
    generator, latent = torch.Generator().manual_seed(seed), _latent(family, size)
    q = latent.bound(torch.randn(3, latent.parameters, generator=generator))
    p = latent.bound(torch.randn(3, latent.parameters, generator=generator))
    assert (latent.kl(q, p) >= -1e-6).all()
    torch.testing.assert_close(latent.kl(q, q), torch.zeros(3))


def test_the_gaussian_kl_is_torchs() -> None:
    torch.manual_seed(1)
    latent = GaussianLatent(4, -10.0)
    (q_mean, q_logvar), (p_mean, p_logvar) = torch.randn(2, 2, 5, 4)
    q, p = (
        torch.distributions.Normal(mean, (0.5 * logvar).exp())
        for mean, logvar in ((q_mean, q_logvar), (p_mean, p_logvar))
    )
    expected = torch.distributions.kl_divergence(q, p).sum(dim=-1)
    beliefs = torch.cat([q_mean, q_logvar], dim=-1), torch.cat([p_mean, p_logvar], dim=-1)
    torch.testing.assert_close(latent.kl(*beliefs), expected)


def test_categorical_draws_follow_their_probabilities() -> None:
    torch.manual_seed(2)
    latent = CategoricalLatent(2, 3)
    belief = torch.randn(6).expand(40_000, 6)
    shares = latent.sample(belief, torch.randn(40_000, 6)).mean(dim=0)
    torch.testing.assert_close(shares, latent.probabilities(belief[0]).flatten(), rtol=0.0, atol=0.01)


def test_without_noise_the_most_probable_class_is_drawn_in_every_group() -> None:
    torch.manual_seed(3)
    latent = CategoricalLatent(4, 5)
    belief = torch.randn(7, 20)
    z = latent.sample(belief, torch.zeros(7, 20)).view(7, 4, 5)
    assert torch.equal(z.argmax(dim=-1), belief.view(7, 4, 5).argmax(dim=-1))
    assert torch.equal(z.sum(dim=-1), torch.ones(7, 4))


def test_no_class_ever_has_less_than_its_share_of_one_percent() -> None:
    latent = CategoricalLatent(1, 4)
    probabilities = latent.probabilities(torch.tensor([1e4, 0.0, 0.0, 0.0]))
    assert probabilities.min() == pytest.approx(0.01 / 4)
    assert torch.isfinite(latent.kl(torch.tensor([1e4, 0.0, 0.0, 0.0]), torch.tensor([0.0, 1e4, 0.0, 0.0])))


def test_a_categorical_takes_any_noise_float32_can_hold() -> None:
    latent = CategoricalLatent(1, 3)
    assert torch.isfinite(latent.drive(torch.tensor([-40.0, 0.0, 40.0]))).all()


def test_the_first_imagined_state_follows_the_papers_equations() -> None:
    torch.manual_seed(3)
    rssm = RSSM(input_dim=2, embedding_dim=4, hidden_dim=6, latent_dim=4, silu=True)
    action, noise = torch.randn(5, 1, 2), torch.randn(5, 1, 4)
    state = State(torch.randn(5, 6), torch.randn(5, 4))
    with torch.no_grad():
        path = rssm.imagine(action, state, noise)
        h = rssm.recurrent(torch.cat([state.z, action[:, 0]], dim=-1), state.h)
        mean, logvar = rssm.prior(h.unsqueeze(1))[:, 0].chunk(2, dim=-1)
        z = mean + noise[:, 0] * torch.exp(logvar / 2)
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
