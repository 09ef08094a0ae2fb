"""A plain GRU encoder-decoder with seven quantiles: the nearest relative of a recurrent world model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.skill.inputs import FIRST_START
from benchmarks.skill.task import HORIZON_HOURS, WEATHER, Float, Positions, Task
from urbanwm.contracts.signals import MEDIAN, QUANTILE_LEVELS, TARGETS

CONTEXT_HOURS = 168
HIDDEN = 64
STEPS, BATCH, RATE = 600, 32, 2e-3


class _Gru(nn.Module):
    """Reads a week, then walks over the calendar of the horizon; quantiles cannot cross."""

    def __init__(self, inputs: int, calendar: int) -> None:
        super().__init__()
        self.encoder = nn.GRU(inputs, HIDDEN, batch_first=True)
        self.decoder = nn.GRU(calendar, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, len(TARGETS) * len(QUANTILE_LEVELS))

    def forward(self, past: Tensor, calendar: Tensor) -> Tensor:
        """Return `(B, 48, 3, 7)` from `(B, 168, inputs)` and `(B, 48, calendar)`."""
        _, state = self.encoder(past)
        hidden, _ = self.decoder(calendar, state)
        raw = self.head(hidden).unflatten(-1, (len(TARGETS), len(QUANTILE_LEVELS)))
        gaps = nn.functional.softplus(raw)
        median = raw[..., MEDIAN : MEDIAN + 1]
        above = median + gaps[..., MEDIAN + 1 :].cumsum(-1)
        below = median - gaps[..., :MEDIAN].flip(-1).cumsum(-1).flip(-1)
        return torch.cat([below, median, above], dim=-1)


def gru(task: Task) -> pd.DataFrame:
    """Train on random training origins and forecast; one net, fixed seed."""
    target, mean, scale = _standardised(task)
    past, calendar = _inputs(task, target)
    training = task.training_starts(range(24), FIRST_START)
    random = np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _Gru(past.shape[1], calendar.shape[1])
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        starts = random.choice(training, BATCH)
        optimiser.zero_grad()
        loss = _pinball(model(*_windows(past, calendar, starts)), _ahead(target, starts))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        found = model(*_windows(past, calendar, task.starts)).numpy().astype(np.float64)
    return task.table(np.moveaxis(found * scale[:, None] + mean[:, None], -1, 0))


def _standardised(task: Task) -> tuple[Float, Float, Float]:
    """Return the targets scaled by training rows, and the scales; a signal never seen stays NaN."""
    seen = task.values[: task.starts[0]]
    known = np.isfinite(seen).any(axis=0)
    mean, scale = np.full(len(TARGETS), np.nan), np.ones(len(TARGETS))
    mean[known], scale[known] = np.nanmean(seen[:, known], axis=0), np.nanstd(seen[:, known], axis=0)
    return (task.values - mean) / scale, mean, scale


def _inputs(task: Task, target: Float) -> tuple[Tensor, Tensor]:
    """Return `(N, inputs)` for the encoder and `(N, calendar)` for both."""
    weather = task.frame[[name for name in WEATHER if name in task.frame]]
    trained = weather.iloc[: task.starts[0]]
    scaled = ((weather - trained.mean()) / trained.std()).to_numpy(dtype=np.float64)
    calendar = np.asarray(task.days.features, dtype=np.float64)
    parts = [np.nan_to_num(target), np.isfinite(target), np.nan_to_num(scaled), calendar]
    past = np.concatenate([np.asarray(part, dtype=np.float32) for part in parts], axis=1)
    return torch.from_numpy(past), torch.from_numpy(calendar.astype(np.float32))


def _windows(past: Tensor, calendar: Tensor, starts: Positions) -> tuple[Tensor, Tensor]:
    """Return the week before and the calendar after each origin."""
    begin = torch.from_numpy(starts)[:, None]
    return past[begin + torch.arange(-CONTEXT_HOURS, 0)], calendar[begin + torch.arange(HORIZON_HOURS)]


def _ahead(target: Float, starts: Positions) -> Tensor:
    """Return what happened, `(B, 48, 3)`."""
    return torch.from_numpy(target[starts[:, None] + np.arange(HORIZON_HOURS)].astype(np.float32))


def _pinball(quantiles: Tensor, observed: Tensor) -> Tensor:
    """Return the mean pinball loss over what was observed."""
    levels = torch.tensor(QUANTILE_LEVELS)
    seen = torch.isfinite(observed)
    error = torch.nan_to_num(observed)[..., None] - quantiles
    loss = torch.maximum(levels * error, (levels - 1) * error).mean(-1)
    return (loss * seen).sum() / seen.sum()
