"""torchrl's recurrent state-space models at the reference shape: `pip install -e .[bench]` brings torchrl.

`Gaussian` is its first one (`RSSMRollout`, a TensorDict per hour), `Categorical` the fastest path it has:
`RSSMRolloutV3` on tensors, 8 × 16 classes for the same width of z. Both get an encoder and a read-out like
ours, of ordinary layers, batched over the hours. torchrl puts a layer of its own before the GRU and leaves
the KL to the caller.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.nn import functional
from torchrl.data import Unbounded
from torchrl.modules.models.model_based import (
    RSSMPosterior,
    RSSMPosteriorV3,
    RSSMPrior,
    RSSMPriorV3,
    RSSMRollout,
    RSSMRolloutV3,
)

from benchmarks.other_worlds import (
    ACTIONS,
    HIDDEN,
    KL_WEIGHT,
    LATENT,
    Sequences,
    plain_encoder,
    plain_predictor,
)

GROUPS, CLASSES = 8, 16
PRIOR_KEYS = ["state", "belief", "action"]
POSTERIOR_KEYS = [("next", "belief"), ("next", "encoded_latents")]


class _World(nn.Module):
    """Encoder, one of torchrl's rollouts, read-out."""

    def __init__(self, rollout: nn.Module) -> None:
        super().__init__()
        self.encoder = plain_encoder()
        self.rollout = rollout
        self.predictor = plain_predictor()

    def loss(self, batch: Sequences) -> Tensor:
        """Return the training loss."""
        size = batch.action.shape[:2]
        inputs = TensorDict(
            {
                "state": batch.action.new_zeros(*size, LATENT),
                "belief": batch.action.new_zeros(*size, HIDDEN),
                "action": batch.action,
                "next": {"encoded_latents": self.encoder(batch.observed)},
            },
            size,
        )
        path = self.rollout(inputs)["next"]
        output = self.predictor(torch.cat([path["belief"], path["state"]], dim=-1)).squeeze(-1)
        total: Tensor = (output - batch.target).square().mean() + KL_WEIGHT * self.kl(path)
        return total

    def kl(self, path: TensorDict) -> Tensor:
        """Return KL(posterior‖prior), nats per hour."""
        raise NotImplementedError


class Gaussian(_World):
    """`RSSMPrior`, `RSSMPosterior`, `RSSMRollout`."""

    def __init__(self) -> None:
        """Make the layers."""
        prior = RSSMPrior(Unbounded(ACTIONS), HIDDEN, HIDDEN, LATENT, action_dim=ACTIONS)
        posterior = RSSMPosterior(HIDDEN, LATENT, rnn_hidden_dim=HIDDEN, obs_embed_dim=LATENT)
        names = [("next", name) for name in ("prior_mean", "prior_std", "state", "belief")]
        posterior_names = [("next", name) for name in ("posterior_mean", "posterior_std", "state")]
        super().__init__(
            RSSMRollout(
                TensorDictModule(prior, in_keys=PRIOR_KEYS, out_keys=names),
                TensorDictModule(posterior, in_keys=POSTERIOR_KEYS, out_keys=posterior_names),
            )
        )

    def kl(self, path: TensorDict) -> Tensor:
        """Return the KL of two diagonal Gaussians."""
        ratio = (path["posterior_std"] / path["prior_std"]).square()
        distance = ((path["posterior_mean"] - path["prior_mean"]) / path["prior_std"]).square()
        return 0.5 * (ratio + distance - 1.0 - ratio.log()).sum(dim=-1).mean()


class Categorical(_World):
    """`RSSMPriorV3`, `RSSMPosteriorV3`, `RSSMRolloutV3`."""

    def __init__(self) -> None:
        """Make the layers."""
        shape = {"num_categoricals": GROUPS, "num_classes": CLASSES}
        prior = RSSMPriorV3(
            action_shape=(ACTIONS,), hidden_dim=HIDDEN, rnn_hidden_dim=HIDDEN, action_dim=ACTIONS, **shape
        )
        posterior = RSSMPosteriorV3(HIDDEN, rnn_hidden_dim=HIDDEN, obs_embed_dim=LATENT, **shape)
        names = [("next", name) for name in ("prior_logits", "state", "belief")]
        posterior_names = [("next", name) for name in ("posterior_logits", "state")]
        super().__init__(
            RSSMRolloutV3(
                TensorDictModule(prior, in_keys=PRIOR_KEYS, out_keys=names),
                TensorDictModule(posterior, in_keys=POSTERIOR_KEYS, out_keys=posterior_names),
            )
        )

    def kl(self, path: TensorDict) -> Tensor:
        """Return the KL of two sets of categoricals."""
        posterior = functional.log_softmax(path["posterior_logits"], dim=-1)
        prior = functional.log_softmax(path["prior_logits"], dim=-1)
        return (posterior.exp() * (posterior - prior)).sum(dim=(-2, -1)).mean()
