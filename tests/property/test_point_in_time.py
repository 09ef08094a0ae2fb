"""Whatever happens at or after an origin, the features of that origin do not change."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.feature_support import START, make_city, make_frame
from urbanwm.features import Windows, build_series, build_spec, serving_windows

HOURS, CONTEXT, HORIZON = 24 * 45, 72, 48
CITY = make_city()
FRAME = make_frame(HOURS)
SPEC = build_spec(
    "urban", {CITY.name: FRAME}, {CITY.name: CITY}, {CITY.name: START + timedelta(days=20)}, CONTEXT, HORIZON
)


def inputs(windows: Windows) -> list[np.ndarray]:
    """Return what a forecast from the origin may read."""
    return [
        windows.known,
        windows.skip,
        windows.action,
        windows.observed[:, :CONTEXT],
        windows.observed_mask[:, :CONTEXT],
    ]


def inputs_at(frame: pd.DataFrame, origin: int) -> list[np.ndarray]:
    series = build_series(frame, CITY.name, SPEC)
    return inputs(series.windows([origin], CONTEXT, HORIZON))


@settings(max_examples=40, deadline=None)
@given(
    origin=st.integers(24 * 21, HOURS - HORIZON),
    offset=st.integers(0, HORIZON + 24 * 20),
    columns=st.sets(st.sampled_from(list(FRAME.columns)), min_size=1),
    value=st.one_of(st.just(np.nan), st.floats(0.0, 1e6)),
)
def test_a_later_value_never_changes_an_earlier_origin(
    origin: int, offset: int, columns: set[str], value: float
) -> None:
    changed = FRAME.copy()
    rows = slice(min(origin + offset, HOURS - 1), None)
    changed.iloc[rows, [changed.columns.get_loc(name) for name in sorted(columns)]] = value
    for before, after in zip(inputs_at(FRAME, origin), inputs_at(changed, origin), strict=True):
        np.testing.assert_array_equal(before, after)


@settings(max_examples=20, deadline=None)
@given(origin=st.integers(24 * 21, HOURS - HORIZON), late=st.integers(1, 72), seed=st.integers(0, 99))
def test_a_value_that_arrives_after_the_origin_is_unknown_there(origin: int, late: int, seed: int) -> None:
    """With an arrival time per value, what is known at the origin does not depend on what came later."""
    generator = np.random.default_rng(seed)
    delay = pd.to_timedelta(generator.integers(1, late + 1, FRAME.shape[0]), unit="h")
    arrival = FRAME.index + delay
    moment = FRAME.index[origin]
    unknown = (FRAME.index >= moment) | (arrival > moment)
    altered = FRAME.copy()
    altered.loc[unknown] = generator.normal(size=(int(unknown.sum()), FRAME.shape[1])) ** 2
    views = (
        frame.mask(np.broadcast_to((arrival > moment)[:, None], frame.shape)) for frame in (FRAME, altered)
    )
    one, other = (inputs(serving_windows(view, CITY.name, SPEC, moment, HORIZON)) for view in views)
    for before, after in zip(one, other, strict=True):
        np.testing.assert_array_equal(before, after)


@settings(max_examples=20, deadline=None)
@given(origin=st.integers(24 * 21, HOURS - HORIZON), dropped=st.sampled_from(list(FRAME.columns)))
def test_a_missing_signal_leaves_every_feature_finite(origin: int, dropped: str) -> None:
    assert all(np.isfinite(array).all() for array in inputs_at(FRAME.drop(columns=dropped), origin))
