"""UrbanWorldModel: encoder, RSSM and predictor behind four verbs: initial, observe, imagine, loss.

Shapes: B windows, T = C + H hours (C of context, H imagined), F observed inputs, K known ahead, A actions,
J skip features per target, D = width of h, Z = width of z, Q quantiles (1 for the reference).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from urbanwm.errors import InternalContractBroken
from urbanwm.model import losses
from urbanwm.model.config import ModelConfig, ModelDims, TrainingConfig
from urbanwm.model.encoder import Encoder, hours_first
from urbanwm.model.latent import CategoricalLatent, GaussianLatent, Latent
from urbanwm.model.predictor import Predictor, QuantilePredictor
from urbanwm.model.recurrence import Trajectory
from urbanwm.model.rssm import REFERENCE_LOGVAR_MIN, RSSM, STEADY_LOGVAR_MIN, State

if TYPE_CHECKING:
    from urbanwm.features import Windows


INNOVATION_MAX = 10.0
"""Innovations are cut here, in usual errors: one wild value must not own the state."""


@dataclass(frozen=True)
class Batch:
    """A batch of windows as tensors; the fields of `features.Windows`."""

    observed: Tensor
    """`(B, T, F)`, 0 where missing."""
    observed_mask: Tensor
    """`(B, T, F)`, 1 = present."""
    known: Tensor
    """`(B, T, K)`."""
    action: Tensor
    """`(B, T, A)`."""
    target: Tensor
    """`(B, T, 3)`, 0 where missing."""
    target_mask: Tensor
    """`(B, T, 3)`."""
    skip: Tensor
    """`(B, T, 3, J)`."""
    context_hours: int
    """C."""

    @classmethod
    def of(cls, windows: Windows, device: torch.device | str = "cpu") -> Batch:
        """Copy windows to a device."""
        tensors = {name: torch.as_tensor(getattr(windows, name), device=device) for name in cls.names()}
        return cls(**tensors, context_hours=windows.context_hours)

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the tensors, each with a row for each window."""
        return [field.name for field in fields(cls) if field.name != "context_hours"]

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor changed."""
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in self.names()}
        return replace(self, **changed)


class Imagined(NamedTuple):
    """A forecast `(B, H, 3, Q)` with the states it was read from: h `(B, H, D)`, z `(B, H, Z)`."""

    output: Tensor
    h: Tensor
    z: Tensor


class UrbanWorldModel(nn.Module):
    """The world model of DESIGN §4 (`reference`) and its cured default (`urban`), chosen by `config.kind`.

    The reference encodes one observation as z_0 with h_0 = 0, imagines from the prior though it was trained
    on posteriors, and sees neither masks nor the calendar ahead. The urban model filters a context window
    through the posterior, feeds masks and the innovation (observation minus direct forecast, in usual errors)
    to the encoder and everything known ahead to the GRU, and answers with quantiles around that forecast.
    """

    def __init__(self, config: ModelConfig, dims: ModelDims) -> None:
        """Make the networks from the current random state of torch."""
        super().__init__()
        if config.kind == "urban" and (dims.direct is None or dims.observed < dims.targets):
            raise InternalContractBroken("the urban model needs the targets and a direct forecast of them")
        self.config, self.dims = config, dims
        d, z, cured = config.hidden_dim, config.latent_dim, config.kind == "urban"
        encoder_in = 2 * dims.observed + dims.targets if cured else dims.observed
        self.encoder = Encoder(
            encoder_in, d, z, activation=nn.SiLU if cured else nn.ReLU, dropout=config.dropout
        )
        self.rssm = RSSM(
            dims.action + dims.known,
            z,
            d,
            z,
            latent=_latent(config),
            silu=cured,
            slow_update=cured,
            noise_scale=config.latent_noise,
        )
        head = QuantilePredictor if cured else Predictor
        self.predictor = head(d + z, d, dims.targets, dropout=config.dropout)

    def initial(self, batch: int) -> State:
        """Return the belief before anything was seen."""
        return self.rssm.initial(batch)

    def embed(self, batch: Batch, hours: slice) -> Tensor:
        """Encode the observations of some hours: `(B, T, Z)`."""
        observed = batch.observed[:, hours]
        if self.config.kind == "urban":
            mask, targets = batch.observed_mask[:, hours], self.dims.targets
            direct, usual_error = self.direct(batch.skip[:, hours])
            innovation = (observed[..., :targets] - direct) / usual_error * mask[..., :targets]
            innovation = innovation.clamp(-INNOVATION_MAX, INNOVATION_MAX)
            observed = torch.cat([observed, mask, innovation], dim=-1)
        embedding: Tensor = self.encoder(observed)
        return embedding

    def inputs(self, known: Tensor, action: Tensor) -> Tensor:
        """Join what the GRU is told ahead of each hour: `(B, T, A + K)`."""
        return torch.cat([action, known], dim=-1)

    def observe(self, batch: Batch, noise: Tensor, *, hours: int) -> Trajectory:
        """Filter the first `hours` of the windows through the posterior; `noise` `(B, hours, Z)`."""
        part = slice(0, hours)
        inputs = self.inputs(batch.known[:, part], batch.action[:, part])
        return self.rssm.observe(self.embed(batch, part), inputs, self.initial(len(noise)), noise)

    def start(self, batch: Batch, noise: Tensor) -> State:
        """Return the belief at the origin, after the context; `noise` `(B, C, Z)`."""
        hours = batch.context_hours
        if self.config.kind == "reference":
            encoding = self.embed(batch, slice(hours - 1, hours))[:, 0]
            return State(self.initial(len(encoding)).h, encoding)
        path = self.observe(batch, noise, hours=hours)
        return State(path.h[:, -1], path.z[:, -1])

    def imagine(self, state: State, known: Tensor, action: Tensor, skip: Tensor, noise: Tensor) -> Imagined:
        """Roll the prior forward from `state` and read out every hour.

        Args:
            state: Belief at the origin.
            known: Known-ahead inputs of the imagined hours `(B, H, K)`.
            action: Actions of the imagined hours `(B, H, A)`.
            skip: Seasonal skip features `(B, H, 3, J)`.
            noise: Standard normal `(B, H, Z)`, or zeros for the latent means.
        """
        path = self.rssm.imagine(self.inputs(known, action), state, noise)
        return Imagined(self.decode(path.h, path.z, skip), path.h, path.z)

    def forecast(self, batch: Batch, noise: Tensor) -> Imagined:
        """Filter the context, then imagine the rest of the windows; `noise` `(B, T, Z)`."""
        hours = batch.context_hours
        state = self.start(batch, noise[:, :hours])
        rest = slice(hours, None)
        return self.imagine(
            state, batch.known[:, rest], batch.action[:, rest], batch.skip[:, rest], noise[:, rest]
        )

    def decode(self, h: Tensor, z: Tensor, skip: Tensor) -> Tensor:
        """Read the forecast `(..., 3, Q)` out of states."""
        states = torch.cat([hours_first(h), hours_first(z)], dim=-1)
        if self.config.kind == "reference":
            output: Tensor = self.predictor(states)
        else:
            output = self.predictor(states, *self.direct(hours_first(skip)))
        return hours_first(output)

    def direct(self, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Return the direct forecast and its usual error, `(..., 3)` each, of skip features `(..., 3, J)`."""
        return skip[..., self.dims.direct], skip[..., self.dims.log_error].exp()

    def loss(self, batch: Batch, noise: Tensor, recipe: TrainingConfig, step: int) -> losses.Losses:
        """Return the training loss at a step and its parts; `noise` `(B, T, Z)`."""
        if self.config.kind == "reference":
            return losses.reference_loss(self, batch, noise, recipe, step)
        return losses.open_loop_loss(self, batch, noise, recipe, step)

    def parameter_count(self) -> int:
        """Return the number of trainable values."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def _latent(config: ModelConfig) -> Latent:
    """Return the family of z that the configuration names."""
    if config.latent == "categorical":
        return CategoricalLatent(config.latent_groups, config.latent_dim // config.latent_groups)
    floor = STEADY_LOGVAR_MIN if config.kind == "urban" else REFERENCE_LOGVAR_MIN
    return GaussianLatent(config.latent_dim, floor)
