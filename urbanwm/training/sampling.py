"""Which windows are trained on, which are held out, and how signals are hidden from a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import DataUnavailable
from urbanwm.features import CitySeries, FeatureSpec, Windows
from urbanwm.features.names import (
    CITY_PREFIX,
    COOLING,
    DEGREES_OF,
    HEATING,
    HOURLY_TARGET,
    RECENT,
    forecast_names,
)
from urbanwm.model.config import RECENT_NAME, TrainingConfig

HOURS_PER_DAY = 24
VALIDATION_SHARE = 0.2
"""Most of a record that may be held out."""
LEVEL_NAMES = frozenset(name for name, compared, *_ in RECENT if compared is None)
HISTORY_LOSS_SHARE = 0.25
"""Of the windows that lose a signal, the share that also loses its history, as if the city never had it."""

Origins = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """One city's origins (grid positions of the first imagined hour), and the series to train on.

    Attributes:
        training: Origins of training windows.
        validation: Origins whose whole horizon is held out.
        series: The series with the targets of held-out hours masked: they enter no training loss.
    """

    training: Origins
    validation: Origins
    series: CitySeries


def split_origins(series: CitySeries, recipe: TrainingConfig) -> Split:
    """Hold out blocks spread over the record, the last at its end.

    Blocks in all seasons calibrate better than one. A training window may reach into a block, but no held-out
    hour counts in a training loss.

    Raises:
        DataUnavailable: The record is too short for one training and one validation window.
    """
    hours, context, horizon = len(series), recipe.context_hours, recipe.horizon_hours
    origins = np.arange(context, hours - horizon + 1)
    if recipe.validation_days == 0:
        return Split(_with_targets(series, origins, horizon), np.empty(0, dtype=np.int64), series)
    held_hours = max(min(recipe.validation_days * HOURS_PER_DAY, int(VALIDATION_SHARE * hours)), horizon)
    blocks = max(1, min(recipe.validation_blocks, held_hours // (horizon + HOURS_PER_DAY)))
    length = held_hours // blocks
    mask = series.target_mask.copy()
    validation: list[Origins] = []
    for end in hours - (np.arange(blocks) * (hours - context)) // blocks:
        start = max(int(end) - length, 0)
        mask[start : int(end)] = 0.0
        validation.append(
            np.arange(max(start, context), int(end) - horizon + 1, recipe.validation_stride_hours)
        )
    trained_on = replace(series, target_mask=mask)
    return Split(_with_targets(trained_on, origins, horizon), np.sort(np.concatenate(validation)), trained_on)


def _with_targets(series: CitySeries, origins: Origins, horizon: int) -> Origins:
    """Return the origins whose horizon holds at least one target; refuse a record without any."""
    seen = np.concatenate([[0.0], np.cumsum(series.target_mask.sum(axis=1), dtype=np.float64)])
    usable = origins[seen[origins + horizon] > seen[origins]] if len(origins) else origins
    if len(usable) == 0:
        raise DataUnavailable(
            f"the record of {series.city} is too short or too empty to train on",
            field="history",
            value=len(series),
            allowed="several days of hours with at least one target",
        )
    return usable


class Sampler:
    """Draws batches of windows uniformly over all training origins of all cities; its state is plain JSON."""

    def __init__(self, splits: Mapping[str, Split], spec: FeatureSpec, recipe: TrainingConfig) -> None:
        """Pool the origins; the order of `splits` is the order of the pool."""
        self._series = [split.series for split in splits.values()]
        # Cut without the direct forecast, which is made once, of what is left after hiding.
        self._bare = [replace(series, by_fold=None) for series in self._series]
        self._origins = np.concatenate([split.training for split in splits.values()])
        self._city = np.repeat(np.arange(len(splits)), [len(split.training) for split in splits.values()])
        self._spec, self._recipe = spec, recipe
        self._random = np.random.default_rng(recipe.seed)
        self._ahead: Windows | None = None
        self._state = self._random.bit_generator.state

    def next(self) -> Windows:
        """Return the next batch, with signals hidden as the recipe says."""
        self.draw_ahead()
        windows, self._ahead = self._ahead, None
        self._state = self._random.bit_generator.state
        return cast("Windows", windows)

    def draw_ahead(self) -> None:
        """Draw the next batch already, where there is time."""
        self._ahead = self._ahead or self._draw()

    def _draw(self) -> Windows:
        recipe = self._recipe
        drawn = self._random.integers(len(self._origins), size=recipe.batch_size)
        by_city = [self._origins[drawn[self._city[drawn] == city]] for city in range(len(self._series))]
        if recipe.signal_dropout == 0.0:
            return cut_windows(list(zip(self._series, by_city, strict=True)), recipe)
        windows = cut_windows(list(zip(self._bare, by_city, strict=True)), recipe)
        hidden = hide_signals(windows, self._spec, recipe.signal_dropout, self._random)
        # From the direct forecast too, in which each city has weights of its own.
        ends = np.cumsum([len(origins) for origins in by_city])
        for series, origins, end in zip(self._series, by_city, ends, strict=True):
            if len(origins):
                series.fill_direct(hidden.rows(slice(end - len(origins), end)), origins)
        return hidden

    @property
    def state(self) -> dict[str, Any]:
        """Return the state of the random generator after the last batch returned."""
        return dict(self._state)

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        self._random.bit_generator.state = self._state = value
        self._ahead = None


def cut_windows(parts: list[tuple[CitySeries, Origins]], recipe: TrainingConfig) -> Windows:
    """Cut the windows of several cities and join them along the batch axis."""
    pieces = [
        series.windows(origins, recipe.context_hours, recipe.horizon_hours)
        for series, origins in parts
        if len(origins)
    ]
    if len(pieces) == 1:
        return pieces[0]
    joined = {name: np.concatenate([getattr(one, name) for one in pieces]) for name in Windows.arrays()}
    return Windows(**joined, context_hours=recipe.context_hours)


def hide_signals(
    windows: Windows, spec: FeatureSpec, probability: float, random: np.random.Generator
) -> Windows:
    """Return the windows with signals hidden, so that a dead feed degrades the forecast gracefully.

    Each signal of each window is hidden with `probability` for its last hours before the origin (half of the
    time for the whole context). With it go the features that only those hours could tell and, of a target,
    for a share of the windows the whole seasonal history, as for a city that never had the signal. Weather
    forecasts, and which city it is, are hidden as often, for the whole window.
    """
    context, hours = windows.context_hours, windows.observed.shape[1]
    observed, mask = windows.observed.copy(), windows.observed_mask.copy()
    known, skip, hourly = windows.known.copy(), windows.skip.copy(), windows.hourly.copy()
    for group in _signal_groups(spec):
        rows = np.flatnonzero(random.random(len(windows)) < probability)
        length = random.integers(1, context + 1, size=len(rows))
        length[random.random(len(rows)) < 0.5] = context
        forgotten = random.random(len(rows)) < HISTORY_LOSS_SHARE
        # Hours of silence before each hour; from the origin on it no longer grows, as features stop there.
        silent = np.minimum(np.arange(hours), context)[None, :] - (context - length)[:, None]
        heard = (silent[:, :context] < 0).astype(np.float32)
        for column in group:
            mask[rows, :context, column] *= heard
            observed[rows, :context, column] *= heard
        for column, span_hours in _recent_columns(spec, [spec.observed_names[column] for column in group]):
            known[rows, :, column] *= silent < span_hours
        if group[0] < len(TARGETS):
            for j, name in enumerate(spec.skip_names):
                if recent := RECENT_NAME.search(name):
                    span_hours = int(recent[1])
                    skip[rows, :, group[0], j] *= silent < span_hours
                    if name in LEVEL_NAMES:
                        usual = _similar_level(skip[rows, :, group[0]], spec, context, span_hours)
                        skip[rows, :, group[0], j] += usual * (silent >= span_hours)
                        copy = spec.known_names.index(f"{spec.targets[group[0]]}_{name}")
                        known[rows, :, copy] = skip[rows, :, group[0], j]
            if spec.targets[group[0]] == HOURLY_TARGET:
                similar = skip[rows, :context, group[0], spec.skip_names.index("similar_8")]
                hourly[rows] = _without_hours(hourly[rows], similar, context - length)
            _forget_history(known, skip, spec, group[0], rows[forgotten])
    for absent, value in _whole_window(spec):
        rows = np.flatnonzero(random.random(len(windows)) < probability)
        known[rows[:, None, None], np.arange(hours)[:, None], absent] = value
    return replace(windows, observed=observed, observed_mask=mask, known=known, skip=skip, hourly=hourly)


def _signal_groups(spec: FeatureSpec) -> list[list[int]]:
    """Return the observed columns signal by signal: a level and what is derived from it go together."""
    groups: dict[str, list[int]] = {}
    for column, name in enumerate(spec.observed_names):
        root = next((root for root in groups if name.startswith(f"{root}_")), name)
        groups.setdefault(root, []).append(column)
    return list(groups.values())


def _similar_level(
    skip: NDArray[np.float32], spec: FeatureSpec, context: int, span_hours: int
) -> NDArray[np.float32]:
    """Return `(B, T)` what similar days had in the hours before each hour, which stands for a silent level.

    From the origin on it stays; in the first hours of the context it is of the hours that the window holds.
    """
    similar = skip[:, :context, spec.skip_names.index("similar_8")]
    total = np.cumsum(np.pad(similar, ((0, 0), (1, 0))), axis=1)
    end = np.minimum(np.arange(skip.shape[1]), context)
    begin = np.maximum(end - span_hours, 0)
    return np.asarray((total[:, end] - total[:, begin]) / np.maximum(end - begin, 1), dtype=np.float32)


def _without_hours(
    hourly: NDArray[np.float32], similar: NDArray[np.float32], silent_from: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the last hours `(n, T, HOURLY_HOURS)` with what similar days had `(n, C)` in the silent ones.

    Args:
        hourly: As `Windows.hourly`.
        similar: Of each context hour.
        silent_from: `(n,)` first context hour without a value.
    """
    hours, context = hourly.shape[1], similar.shape[1]
    seen = np.minimum(np.arange(hours), context)[:, None] - 1 - np.arange(hourly.shape[2])
    silent = seen >= silent_from[:, None, None]
    return np.where(silent, similar[:, np.maximum(seen, 0)], hourly)


def _whole_window(spec: FeatureSpec) -> list[tuple[list[int], NDArray[np.float32]]]:
    """Return the known-ahead columns that are hidden together in every hour, with what then stands there."""
    forecast = forecast_names(spec.forecast_signals)
    cities = [name for name in spec.known_names if name.startswith(CITY_PREFIX)]
    groups = [
        (forecast, np.repeat(np.array([0.0, 1.0], np.float32), len(forecast) // 2)),
        (cities, np.zeros(len(cities), np.float32)),
    ]
    return [([spec.known_names.index(name) for name in names], value) for names, value in groups if names]


def _recent_columns(spec: FeatureSpec, names: list[str]) -> list[tuple[int, int]]:
    """Return column and span (h) of the known-ahead inputs that average the last hours of a signal."""
    if DEGREES_OF in names:
        names = [*names, HEATING, COOLING]
    return [
        (column, int(recent[1]))
        for column, known_name in enumerate(spec.known_names)
        if (recent := RECENT_NAME.search(known_name))
        and any(known_name.startswith(f"{name}_") for name in names)
    ]


def _forget_history(
    known: NDArray[np.float32],
    skip: NDArray[np.float32],
    spec: FeatureSpec,
    target: int,
    rows: NDArray[np.int64],
) -> None:
    """Zero, in place, every seasonal prediction of a target and say so in its flag."""
    name = spec.targets[target]
    skip[rows, :, target] = 0.0
    for skip_name in spec.skip_names:
        known[rows, :, spec.known_names.index(f"{name}_{skip_name}")] = 0.0
    known[rows, :, spec.known_names.index(f"{name}_history_missing")] = 1.0
