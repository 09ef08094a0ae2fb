"""Random numbers that belong to an absolute hour: the same whatever window is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

CHUNK = 1024
CHUNK_OFFSET = 1 << 40  # keeps the generator's key positive for hours before 1970
FORGOTTEN = 1e-4  # a memory is cut off where less than this is left of it


class Stream(IntEnum):
    """What a random number is for; each has numbers of its own."""

    TEMPERATURE = 0
    WIND = 1
    PRESSURE = 2
    HUMIDITY = 3
    RAIN = 4
    MIXING = 5
    PM25 = 6
    ENERGY = 7
    TRAFFIC = 8
    RENEWABLES = 9
    ECONOMY = 10
    COMMERCE = 11
    CAR_FREE_SPELL = 12
    CAR_FREE_LEVEL = 13
    CAR_FREE_START = 14
    RENEWABLE_SPELL = 15
    RENEWABLE_LEVEL = 16
    RENEWABLE_START = 17
    SEQUENCE = 18
    PM25_REGIME = 19
    ENERGY_REGIME = 20
    TRAFFIC_REGIME = 21
    PM25_STEP = 22
    ENERGY_STEP = 23
    TRAFFIC_STEP = 24


@dataclass(frozen=True)
class Fork:
    """Chance as it was before an hour, and another course of it from there on."""

    seed: int
    then: int
    """Seed from `hour` on."""
    hour: int
    """Hours since 1970-01-01, UTC."""


Seed = int | Fork


def _draws(seed: Seed, stream: Stream, first: int, count: int, *, uniform: bool) -> Values:
    """Return draws number `first` to `first + count`; Philox is keyed by seed, stream and chunk.

    Of a fork, the draws of the hours from its own on come from the other seed.
    """
    if isinstance(seed, Fork):
        before, after = (
            _draws(part, stream, first, count, uniform=uniform) for part in (seed.seed, seed.then)
        )
        return np.where(first + np.arange(count) < seed.hour, before, after)
    low, high = first // CHUNK, (first + count - 1) // CHUNK
    chunks = []
    for chunk in range(low, high + 1):
        key = np.array([(seed << 8) + stream, chunk + CHUNK_OFFSET], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        chunks.append(generator.random(CHUNK) if uniform else generator.standard_normal(CHUNK))
    start = first - low * CHUNK
    return np.concatenate(chunks)[start : start + count]


def standard_noise(seed: Seed, stream: Stream, first: int, count: int) -> Values:
    """Return independent standard normal numbers of consecutive positions, `(count,)`."""
    return _draws(seed, stream, first, count, uniform=False)


def uniform(seed: Seed, stream: Stream, first: int, count: int) -> Values:
    """Return independent numbers in [0, 1) of consecutive positions, `(count,)`."""
    return _draws(seed, stream, first, count, uniform=True)


def remember(values: Values, memory: float) -> Values:
    """Return the weighted mean of the past, `(hours,)`: weight `memory ** lag`, the weights sum to 1."""
    length = math.ceil(math.log(FORGOTTEN) / math.log(memory))
    kernel = memory ** np.arange(length)
    return np.convolve(values, kernel / kernel.sum())[: len(values)]


def autocorrelated(seed: Seed, stream: Stream, first: int, count: int, memory: float) -> Values:
    """Return noise of unit variance whose correlation falls by `memory` per hour, `(count,)`.

    Its first numbers miss the past before `first`: ask from well before the hours that are used.
    """
    white = standard_noise(seed, stream, first, count)
    # A weighted mean with weights w has variance Σw² = (1 - memory) / (1 + memory).
    return remember(white, memory) * math.sqrt((1 + memory) / (1 - memory))
