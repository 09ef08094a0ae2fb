"""Who computes for a training: this process alone, or others too (`urbanwm.training.assistance`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from urbanwm.model.config import TrainingConfig
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training.outlook import Outlook, outlook
from urbanwm.training.pieces import LossFunction, Piece, Slope, slope


def nothing() -> None:
    """Do nothing while others compute."""


class Team:
    """This process, which computes one after the other; the bits are the same whoever else is in it."""

    def slopes(
        self,
        loss: LossFunction,
        model: UrbanWorldModel,
        pieces: Sequence[Piece],
        recipe: TrainingConfig,
        meanwhile: Callable[[], None] = nothing,
    ) -> list[Slope]:
        """Return the slopes of a batch's pieces, in their order; do `meanwhile` before waiting for others."""
        return [slope(loss, model, piece, recipe) for piece in pieces]

    def outlooks(
        self, model: UrbanWorldModel, batches: Iterable[Batch], recipe: TrainingConfig
    ) -> list[Outlook]:
        """Return the forecasts of a validation's passes, in their order."""
        return [outlook(model, batch) for batch in batches]


SOLO: Final = Team()
