"""Scores, against values worked out by hand and against published scores of other libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.forecast_support import forecasts
from urbanwm.errors import BadInput
from urbanwm.evaluation.forecasts import (
    QUANTILE_COLUMNS,
    check_forecasts,
    read_forecasts,
    require_same_rows,
)
from urbanwm.evaluation.metrics import (
    block_bootstrap_ratio,
    crps,
    exceedance_brier,
    pit,
    pit_histogram,
    resampling_counts,
    row_scores,
    skill,
    summarise,
)


def value(scores: pd.DataFrame, signal: str, metric: str, bucket: str = "all") -> float:
    rows = scores[(scores.signal == signal) & (scores.metric == metric) & (scores.bucket == bucket)]
    return float(rows["value"].iloc[0])


def test_crps_is_twice_the_mean_pinball_loss() -> None:
    quantiles = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    # Pinball at y = 3: 0.05·3, 0.1·2, 0.25·1, 0, 0.25·1, 0.1·2, 0.05·3 -> sum 1.2.
    assert crps(np.array(3.0), quantiles) == pytest.approx(2 * 1.2 / 7)


def test_crps_of_a_point_is_close_to_its_absolute_error() -> None:
    assert crps(np.array(5.0), np.full(7, 2.0)) == pytest.approx(3.0)


def test_a_summary_has_every_signal_bucket_and_metric() -> None:
    table = check_forecasts(forecasts(20), "test")
    scores = summarise(table)
    assert set(scores.bucket) == {"all", "1-6", "7-24", "25-48"}
    assert not scores["value"].isna().any()
    observed, median = table["observed"], table["q50"]
    pm25 = table.signal == "pm25"
    assert value(scores, "pm25", "mae") == pytest.approx((observed - median)[pm25].abs().mean())
    assert value(scores, "pm25", "rmse") == pytest.approx(np.sqrt(((observed - median)[pm25] ** 2).mean()))
    assert value(scores, "pm25", "bias") == pytest.approx((median - observed)[pm25].mean())
    assert value(scores, "pm25", "width90") == pytest.approx(2 * 1.6449)


def test_rows_without_an_observation_are_kept_and_score_nothing() -> None:
    table = forecasts(5)
    table.loc[:10, "observed"] = np.nan
    table.loc[:10, list(QUANTILE_COLUMNS)] = np.nan
    checked = check_forecasts(table, "test")
    assert len(checked) == len(table)
    assert len(row_scores(checked)) == len(table) - 11


def test_skill_is_one_minus_the_ratio_of_scores() -> None:
    good, poor = (check_forecasts(forecasts(20, factor=f), "test") for f in (1.0, 2.0))
    table = skill(good, {"twice as bad": poor})
    np.testing.assert_allclose(table["value"], 0.5)


def test_pit_of_a_calibrated_forecast_is_uniform() -> None:
    generator = np.random.default_rng(0)
    normal = np.array([-1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449])
    values = pit(generator.standard_normal(20000), np.tile(normal, (20000, 1)))
    inner = values[(values > 0.05) & (values < 0.95)]
    assert inner.mean() == pytest.approx(0.5, abs=0.01)
    assert ((values < 0.05).mean(), (values > 0.95).mean()) == pytest.approx((0.05, 0.05), abs=0.01)


def test_pit_shares_add_up_to_one() -> None:
    shares = pit_histogram(check_forecasts(forecasts(10), "test"))
    np.testing.assert_allclose(shares.groupby(["city", "signal"])["share"].sum(), 1.0)
    np.testing.assert_allclose(shares.groupby(["city", "signal"])["expected"].sum(), 1.0)


def test_a_sure_and_right_exceedance_scores_near_zero() -> None:
    table = forecasts(10, factor=0.01)
    brier = exceedance_brier(check_forecasts(table, "test"))
    assert set(brier.day) == {1, 2}
    assert set(brier.threshold) == {15.0, 25.0}
    assert (brier["brier"] < 0.01).all()


def test_each_resample_draws_as_many_days_as_there_are() -> None:
    counts = resampling_counts(60, block_days=7, draws=50, seed=1)
    assert counts.shape == (50, 60)
    assert (counts.sum(axis=1) == 60).all()
    np.testing.assert_array_equal(counts, resampling_counts(60, block_days=7, draws=50, seed=1))


def test_a_bootstrap_ratio_of_a_model_with_itself_is_one() -> None:
    scores = row_scores(check_forecasts(forecasts(20), "test"))
    ratio = block_bootstrap_ratio(scores, scores)
    assert (ratio.ratio, ratio.low, ratio.high, ratio.origins) == (1.0, 1.0, 1.0, 20)


def test_models_without_a_common_hour_cannot_be_compared() -> None:
    scores = row_scores(check_forecasts(forecasts(5), "test"))
    later = scores.assign(origin=scores["origin"] + pd.Timedelta(days=99))
    with pytest.raises(BadInput, match="common"):
        block_bootstrap_ratio(scores, later)


def test_an_origin_that_is_the_last_known_hour_is_understood() -> None:
    table = forecasts(5)
    shifted = table.assign(origin=table["origin"] - pd.Timedelta(hours=1))
    pd.testing.assert_frame_equal(check_forecasts(shifted, "a"), check_forecasts(table, "b"))


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda t: t.drop(columns="q05"), "q05"),
        (lambda t: t.iloc[:0], "origin"),
        (lambda t: t.assign(q50="high"), "q50"),
        (lambda t: t.assign(q95=t["q95"].where(t.index > 3)), "q95"),
        (lambda t: t.assign(mean=np.inf), "mean"),
        (lambda t: t.assign(observed=np.nan), "observed"),
        (lambda t: t.assign(timestamp=t["timestamp"].dt.tz_localize(None)), "timestamp"),
        (lambda t: t.assign(lead_hours=t["lead_hours"] + 5), "lead_hours"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "timestamp"),
        (lambda t: t.assign(signal=t["signal"].where(t.index > 3)), "signal"),
    ],
    ids=[
        "no column",
        "no rows",
        "text",
        "missing quantile",
        "infinite",
        "nothing observed",
        "naive time",
        "wrong lead",
        "twice",
        "no signal",
    ],
)
def test_a_spoilt_table_is_refused_and_the_column_named(spoil: object, field: str) -> None:
    with pytest.raises(BadInput) as refusal:
        check_forecasts(spoil(forecasts(3)), "challenger")  # type: ignore[operator]
    assert refusal.value.field == field
    assert "challenger" in refusal.value.message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda t: t[t["signal"] != "pm25"], "signal"),
        (lambda t: t[t["origin"] < t["origin"].max()], "origin"),
        (lambda t: t[(t["origin"] > t["origin"].min()) | (t["lead_hours"] < 40)], "timestamp"),
        (lambda t: t.assign(observed=t["observed"] + 1.0), "observed"),
        (lambda t: t.assign(city="elsewhere"), "city"),
    ],
    ids=["signal", "origin", "hours", "truth", "city"],
)
def test_tables_of_other_rows_are_not_compared(change: object, field: str) -> None:
    table = check_forecasts(forecasts(4), "a")
    other = check_forecasts(change(forecasts(4)), "b")  # type: ignore[operator]
    with pytest.raises(BadInput) as refusal:
        require_same_rows(table, other, ("challenger", "champion"))
    assert refusal.value.field == field


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not really")
    for path in (broken, tmp_path / "absent.parquet"):
        with pytest.raises(BadInput, match="--champion"):
            read_forecasts(path, "--champion")


def test_published_scores_of_other_libraries_are_reproduced(shared_dir: Path) -> None:
    """CRPS, MAE and coverage of two peers, and the interval of their ratio, as the protocol has them."""
    ensemble, ridge = (
        read_forecasts(shared_dir / "peers" / f"madrid_dev__{name}.parquet", name)
        for name in ("ensemble", "ridge")
    )
    scores = summarise(ensemble)
    assert value(scores, "pm25", "crps") == pytest.approx(3.56, abs=0.005)
    assert value(scores, "energy_mwh", "mae") == pytest.approx(737.1, abs=0.05)
    assert value(scores, "traffic", "crps", "25-48") == pytest.approx(22549, abs=0.5)
    assert value(scores, "pm25", "coverage90") == pytest.approx(0.8833, abs=5e-5)
    pm25 = [row_scores(table[table.signal == "pm25"]) for table in (ridge, ensemble)]
    ratio = block_bootstrap_ratio(*pm25)
    assert (ratio.ratio, ratio.low, ratio.high) == pytest.approx((1.179, 1.067, 1.288), abs=0.015)
