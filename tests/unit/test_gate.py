"""The promotion gate: its verdicts, its named reasons, and its error rates."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tests.forecast_support import SIGNALS, forecasts
from urbanwm.errors import BadInput
from urbanwm.evaluation.gate import GateDecision, decide

DAYS = 60
BASELINE = forecasts(DAYS, factor=1.5)
# Day-long shifts of a re-seeded model, in standard deviations of the error: the overall ratio of two seeds
# then has a standard deviation of 0.7 %.
NOISE = 0.3


def test_a_better_model_is_promoted_with_evidence() -> None:
    decision = decide(forecasts(DAYS, factor=0.95), forecasts(DAYS), BASELINE)
    assert decision.promote
    assert decision.evidence["against"]["champion"]["overall"]["ratio"] == pytest.approx(0.95, abs=1e-6)
    assert decision.evidence["origin_days"] == DAYS
    assert set(decision.evidence["against"]["champion"]["buckets"]) == {"1-6", "7-24", "25-48"}
    json.dumps(decision.evidence, allow_nan=False)


def test_the_same_model_is_not_promoted() -> None:
    decision = decide(forecasts(DAYS), forecasts(DAYS), BASELINE)
    assert not decision.promote
    assert "not proven better than the champion" in decision.reasons[0]


def test_a_gain_too_small_to_matter_is_not_promoted() -> None:
    decision = decide(forecasts(DAYS, factor=0.999), forecasts(DAYS), BASELINE)
    assert not decision.promote
    assert "by only" in decision.reasons[0]


def test_on_the_first_night_the_baseline_must_be_beaten() -> None:
    assert decide(forecasts(DAYS), None, BASELINE).promote
    worse = decide(forecasts(DAYS, factor=1.6), None, BASELINE)
    assert not worse.promote
    assert "baseline" in worse.reasons[0]


def test_a_model_better_than_the_champion_but_not_than_the_baseline_is_refused() -> None:
    decision = decide(forecasts(DAYS, factor=1.6), forecasts(DAYS, factor=1.9), BASELINE)
    assert not decision.promote
    assert any("baseline" in reason for reason in decision.reasons)


@pytest.mark.parametrize("worse", [0, 1, 2])
def test_a_model_better_overall_but_worse_on_one_signal_is_refused_by_name(worse: int) -> None:
    factor = [0.85, 0.85, 0.85]
    factor[worse] = 1.10
    decision = decide(forecasts(DAYS, factor=tuple(factor)), forecasts(DAYS), BASELINE)  # type: ignore[arg-type]
    assert not decision.promote
    name = ("pm25", "energy_mwh", "traffic_index")[worse]
    assert any(f"testville/{name}:" in reason for reason in decision.reasons)


def test_better_scores_with_a_failed_behaviour_check_are_refused() -> None:
    decision = decide(
        forecasts(DAYS, factor=0.8), forecasts(DAYS), BASELINE, behaviour_failures=["monotone in dose"]
    )
    assert not decision.promote
    assert decision.reasons == ["behaviour check failed: monotone in dose"]


def test_a_model_far_too_sure_is_refused() -> None:
    sharp = forecasts(DAYS)
    columns = [name for name in sharp.columns if name.startswith("q")]
    sharp[columns] = sharp[columns].sub(sharp["q50"], axis=0).mul(0.4).add(sharp["q50"], axis=0)
    decision = decide(sharp, forecasts(DAYS, factor=1.4), forecasts(DAYS, factor=2.0))
    assert not decision.promote
    assert any("90 % interval of testville/pm25" in reason for reason in decision.reasons)


def test_a_handful_of_days_decides_nothing() -> None:
    decision = decide(forecasts(5, factor=0.5), forecasts(5), forecasts(5, factor=1.5))
    assert not decision.promote
    assert "origin days" in decision.reasons[0]


def test_the_verdict_depends_on_the_seed_of_nothing_but_the_bootstrap() -> None:
    challenger, champion = forecasts(DAYS, factor=0.97), forecasts(DAYS, noise=0.1)
    assert decide(challenger, champion, BASELINE, seed=4) == decide(challenger, champion, BASELINE, seed=4)
    shuffled = challenger.sample(frac=1.0, random_state=1)
    assert decide(shuffled, champion, BASELINE, seed=4) == decide(challenger, champion, BASELINE, seed=4)


def test_a_signal_that_nobody_observed_is_left_out() -> None:
    tables = []
    for factor in (0.9, 1.0, 1.5):
        table = forecasts(DAYS, factor=factor)
        unseen = table["signal"] == "traffic_index"
        table.loc[unseen, "observed"] = np.nan
        tables.append(table)
    decision = decide(*tables)
    assert decision.promote
    assert set(decision.evidence["against"]["champion"]["signals"]) == {
        "testville/pm25",
        "testville/energy_mwh",
    }


def test_two_perfect_models_cannot_be_ranked() -> None:
    perfect = forecasts(DAYS, factor=0.0)
    with pytest.raises(BadInput):
        decide(perfect, perfect, BASELINE)


@pytest.mark.parametrize(
    ("arguments", "field"), [({"margin": -0.1}, "margin"), ({"confidence": 1.0}, "confidence")]
)
def test_settings_that_mean_nothing_are_refused(arguments: dict[str, float], field: str) -> None:
    with pytest.raises(BadInput) as refusal:
        decide(forecasts(10), None, forecasts(10), **arguments)  # type: ignore[arg-type]
    assert refusal.value.field == field


def test_misaligned_tables_are_refused_and_the_column_named() -> None:
    late = forecasts(DAYS).assign(observed=lambda table: table["observed"] * 2)
    with pytest.raises(BadInput) as refusal:
        decide(forecasts(DAYS), late, BASELINE)
    assert refusal.value.field == "observed"


def decided(pairs: int, **challenger: object) -> list[GateDecision]:
    """Return the verdicts on re-seeded challengers against re-seeded champions, through the whole gate."""
    return [
        decide(
            forecasts(DAYS, seed=pair, noise=NOISE, noise_seed=2 * pair, **challenger),  # type: ignore[arg-type]
            forecasts(DAYS, seed=pair, noise=NOISE, noise_seed=2 * pair + 1),
            forecasts(DAYS, seed=pair, factor=1.5),
            draws=500,
            seed=pair,
        )
        for pair in range(pairs)
    ]


def promoted_share(factor: float, pairs: int) -> float:
    """Return how often a challenger with errors × `factor` is promoted."""
    return float(np.mean([decision.promote for decision in decided(pairs, factor=factor)]))


@pytest.fixture
def pairs(pytestconfig: pytest.Config) -> int:
    """Return how many pairs to decide on: the full number costs minutes and is for `-m slow` only."""
    return 200 if "slow" in (pytestconfig.option.markexpr or "") else 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_error_rates_over_reseeded_pairs_of_60_days(pairs: int) -> None:
    assert promoted_share(1.0, pairs) <= 0.05
    assert promoted_share(1.02, pairs) <= 0.01
    assert promoted_share(0.97, pairs) >= 0.80


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_gain_that_costs_one_signal_a_tenth_is_refused_whatever_the_seed(pairs: int) -> None:
    for worse, name in enumerate(SIGNALS):
        factor = [0.85, 0.85, 0.85]
        factor[worse] = 1.10
        for decision in decided(pairs // len(SIGNALS), factor=tuple(factor)):
            assert decision.evidence["against"]["champion"]["overall"]["ratio"] < 1.0
            assert not decision.promote
            assert any(f"worse than the champion on testville/{name}" in line for line in decision.reasons)


def test_forecasts_of_other_libraries_are_ranked_as_published(shared_dir: object) -> None:
    """The ensemble beats ridge; a plain GRU does not beat LightGBM; nothing beats itself."""
    peers = shared_dir / "peers"  # type: ignore[operator]

    def peer(name: str) -> pd.DataFrame:
        return pd.read_parquet(peers / f"madrid_dev__{name}.parquet")

    assert decide(peer("ensemble"), peer("ridge"), peer("climatology")).promote
    assert not decide(peer("gru"), peer("lgbm"), peer("climatology")).promote
    assert not decide(peer("lgbm"), peer("lgbm"), peer("climatology")).promote
