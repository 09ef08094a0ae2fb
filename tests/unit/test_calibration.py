"""Calibration: the stated coverage on held-out hours, the same median, quantiles in order."""

from __future__ import annotations

import json
from statistics import NormalDist

import numpy as np
import pytest

from urbanwm.calibration import (
    BANDS,
    LEAD_BUCKETS,
    PRIOR_WINDOWS,
    SCALE_MAX,
    SCALE_MIN,
    apply_calibration,
    fit_calibration,
)
from urbanwm.contracts.signals import QUANTILE_LEVELS, TARGETS
from urbanwm.errors import BundleInvalid

NORMAL = NormalDist()


def _forecasts(windows: int, spread: float, hours: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return Gaussian quantiles of unit width around 0, and observations with another spread."""
    quantiles = np.tile([NORMAL.inv_cdf(level) for level in QUANTILE_LEVELS], (windows, hours, 3, 1))
    return quantiles, spread * np.random.default_rng(seed).standard_normal((windows, hours, 3))


def _coverage(quantiles: np.ndarray, observed: np.ndarray) -> float:
    return float(((observed >= quantiles[..., 0]) & (observed <= quantiles[..., -1])).mean())


@pytest.mark.parametrize("spread", [1.0, 1.5, 2.0])
def test_intervals_cover_what_they_say_after_calibration_on_many_windows(spread: float) -> None:
    calibration = fit_calibration(*_forecasts(20 * int(PRIOR_WINDOWS), spread))
    quantiles, observed = _forecasts(100, spread, seed=1)
    assert _coverage(apply_calibration(quantiles, calibration), observed) == pytest.approx(0.9, abs=0.02)


def test_a_band_is_always_widened_a_little_and_never_narrowed() -> None:
    quantiles, observed = _forecasts(100, 0.5)
    calibrated = apply_calibration(quantiles, fit_calibration(quantiles, observed))
    outside = quantiles != 0.0
    factors = calibrated[outside] / quantiles[outside]
    assert factors.min() > 1.0
    assert factors.max() <= SCALE_MIN


def test_few_windows_move_the_width_less_than_many() -> None:
    few, as_many, many = (
        fit_calibration(*_forecasts(windows, 2.0))["scale"]["pm25"][0][0]
        for windows in (5, int(PRIOR_WINDOWS), 2000)
    )
    assert 1.0 < few < as_many < many
    assert as_many == pytest.approx(2.0**0.5, rel=0.02)  # half of what they say, in logarithms


def test_the_median_is_untouched_and_the_order_kept() -> None:
    calibration = fit_calibration(*_forecasts(50, 2.0))
    calibration["scale"]["pm25"] = [[0.5, 1.0, 3.0]] * len(LEAD_BUCKETS)
    quantiles, _ = _forecasts(4, 1.0, hours=168)
    calibrated = apply_calibration(quantiles + 5.0, calibration)
    np.testing.assert_allclose(calibrated[..., 3], 5.0)
    assert (np.diff(calibrated, axis=-1) >= 0).all()


def test_a_lead_beyond_the_fit_takes_the_last_fitted_width() -> None:
    scale = fit_calibration(*_forecasts(50, 2.0, hours=24))["scale"]["pm25"]
    assert scale[1] == scale[2] == scale[3]


def test_leads_can_be_calibrated_from_the_middle() -> None:
    calibration = fit_calibration(*_forecasts(50, 2.0))
    quantiles, _ = _forecasts(2, 1.0)
    whole, rest = (
        apply_calibration(quantiles, calibration),
        apply_calibration(quantiles[:, 10:], calibration, 11),
    )
    np.testing.assert_array_equal(whole[:, 10:], rest)


def test_missing_observations_do_not_count() -> None:
    quantiles, observed = _forecasts(50, 2.0)
    holes = observed.copy()
    holes[:, ::2] = np.nan
    assert np.isfinite(json.loads(json.dumps(fit_calibration(quantiles, holes)))["scale"]["pm25"]).all()
    nothing = fit_calibration(quantiles, np.full_like(observed, np.nan))
    np.testing.assert_array_equal(apply_calibration(quantiles, nothing), quantiles)


def test_a_degenerate_width_is_not_blown_up_without_bound() -> None:
    _, observed = _forecasts(50, 1.0)
    calibration = fit_calibration(np.zeros((*observed.shape, 7)), observed)
    assert max(map(max, calibration["scale"]["pm25"])) <= SCALE_MAX


def test_an_empty_calibration_changes_nothing() -> None:
    quantiles, _ = _forecasts(2, 1.0)
    np.testing.assert_array_equal(apply_calibration(quantiles, {}), quantiles)


def test_the_error_correlation_is_recovered() -> None:
    random = np.random.default_rng(0)
    paths = np.zeros((200, 48, 3))
    for hour in range(1, 48):
        paths[:, hour] = 0.8 * paths[:, hour - 1] + 0.6 * random.standard_normal((200, 3))
    quantiles, _ = _forecasts(200, 1.0)
    fitted = fit_calibration(quantiles, paths)["ar1"]
    assert list(fitted) == list(TARGETS)
    assert all(value == pytest.approx(0.8, abs=0.05) for value in fitted.values())


@pytest.mark.parametrize("broken", [{"method": "other"}, {"method": "band_scale", "scale": {"pm25": []}}])
def test_a_foreign_calibration_is_refused(broken: dict[str, object]) -> None:
    quantiles, _ = _forecasts(2, 1.0)
    with pytest.raises(BundleInvalid, match="calibration"):
        apply_calibration(quantiles, broken)


def test_the_bands_are_those_of_the_quantile_levels() -> None:
    assert BANDS == (0.9, 0.8, 0.5)
