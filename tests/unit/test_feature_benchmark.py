"""The benchmark of feature building: pandas, given the same record, comes to the same numbers as UrbanWM."""

from __future__ import annotations

import pytest

from benchmarks import features
from benchmarks.feature_peers import PEERS
from urbanwm.features import build_series

HOURS = 120 * 24  # from New Year over the clock change of spring


@pytest.fixture(scope="module")
def work():
    frame = features.record(HOURS)
    spec = features.specification(frame)
    return features.columns_of(build_series(frame, features.CITY, spec)), features.task_of(frame, spec)


@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_peer_does_the_same_work(work, name):
    expected, task = work
    try:
        prepare = PEERS[name]()
    except ImportError as missing:
        pytest.skip(str(missing))
    run = prepare(task)
    difference, column = features.largest_difference(expected, run.columns(run.work()))
    assert difference <= features.TOLERANCE, column


def test_other_work_is_noticed(work):
    expected, task = work
    run = PEERS["pandas"]()(task)
    columns = run.columns(run.work())
    columns["pm25_similar_8"] = columns["pm25_similar_8"] + 0.1
    assert features.largest_difference(expected, columns)[1] == "pm25_similar_8"
    del columns["pm25_spread_24h"]
    assert features.largest_difference(expected, columns) == (float("inf"), "pm25_spread_24h")
