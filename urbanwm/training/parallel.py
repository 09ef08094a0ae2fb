"""Several processes on one training run: each takes a share of every batch, gradients are averaged.

For programs that torchrun starts and that call `urbanwm.training.train` in every process
(`torchrun --nproc-per-node 2 PROGRAM`, as `tests/parallel_training.py`). N processes with a batch of B
windows each train like one process with N · B, up to the last bits; where values are missing, each process
averages over what its own windows observed. All return the same weights; which of them exports asks
`Workers.leads`. `urbanwm train` records what it does and is one process (`require_one_process`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn

from urbanwm.errors import BadInput

if TYPE_CHECKING:
    from urbanwm.features import Windows


@dataclass(frozen=True)
class Workers:
    """This process among those of the run."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports; the others only compute."""
        return self.rank == 0

    def share(self, windows: Windows) -> Windows:
        """Return every `count`-th window of a batch that all processes drew alike."""
        if self.count == 1:
            return windows
        return windows.rows(slice(self.rank, None, self.count))

    def share_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the noise `(B, T, Z)` of the windows that `share` returns."""
        return noise[self.rank :: self.count]

    @torch.no_grad()
    def average_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        if self.count == 1:
            return
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        message = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(message)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, message.div_(self.count).split_with_sizes(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: float) -> float:
        """Return the mean of a number over the processes."""
        if self.count == 1:
            return value
        message = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(message)
        return float(message) / self.count

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Workers()


def require_one_process() -> None:
    """Refuse to go on in a process that torchrun started: each would record and register the same training.

    Raises:
        BadInput: torchrun started this process.
    """
    if distributed.is_available() and distributed.is_torchelastic_launched():
        raise BadInput(
            "a recorded training is one process: torchrun is for programs that call urbanwm.training.train",
            field="torchrun",
        )


@contextmanager
def joined() -> Iterator[Workers]:
    """Join the processes that torchrun started; without torchrun, or when already joined, change nothing."""
    if not distributed.is_available():
        yield ALONE
    elif distributed.is_initialized():
        yield Workers(distributed.get_rank(), distributed.get_world_size())
    elif distributed.is_torchelastic_launched():
        distributed.init_process_group("gloo")
        try:
            yield Workers(distributed.get_rank(), distributed.get_world_size())
        finally:
            distributed.destroy_process_group()
    else:
        yield ALONE
