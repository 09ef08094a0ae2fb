"""Errors that last for days are coupled as such, so that intervals of daily means are wide enough."""

from __future__ import annotations

import numpy as np
import pytest

from urbanwm.members import RANK_CORRELATION
from urbanwm.past_errors import daily_correlation


def paths(correlation: float, origins: int = 2000, hours: int = 48) -> np.ndarray:
    random = np.random.default_rng(0)
    noise = random.standard_normal((origins, hours))
    for hour in range(1, hours):
        noise[:, hour] = correlation * noise[:, hour - 1] + np.sqrt(1 - correlation**2) * noise[:, hour]
    return noise


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 0.97])
def test_the_correlation_of_a_simple_path_is_found(correlation):
    assert daily_correlation(paths(correlation)) == pytest.approx(correlation, abs=0.05)


def test_an_error_that_lasts_for_days_counts_for_more_than_its_neighbours_say():
    lasting = paths(0.5) + np.random.default_rng(1).standard_normal((2000, 1))
    neighbours = np.corrcoef(lasting[:, 1:].ravel(), lasting[:, :-1].ravel())[0, 1]
    assert neighbours < 0.8
    assert daily_correlation(lasting) > 0.9


def test_too_few_whole_days_take_the_usual_correlation():
    errors = paths(0.5, origins=20)
    errors[:, ::24] = np.nan
    assert daily_correlation(errors) == RANK_CORRELATION
