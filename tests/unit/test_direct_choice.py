"""The choice of penalties: a gain on left-out parts counts, luck does not."""

from __future__ import annotations

import numpy as np
import pytest

from urbanwm.features.direct import FOLDS
from urbanwm.training import direct_choice
from urbanwm.training.direct_choice import (
    CHOICE_DAYS,
    HOURLY_GROUP,
    PENALTIES,
    START,
    beyond_chance,
    choose,
    noise_by_lead,
    start_of,
)
from urbanwm.training.direct_sums import Sums
from urbanwm.training.regressions import Double

SIZES = (4, 4, 2, 3, 0, 0, 0, 0, 1)
RECENT = 1
LEADS = np.arange(5)


def sums(days: int, *strength: float, seed: int = 0) -> Sums:
    """Sums over made-up windows in which each group of regressors has this much to say."""
    random, total = np.random.default_rng(seed), Sums.zeros(len(LEADS), sum(SIZES))
    spread = np.repeat([*strength, *[0.0] * len(SIZES)][: len(SIZES)], SIZES)
    true = spread * random.standard_normal((24, sum(SIZES)))
    for fold in range(FOLDS):
        for hour in range(24):
            x = random.standard_normal((len(LEADS), days // FOLDS, sum(SIZES)), dtype=np.float32)
            x[..., -1] = 1.0
            r = np.asarray(x @ true[hour] + random.standard_normal(x.shape[:2]), np.float32)
            total.include((fold, np.full_like(LEADS, hour), LEADS), x, r, np.ones_like(r))
    return total


def choice(of: Sums) -> direct_choice.Choice:
    return choose(start_of("traffic_index", of), of, SIZES, noise_by_lead(of, SIZES))


def test_regressors_without_anything_to_say_are_held_back_and_telling_ones_let_go() -> None:
    idle, telling = (choice(sums(400, 0.5, recent, 0.5, 0.5)).penalties[RECENT] for recent in (0.0, 5.0))
    assert idle >= 1.0 > START.penalties[RECENT] > telling


@pytest.mark.parametrize(
    ("gain", "chosen"), [((9, -1, -1, -1), START.penalties[RECENT]), ((1, 2, 1, 2), 1.0)]
)
def test_what_is_best_by_one_part_alone_is_left_at_the_start(
    monkeypatch: pytest.MonkeyPatch, gain: tuple[int, ...], chosen: float
) -> None:
    first, of = sum(SIZES[:RECENT]), sums(400)
    noise = np.ones(len(LEADS))

    def error(judged: Sums, rests: object, penalty: Double) -> Double:
        better = np.array(gain) if penalty[0, first] == 1.0 else np.zeros(FOLDS)
        return np.repeat(100.0 - better[:, None], len(LEADS), axis=1)

    monkeypatch.setattr(direct_choice, "_left_out_error", error)
    assert choose(START, of, SIZES, noise).penalties[RECENT] == chosen


def test_a_gain_on_one_part_is_chance_and_one_on_all_parts_is_not() -> None:
    assert beyond_chance(np.array([1.0, 1.2, 0.8, 1.0]))
    assert not beyond_chance(np.array([9.0, -1.0, -1.0, -1.0]))
    assert not beyond_chance(np.array([-1.0, -1.2, -0.8, -1.0]))
    assert not beyond_chance(np.zeros(4))


def test_a_short_record_takes_the_start_and_leaves_the_last_hours_out() -> None:
    short = sums(CHOICE_DAYS - 10)
    assert choice(short) == start_of("traffic_index", short)
    assert start_of("traffic_index", short).penalties[HOURLY_GROUP] == PENALTIES[-1]
    assert start_of("traffic_index", sums(400)) == START
    assert choice(sums(CHOICE_DAYS + 40)).penalties[HOURLY_GROUP] == PENALTIES[-1]
