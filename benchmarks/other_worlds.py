"""The reference shape written two other ways, to be timed beside ours: hour by hour, in plain PyTorch.

Both have the layers and widths of `urbanwm/configs/base.yaml` (863,107 parameters) and return the loss of a
batch: squared error of the read-out plus 0.1 · KL(posterior‖prior).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from urbanwm.model.encoder import Encoder
from urbanwm.model.predictor import Predictor

INPUTS, ACTIONS, HIDDEN, LATENT, TARGETS = 12, 2, 256, 128, 3
KL_WEIGHT = 0.1
LOGVAR_MIN, LOGVAR_MAX = -10.0, 2.0


@dataclass(frozen=True)
class Sequences:
    """A batch: observed `(B, T, 12)`, action `(B, T, 2)`, target `(B, T, 3)`, noise `(B, T, 128)`."""

    observed: Tensor
    action: Tensor
    target: Tensor
    noise: Tensor

    @classmethod
    def random(cls, batch: int, hours: int) -> Sequences:
        """Draw a batch."""
        return cls(
            torch.randn(batch, hours, INPUTS),
            torch.rand(batch, hours, ACTIONS),
            torch.rand(batch, hours, TARGETS),
            torch.randn(batch, hours, LATENT),
        )


def plain_encoder(dropout: float = 0.0) -> Encoder:
    """Return our encoder as anyone would write it: ordinary layers, ordinary autograd."""
    encoder = Encoder(INPUTS, HIDDEN, LATENT, dropout=dropout)
    encoder.net = nn.Sequential(*encoder.net)
    return encoder


def plain_predictor(dropout: float = 0.0) -> Predictor:
    """Return our read-out likewise."""
    predictor = Predictor(HIDDEN + LATENT, HIDDEN, TARGETS, dropout=dropout)
    predictor.net = nn.Sequential(*predictor.net)
    return predictor


class PlainLoop(nn.Module):
    """The loop that one writes first: prior, posterior and read-out of every hour inside it, no dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        """Make the layers."""
        super().__init__()
        self.encoder = plain_encoder(dropout)
        self.cell = nn.GRUCell(LATENT + ACTIONS, HIDDEN)
        self.prior = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
        self.posterior = nn.Sequential(
            nn.Linear(HIDDEN + LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT)
        )
        self.predictor = plain_predictor(dropout)

    def encodings(self, batch: Sequences) -> list[Tensor]:
        """Encode all hours at once: the encoder has no memory."""
        return list(self.encoder(batch.observed).unbind(1))

    def loss(self, batch: Sequences) -> Tensor:
        """Return the training loss."""
        h, z = (
            batch.action.new_zeros(len(batch.action), HIDDEN),
            batch.action.new_zeros(len(batch.action), LATENT),
        )
        steps: list[dict[str, Tensor]] = []
        for t, encoding in enumerate(self.encodings(batch)):
            h = self.cell(torch.cat([z, batch.action[:, t]], dim=-1), h)
            prior_mean, prior_logvar = _gaussian(self.prior(h))
            mean, logvar = _gaussian(self.posterior(torch.cat([h, encoding], dim=-1)))
            z = mean + batch.noise[:, t] * torch.exp(0.5 * logvar)
            output = self.predictor(torch.cat([h, z], dim=-1)).squeeze(-1)
            gaussians = {"pm": prior_mean, "plv": prior_logvar, "qm": mean, "qlv": logvar}
            steps.append({"output": output, **gaussians})
        path = {name: torch.stack([step[name] for step in steps], dim=1) for name in steps[0]}
        error = (path["output"] - batch.target).square().mean()
        distance = (path["qm"] - path["pm"]).square() * torch.exp(-path["plv"])
        kl = torch.exp(path["qlv"] - path["plv"]) + distance - 1.0 + path["plv"] - path["qlv"]
        total: Tensor = error + KL_WEIGHT * 0.5 * kl.sum(dim=-1).mean()
        return total

    @torch.no_grad()
    def imagine(self, observed: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Encode one observation `(B, 12)` as z, imagine the hours of `action`, read them out at once."""
        h, z = observed.new_zeros(len(observed), HIDDEN), self.encoder(observed)
        states: list[Tensor] = []
        for t in range(action.shape[1]):
            h = self.cell(torch.cat([z, action[:, t]], dim=-1), h)
            mean, logvar = _gaussian(self.prior(h))
            z = mean + noise[:, t] * torch.exp(0.5 * logvar)
            states.append(torch.cat([h, z], dim=-1))
        output: Tensor = self.predictor(torch.stack(states, dim=1)).squeeze(-1)
        return output


class ReferenceWay(PlainLoop):
    """The way of the reference implementation: nothing is batched over the hours, and dropout is 0.1.

    Every hour is encoded, stepped and read out by itself, and handed on as a dictionary.
    """

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__(dropout=0.1)

    def encodings(self, batch: Sequences) -> list[Tensor]:
        """Encode one hour after the other."""
        return [self.encoder(batch.observed[:, t]) for t in range(batch.observed.shape[1])]

    def step(self, state: dict[str, Tensor], action: Tensor) -> dict[str, Tensor]:
        """Imagine one hour."""
        h = self.cell(torch.cat([state["z"], action], dim=-1), state["h"])
        mean, logvar = _gaussian(self.prior(h))
        z = mean + torch.randn_like(mean) * torch.sqrt(torch.exp(logvar))
        return {"h": h, "z": z, "prior_mean": mean, "prior_logvar": logvar}

    @torch.no_grad()
    def imagine(self, observed: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Encode one observation, then step and read out hour by hour; draws its own noise."""
        state = {"h": observed.new_zeros(len(observed), HIDDEN), "z": self.encoder(observed)}
        outputs: list[Tensor] = []
        for t in range(action.shape[1]):
            state = self.step(state, action[:, t])
            read = self.predictor(torch.cat([state["h"], state["z"]], dim=-1)).squeeze(-1)
            named = dict(zip(("pm25", "energy", "traffic"), read.split(1, dim=-1), strict=True))
            outputs.append(torch.cat(list(named.values()), dim=-1))
        return torch.stack(outputs, dim=1)


def _gaussian(raw: Tensor) -> tuple[Tensor, Tensor]:
    mean, logvar = raw.chunk(2, dim=-1)
    return mean, logvar.clamp(LOGVAR_MIN, LOGVAR_MAX)
