"""What holds for every policy, whatever its figures: identities of the response layer."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_city import toy_city
from urbanwm.assumptions import load_assumptions
from urbanwm.contracts.scenario import Policy, PolicyPeriod
from urbanwm.contracts.signals import SIGNALS, TARGETS
from urbanwm.effects import apply
from urbanwm.members import couple, member_levels, quantile_function
from urbanwm.policy import StatusQuo, clip_to_vocabulary, dose_schedule

PM25, TRAFFIC = 0, 2
CITY = toy_city()
START = datetime(2026, 3, 28, 20, tzinfo=UTC)  # the spring clock change lies within the horizon
HOURS = 24
ratio = st.floats(0.0, 1.0)
factor = st.floats(0.5, 1.5)
presets = st.sampled_from(["literature", "reference"])
seeds = st.integers(0, 2**31 - 1)


@st.composite
def periods(draw):
    first = draw(st.integers(0, HOURS - 1))
    return PolicyPeriod(
        from_hour=first,
        to_hour=draw(st.integers(first + 1, HOURS + 10)),
        hours=draw(st.none() | st.lists(st.integers(0, 23), max_size=6)),
        weekdays=draw(st.none() | st.lists(st.integers(0, 6), max_size=3)),
        ramp_hours=draw(st.integers(0, 12)),
        car_free_ratio=draw(st.none() | ratio),
        renewable_mix=draw(st.none() | ratio),
    )


policies = st.builds(
    Policy,
    car_free_ratio=st.none() | ratio,
    renewable_mix=st.none() | ratio,
    dynamic_pricing=st.booleans(),
    stricter_car_bans=st.booleans(),
    gdp_activity_index=factor,
    commercial_load_factor=factor,
    schedule=st.lists(periods(), max_size=3),
)


def members(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform([0, 1, 0], [80, 3000, 2], (6, HOURS, 3))


def under(policy, preset, seed, share=0.3, before=None):
    quo = StatusQuo(share)
    doses = dose_schedule(policy, START, HOURS, CITY, quo, 1.2)
    before = members(seed) if before is None else before
    return clip_to_vocabulary(apply(before, doses, load_assumptions(preset), seed=seed, background_pm25=3.0))


@given(preset=presets, seed=seeds, share=ratio, stated=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_policy_equal_to_the_status_quo_differs_by_exactly_zero(preset, seed, share, stated):
    policy = Policy(car_free_ratio=0.0, renewable_mix=share) if stated else Policy()
    assert under(policy, preset, seed, share).tobytes() == members(seed).tobytes()


@given(policy=policies, preset=presets, seed=seeds, low=ratio, high=ratio)
@settings(max_examples=80, deadline=None)
def test_more_car_free_never_means_more_traffic_nor_more_pm25(policy, preset, seed, low, high):
    low, high = sorted((low, high))
    less, more = (under(policy.model_copy(update={"car_free_ratio": r}), preset, seed) for r in (low, high))
    slack = 1e-12 * members(seed)  # a lag sums many roundings
    for position in (PM25, TRAFFIC):
        assert (more[..., position] <= less[..., position] + slack[..., position]).all()


@given(policy=policies, preset=presets, seed=seeds)
@settings(max_examples=80, deadline=None)
def test_every_policy_stays_within_the_vocabulary_and_above_the_background(policy, preset, seed):
    after = under(policy, preset, seed)
    for position, name in enumerate(TARGETS):
        assert (after[..., position] >= SIGNALS[name].minimum).all()
        assert (after[..., position] <= SIGNALS[name].maximum).all()
    if preset == "literature":
        assert (after[..., PM25] >= np.minimum(members(seed)[..., PM25], 3.0)).all()


@given(period=periods(), preset=presets, seed=seeds)
@settings(max_examples=80, deadline=None)
def test_nothing_happens_before_a_measure_starts(period, preset, seed):
    after = under(Policy(schedule=[period]), preset, seed)
    before = after[:, : period.from_hour]
    assert before.tobytes() == members(seed)[:, : period.from_hour].tobytes()


@given(policy=policies, preset=presets, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_the_same_question_has_the_same_answer_and_leaves_its_input_alone(policy, preset, seed):
    before = members(seed)
    first = under(policy, preset, seed, before=before)
    assert before.tobytes() == members(seed).tobytes()
    assert under(policy, preset, seed, before=before).tobytes() == first.tobytes()


@given(samples=st.integers(1, 40), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_coupling_moves_members_but_keeps_every_hour_s_values(samples, seed):
    quantiles = np.sort(np.random.default_rng(seed).normal(size=(HOURS, 3, 7)), axis=-1)
    grid = quantile_function(quantiles, (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95), member_levels(samples))
    assert (np.diff(grid, axis=0) >= 0).all()
    coupled = couple(grid, seed)
    assert np.sort(coupled, axis=0).tobytes() == grid.tobytes()
