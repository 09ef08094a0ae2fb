"""From a question to an answer: the world model, the ladder below it, and the response document."""

from __future__ import annotations

import json
import math
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from tests.toy_city import END, ToyBundle, toy_city, toy_history
from urbanwm.baseline import BaselineForecaster, daily_factor
from urbanwm.calibration import fit_calibration
from urbanwm.contracts.scenario import Scenario
from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import BadInput, DataUnavailable
from urbanwm.members import widen_silent
from urbanwm.simulator import WorldModelForecaster, simulate, to_response

CITY = toy_city()
STATE = {"pm25": 40.0, "energy_mwh": 900.0, "traffic_index": 0.8}
POLICY = {"car_free_ratio": 0.3, "renewable_mix": 0.5}
PROVENANCE = {"model_version": "7", "run_id": "abc", "dataset_version": 3}


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    return toy_history()


@pytest.fixture(scope="module")
def model(history) -> WorldModelForecaster:
    return WorldModelForecaster(ToyBundle.of(history, CITY))


def ask(forecaster, history, city=CITY, now=END, **fields):
    scenario = Scenario.model_validate({"city": "toy"} | fields)
    return simulate(scenario, city, history, forecaster, now=now, provenance=PROVENANCE)


class TestAnswer:
    def test_the_answer_has_the_fields_of_the_contract(self, model, history):
        answer = to_response(ask(model, history, policy=POLICY))
        assert list(answer) == [
            "city",
            "start",
            "horizon",
            "policy",
            "simulated",
            "baseline",
            "effect",
            "meta",
        ]
        assert len(answer["simulated"]) == len(answer["baseline"]) == answer["horizon"] == 48
        first = answer["simulated"][0]
        expected = {"hour", "timestamp", *TARGETS}
        expected |= {f"{p}_{s}" for p in ("pm25", "energy", "traffic") for s in ("std", "q05", "q50", "q95")}
        assert set(first) == expected
        assert [row["hour"] for row in answer["simulated"]] == list(range(48))
        assert first["timestamp"] == END.isoformat()
        needed = {
            "served_by",
            "model_version",
            "run_id",
            "dataset_version",
            "data_as_of",
            "degraded",
            "reasons",
        }
        assert needed | {"assumptions", "policy_effective"} <= set(answer["meta"])

    def test_every_number_is_finite(self, model, history):
        answer = to_response(ask(model, history, policy=POLICY, horizon_hours=168))
        assert json.dumps(answer, allow_nan=False)
        assert all(math.isfinite(row[name]) for row in answer["simulated"] for name in TARGETS)

    def test_the_world_model_says_that_it_answered(self, model, history):
        meta = ask(model, history).meta
        assert (meta["served_by"], meta["model_version"], meta["run_id"]) == ("world_model", "7", "abc")
        assert meta["degraded"] is False
        assert meta["reasons"] == []
        assert meta["data_as_of"] == (END - timedelta(hours=1)).isoformat()

    def test_the_same_request_has_the_same_bytes(self, history):
        documents = [
            json.dumps(
                to_response(ask(WorldModelForecaster(ToyBundle.of(history, CITY)), history, policy=POLICY))
            )
            for _ in range(2)
        ]
        assert documents[0] == documents[1]

    def test_another_seed_gives_other_members(self, model, history):
        first, second = (ask(model, history, seed=seed) for seed in (1, 2))
        assert first.baseline.tobytes() != second.baseline.tobytes()

    def test_quantiles_are_ordered(self, model, history):
        for row in to_response(ask(model, history))["simulated"]:
            assert row["pm25_q05"] <= row["pm25_q50"] <= row["pm25_q95"]

    def test_latents_have_the_contract_s_shape(self, model, history):
        z, h = ask(model, history, horizon_hours=24).latents
        assert z.shape == (25, 128)
        assert h.shape == (25, 256)


class TestEffect:
    @pytest.mark.parametrize("preset", ["literature", "reference"])
    def test_the_status_quo_has_an_effect_of_exactly_zero(self, model, history, preset):
        for forecaster in (model, BaselineForecaster()):
            answer = ask(forecaster, history, assumptions=preset)
            assert answer.scenario.tobytes() == answer.baseline.tobytes()
            assert all(
                effect["mean"] == effect["q05"] == effect["q95"] == 0.0 for effect in answer.effect.values()
            )

    def test_the_published_status_quo_can_be_sent_back(self, model, history):
        quo = json.loads(json.dumps(ask(model, history).meta["policy_effective"]["status_quo"]))
        again = ask(model, history, policy={k: quo[k] for k in ("car_free_ratio", "renewable_mix")})
        assert again.effect["pm25"]["mean"] == 0.0

    def test_the_effect_is_the_paired_difference(self, model, history):
        answer = ask(model, history, policy=POLICY)
        difference = (answer.scenario - answer.baseline)[..., 2]
        effect = answer.effect["traffic_index"]
        assert effect["mean"] == pytest.approx(difference.mean())
        assert effect["q05"] <= effect["mean"] <= effect["q95"] < 0.0
        assert effect["assumed"] == pytest.approx(effect["mean"])
        assert len(effect["hourly"]["mean"]) == 48

    def test_the_parts_of_the_effect_sum_to_it(self, model, history):
        effect = ask(model, history, policy=POLICY).effect["pm25"]
        assert effect["assumed"] + effect["dynamic"] == pytest.approx(effect["mean"])
        assert effect["dynamic"] > 0.0  # the delay holds some of the decrease back

    def test_dice_cancel_in_the_effect(self, model, history):
        answer = ask(model, history, policy={"car_free_ratio": 0.3})
        ratio = answer.scenario[..., 2] / answer.baseline[..., 2]
        assert np.ptp(ratio, axis=1).max() < 1e-12  # a member keeps its coefficient, and its own noise


class TestReferenceForm:
    def test_the_baseline_gives_the_reference_formulas_to_1e_9(self, history):
        for record in (history, None):
            answer = to_response(
                ask(BaselineForecaster(), record, policy=POLICY, initial_state=STATE, assumptions="reference")
            )
            local = pd.date_range(END, periods=48, freq="h").tz_convert(CITY.timezone).hour
            factors = {
                "pm25": 1 - 0.25 * 0.5 - 0.30 * 0.3,
                "energy_mwh": 1 - 0.15 * 0.5,
                "traffic_index": 1 - 0.3,
            }
            for row, hour in zip(answer["simulated"], local, strict=True):
                for name, factor in factors.items():
                    assert row[name] == pytest.approx(STATE[name] * factor * daily_factor(hour), rel=1e-9)
                assert row["pm25_std"] == pytest.approx(0.0, abs=1e-9)

    def test_only_the_vocabulary_limits_the_reference_formulas(self):
        answer = ask(
            BaselineForecaster(), None, initial_state=STATE | {"traffic_index": 2.0}, assumptions="reference"
        )
        assert answer.baseline[..., 2].max() == 2.0

    def test_on_a_forecast_the_reference_preset_is_a_ratio(self, model, history):
        answer = ask(model, history, policy={"renewable_mix": 0.9}, assumptions="reference")
        share = answer.meta["policy_effective"]["status_quo"]["renewable_mix"]
        ratio = answer.scenario[..., 1] / answer.baseline[..., 1]
        assert ratio == pytest.approx((1 - 0.15 * 0.9) / (1 - 0.15 * share))


class TestLadder:
    def test_a_late_feed_is_named_and_widens(self, model, history):
        late = history.copy()
        late.loc[late.index >= END - timedelta(hours=10), "pm25"] = np.nan
        answer = ask(model, late)
        assert answer.meta["served_by"] == "world_model"
        assert answer.meta["degraded"] is False
        assert answer.meta["reasons"] == ["pm25: last value is 10 h old (late)"]
        assert (
            answer.baseline[..., 0].std(axis=0).mean()
            > ask(model, history).baseline[..., 0].std(axis=0).mean()
        )

    def test_a_feed_past_its_limit_degrades(self, model, history):
        stale = history.copy()
        stale.loc[stale.index >= END - timedelta(hours=100), "energy_mwh"] = np.nan
        meta = ask(model, stale).meta
        assert meta["served_by"] == "world_model"
        assert meta["degraded"] is True
        assert any("energy_mwh" in reason and "100 h" in reason for reason in meta["reasons"])

    def test_a_model_that_gives_nonsense_is_replaced_and_named(self, history):
        bundle = ToyBundle.of(history, CITY)
        bundle.broken = True
        meta = ask(WorldModelForecaster(bundle), history).meta
        assert meta["served_by"] == "baseline"
        assert meta["model_version"] is None
        assert any("not finite" in reason for reason in meta["reasons"])

    def test_without_recent_data_climatology_answers_and_says_so(self, model, history):
        meta = ask(model, history, now=END + timedelta(days=30)).meta
        assert meta["served_by"] == "baseline"
        assert meta["degraded"] is True
        assert any("168 h" in reason for reason in meta["reasons"])

    def test_without_data_the_callers_state_answers(self, model):
        answer = ask(model, None, initial_state=STATE)
        assert answer.meta["served_by"] == "baseline"
        assert np.isfinite(answer.scenario).all()

    def test_with_nothing_there_is_no_answer(self, model):
        with pytest.raises(DataUnavailable, match="pm25"):
            ask(model, None)

    def test_a_city_without_a_signal_answers_null_for_it(self, model, history):
        answer = to_response(ask(model, history.drop(columns="traffic_index"), policy=POLICY))
        assert answer["simulated"][0]["traffic_index"] is None
        assert answer["simulated"][0]["traffic_q95"] is None
        assert answer["effect"]["traffic_index"] is None
        assert answer["simulated"][0]["pm25"] > 0.0
        assert any("traffic_index" in reason for reason in answer["meta"]["reasons"])

    def test_a_city_never_trained_on_is_answered_and_named(self, model, history):
        answer = ask(model, history, city=toy_city(name="elsewhere"))
        assert answer.meta["served_by"] == "world_model"
        assert any("not in the model's training data" in reason for reason in answer.meta["reasons"])

    def test_what_the_holder_knows_is_joined(self, model, history):
        scenario = Scenario(city="toy")
        holder = PROVENANCE | {"degraded": True, "reasons": ["registry down"]}
        meta = simulate(scenario, CITY, history, model, now=END, provenance=holder).meta
        assert meta["degraded"] is True
        assert meta["reasons"] == ["registry down"]


class TestStart:
    def test_a_start_in_the_past_sees_nothing_later(self, model, history):
        start = END - timedelta(days=3)
        cut = ask(model, history[history.index < start], start_time=start)
        assert ask(model, history, start_time=start).baseline.tobytes() == cut.baseline.tobytes()

    def test_a_start_in_the_near_future_is_reached_by_imagination(self, model, history):
        answer = ask(model, history, start_time=END + timedelta(hours=30))
        assert answer.timestamps[0] == END + timedelta(hours=30)
        assert answer.meta["served_by"] == "world_model"
        assert answer.latents[0].shape == (49, 128)

    def test_a_gap_beyond_a_rollout_is_filtered_as_missing(self, model, history):
        answer = ask(model, history, start_time=END + timedelta(hours=5), horizon_hours=168)
        assert answer.baseline.shape == (20, 168, 3)
        assert answer.meta["served_by"] == "world_model"

    def test_the_forecast_depends_on_the_hour_of_the_start(self, model, history):
        morning, evening = (
            ask(model, history, start_time=END - timedelta(hours=h)).baseline[:, 0, 1].mean() for h in (9, 21)
        )
        assert abs(morning - evening) > 50

    @pytest.mark.parametrize("start", [END - timedelta(days=400), END + timedelta(days=3000)])
    def test_a_start_that_no_data_can_answer_is_refused(self, model, history, start):
        with pytest.raises(BadInput, match="start_time"):
            ask(model, history, start_time=start)

    def test_the_callers_state_overrides_the_newest_observation(self, model, history):
        stale = history[history.index < END - timedelta(hours=20)]
        reasons = ask(model, stale, initial_state=STATE).meta["reasons"]
        assert reasons == ["renewable_share: last value is 20 h old (late)"]


class TestBatch:
    def test_a_batch_gives_each_origin_what_it_would_get_alone(self, model, history):
        origins = [END - timedelta(days=d) for d in (6, 4, 3)]
        batch = model.forecast_batch(history, CITY, origins, 24, 20, 0)
        for i, origin in enumerate(origins):
            alone = model.forecast(history, CITY, origin, 24, 20, 0).members
            assert batch[i] == pytest.approx(alone, rel=1e-4)

    def test_a_batch_widens_a_silent_signal_as_a_single_forecast_does(self, model, history):
        gappy, origins = history.copy(), [END - timedelta(days=d) for d in (6, 3)]
        gappy.loc[gappy.index >= END - timedelta(days=5), "energy_mwh"] = np.nan
        batch = model.forecast_batch(gappy, CITY, origins, 24, 20, 0)
        alone = [model.forecast(gappy, CITY, origin, 24, 20, 0).members for origin in origins]
        assert batch == pytest.approx(np.array(alone), rel=1e-4)

    def test_members_are_the_stratified_quantiles_of_each_hour(self, model, history):
        few, many = (model.forecast(history, CITY, END, 24, samples, 0).members for samples in (20, 200))
        coarse, fine = (np.quantile(m, (0.05, 0.5, 0.95), axis=0, method="hazen") for m in (few, many))
        assert coarse == pytest.approx(fine, rel=0.05)

    def test_members_wander_slowly(self, model, history):
        members = model.forecast(history, CITY, END, 48, 100, 0).members[..., 1]
        ranks = members.argsort(axis=0).argsort(axis=0)
        assert np.corrcoef(ranks[:, 10], ranks[:, 11])[0, 1] > 0.8
        assert abs(np.corrcoef(ranks[:, 0], ranks[:, 47])[0, 1]) < 0.4


def test_the_bundle_s_calibration_is_applied(history):
    plain = ToyBundle.of(history, CITY)
    generator = np.random.default_rng(0)
    normal = np.broadcast_to([-1.645, -1.282, -0.674, 0.0, 0.674, 1.282, 1.645], (400, 24, 3, 7))
    wider = fit_calibration(normal, generator.normal(0.0, 2.0, (400, 24, 3)))
    forecasts = [
        WorldModelForecaster(bundle).forecast(history, CITY, END, 24, 20, 0).members
        for bundle in (plain, plain.with_calibration(wider))
    ]
    assert (forecasts[1].std(axis=0).mean(axis=0) > 1.5 * forecasts[0].std(axis=0).mean(axis=0)).all()


def test_a_silent_signal_is_never_surer_than_so_long_after_its_last_value():
    width = np.tile(np.linspace(1.0, 3.0, 72), (2, 1)).T
    normal = np.array([-1.6, -1.3, -0.7, 0.0, 0.7, 1.3, 1.6])
    quantiles = np.zeros((1, 72, 3, 7))
    quantiles[0, :, :2] = width[..., None] * normal
    widened = widen_silent(quantiles, [30.0, 0.0, 0.0])
    growth = widened[0, :, 0, -1] / quantiles[0, :, 0, -1]
    assert growth[0] == pytest.approx(width[48, 0] / width[0, 0])
    assert (growth >= 1.0).all()
    assert growth[-1] == 1.0
    assert (widened[..., 3] == 0.0).all()
    assert (widened[:, :, 1] == quantiles[:, :, 1]).all()
