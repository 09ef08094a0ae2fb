"""Policies: presets, schedules, and the response layer."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from tests.toy_city import END, toy_city, toy_history
from urbanwm.assumptions import Assumptions, load_assumptions, preset_names
from urbanwm.contracts.scenario import Policy, PolicyPeriod
from urbanwm.contracts.signals import TARGETS
from urbanwm.effects import apply, arrived
from urbanwm.errors import BadInput
from urbanwm.policy import (
    StatusQuo,
    action_schedule,
    dose_schedule,
    observed_status_quo,
    policy_effective,
)

PM25, ENERGY, TRAFFIC = range(3)
CITY = toy_city()
QUO = StatusQuo(0.4)
HOURS = 48


def members(samples: int = 20) -> np.ndarray:
    generator = np.random.default_rng(1)
    level = np.array([20.0, 1000.0, 1.0])
    return level * generator.uniform(0.5, 1.5, (samples, HOURS, 3))


def doses(policy: Policy, status_quo: StatusQuo = QUO, start=END):
    return dose_schedule(policy, start, HOURS, CITY, status_quo, 1.2)


def under(policy: Policy, preset="literature", before=None, **options):
    before = members() if before is None else before
    options = {"seed": 3, "background_pm25": 3.0} | options
    return apply(before, doses(policy), load_assumptions(preset), **options)


class TestPresets:
    def test_every_preset_loads_and_names_a_source_for_every_coefficient(self):
        assert preset_names() == ["literature", "reference"]
        for name in preset_names():
            assert all(coefficient.source for coefficient in load_assumptions(name).coefficients)

    def test_the_default_is_the_literature(self):
        assert load_assumptions(None).name == "literature"

    @pytest.mark.parametrize(
        ("lever", "signal", "figures"),
        [
            ("car_free_ratio", "traffic_index", (-0.85, -0.65, -0.40)),
            ("car_free_ratio", "pm25", (-0.16, -0.06, -0.01)),
            ("renewable_mix", "pm25", (-0.10, -0.015, 0.0)),
            ("renewable_mix", "energy_mwh", (-0.02, 0.0, 0.05)),
        ],
    )
    def test_the_literature_preset_has_the_figures_of_the_design(self, lever, signal, figures):
        found = [
            c for c in load_assumptions("literature").coefficients if (c.lever, c.signal) == (lever, signal)
        ]
        assert [(c.low, c.central, c.high) for c in found] == [figures]

    def test_an_unknown_preset_is_refused_with_the_known_ones(self):
        with pytest.raises(BadInput, match="literature"):
            load_assumptions("litterature")

    def test_a_path_is_refused_unless_the_caller_allows_it(self, tmp_path):
        path = tmp_path / "own.yaml"
        path.write_text("name: own\ncoefficients: []\n")
        with pytest.raises(BadInput):
            load_assumptions(str(path))
        assert load_assumptions(str(path), allow_path=True).name == "own"

    def test_a_broken_file_is_a_named_error(self, tmp_path):
        path = tmp_path / "own.yaml"
        path.write_text("name: [unclosed")
        with pytest.raises(BadInput, match="assumptions"):
            load_assumptions(str(path), allow_path=True)

    def test_inline_assumptions_survive_a_round_trip(self):
        literature = load_assumptions("literature")
        assert load_assumptions(literature.describe()) == literature

    def test_a_central_value_outside_its_range_is_refused(self):
        coefficient = {"lever": "car_free_ratio", "signal": "pm25", "low": -0.1, "central": 0.1, "high": 0.0}
        with pytest.raises(BadInput):
            load_assumptions({"name": "own", "coefficients": [coefficient | {"source": "me"}]})

    def test_a_misspelt_key_names_the_valid_ones(self):
        with pytest.raises(BadInput, match="coefficients"):
            load_assumptions({"name": "own", "coeficients": []})

    def test_drawn_coefficients_stay_in_their_range_and_span_it(self):
        coefficient = load_assumptions("literature").coefficients[0]
        drawn = load_assumptions("literature").sample(200, 0)[0]
        assert coefficient.low <= drawn.min() < -0.8
        assert -0.45 < drawn.max() <= coefficient.high
        assert np.median(drawn) == pytest.approx(coefficient.central, abs=0.05)

    def test_one_seed_draws_one_set(self):
        literature = load_assumptions("literature")
        for first, second in zip(literature.sample(20, 5), literature.sample(20, 5), strict=True):
            assert first.tobytes() == second.tobytes()


class TestSchedules:
    def test_a_lever_left_out_stays_at_the_status_quo(self):
        levers = action_schedule(doses(Policy(car_free_ratio=0.3)))
        assert levers.shape == (HOURS, 2)
        assert (levers == [0.3, 0.4]).all()

    def test_a_period_acts_within_its_hours_only(self):
        policy = Policy(schedule=[PolicyPeriod(from_hour=8, to_hour=12, car_free_ratio=0.5)])
        ratio = doses(policy).values["car_free_ratio"]
        assert ratio.tolist() == [0.0] * 8 + [0.5] * 4 + [0.0] * 36

    def test_hours_of_day_and_weekdays_are_local(self):
        policy = Policy(schedule=[PolicyPeriod(hours=[0], weekdays=[1], car_free_ratio=1.0)])
        ratio = doses(policy).values["car_free_ratio"]
        # The start is 23:00 UTC on Monday 2 March = Tuesday midnight in Madrid.
        assert ratio.nonzero()[0].tolist() == [0]

    def test_a_period_by_time_is_half_open(self):
        period = PolicyPeriod(start=END + timedelta(hours=3), end=END + timedelta(hours=5), renewable_mix=1.0)
        mix = doses(Policy(schedule=[period])).values["renewable_mix"]
        assert (mix[3:5] == 1.0).all()
        assert (np.delete(mix, [3, 4]) == 0.4).all()

    def test_a_ramp_rises_linearly_and_ends_at_the_full_dose(self):
        policy = Policy(schedule=[PolicyPeriod(from_hour=2, car_free_ratio=0.8, ramp_hours=4)])
        ratio = doses(policy).values["car_free_ratio"]
        assert ratio[:2].tolist() == [0.0, 0.0]
        assert ratio[2:6] == pytest.approx([0.1, 0.3, 0.5, 0.7])
        assert (ratio[6:] == 0.8).all()

    def test_stricter_bans_raise_the_ratio_and_stop_at_one(self):
        strict = Policy(car_free_ratio=0.5, stricter_car_bans=True)
        assert (doses(strict).values["car_free_ratio"] == 0.6).all()
        full = Policy(car_free_ratio=0.9, stricter_car_bans=True)
        assert (doses(full).values["car_free_ratio"] == 1.0).all()

    def test_the_effective_policy_says_where_the_status_quo_comes_from(self):
        effective = policy_effective(
            Policy(), doses(Policy(), StatusQuo(0.25, origin="stated in the city file"))
        )
        assert effective["renewable_mix"] == 0.25
        assert effective["status_quo"]["origin"] == "stated in the city file"


class TestStatusQuo:
    def test_the_observed_share_comes_first(self):
        city = toy_city(renewable_share_status_quo=0.9)
        quo = observed_status_quo(toy_history(), city, END)
        assert 0.3 < quo.renewable_mix < 0.5
        assert "observed" in quo.origin

    def test_the_city_file_comes_second(self):
        quo = observed_status_quo(
            toy_history().drop(columns="renewable_share"), toy_city(renewable_share_status_quo=0.9), END
        )
        assert quo.renewable_mix == 0.9

    def test_an_unknown_share_is_named_as_such(self):
        assert "not known" in observed_status_quo(None, CITY, END).origin

    def test_windy_weeks_leave_a_standard_error(self):
        history = toy_history()
        weekly = np.array([0.3, 0.5, 0.3, 0.5, 0.3, 0.5, 0.3, 0.5])
        history.iloc[-8 * 168 :, history.columns.get_loc("renewable_share")] = weekly.repeat(168)
        quo = observed_status_quo(history, CITY, END)
        assert quo.renewable_mix == 0.4
        assert quo.renewable_mix_error == pytest.approx(weekly.std(ddof=1) / np.sqrt(8))

    def test_shares_after_the_start_are_not_seen(self):
        history = toy_history()
        history.loc[history.index >= END - timedelta(hours=24), "renewable_share"] = 1.0
        before = observed_status_quo(history, CITY, END - timedelta(hours=24))
        assert before.renewable_mix < 0.6


class TestResponse:
    def test_the_status_quo_changes_nothing_bit_for_bit(self):
        for preset in preset_names():
            for policy in (Policy(), Policy(car_free_ratio=0.0, renewable_mix=0.4)):
                assert under(policy, preset).tobytes() == members().tobytes()

    def test_traffic_reacts_at_once_and_pm25_with_a_delay(self):
        steady = np.ones_like(members()) * [20.0, 1000.0, 1.0]
        change = under(Policy(car_free_ratio=1.0), before=steady) / steady - 1.0
        assert np.ptp(change[..., TRAFFIC], axis=1).max() < 1e-12
        pm25 = change[..., PM25].mean(axis=0)
        assert (np.diff(pm25) < 0).all()
        # One e-folding time (6 h) brings 63 % of the full effect.
        assert pm25[5] / pm25[-1] == pytest.approx(1 - np.exp(-1), abs=0.01)

    def test_a_measure_that_ends_echoes_and_fades(self):
        policy = Policy(schedule=[PolicyPeriod(from_hour=8, to_hour=20, car_free_ratio=1.0)])
        change = (under(policy) - members())[..., PM25].mean(axis=0)
        assert (change[:8] == 0.0).all()
        assert change[20] < 0.0
        assert abs(change[45]) < 0.05 * abs(change[19])

    def test_a_cut_is_missing_from_the_air_for_as_long_as_that_air_stays(self):
        policy = Policy(schedule=[PolicyPeriod(to_hour=4, car_free_ratio=1.0)])
        before = np.ones_like(members()) * [20.0, 1000.0, 1.0]
        before[:, 4:, PM25] = 80.0  # the evening's air is four times as full, but not of what was cut
        cleared = before.copy()
        cleared[:, 4:, PM25] = 5.0  # the wind has taken most of it away, cut or not
        full, clear = (under(policy, before=air) - air for air in (before, cleared))
        keep = np.exp(-1 / 6)
        assert full[:, 4, PM25] == pytest.approx(full[:, 3, PM25] * keep)
        assert clear[:, 4, PM25] == pytest.approx(clear[:, 3, PM25] * 5.0 / 20.0)

    def test_a_dose_that_lasts_arrives_in_full_whatever_the_weather(self):
        wild = np.random.default_rng(0).uniform(0.0, 100.0, (5, 168))
        wild[2, 40:60] = 0.0
        response = arrived(np.ones((1, 168)), 6.0, wild)
        assert ((response >= 0.0) & (response <= 1.0 + 1e-12)).all()
        assert (response[:, -1] > 0.99).all()

    def test_a_lag_of_demand_does_not_depend_on_the_level(self):
        assert arrived(np.ones((1, 5)), 4.0).shape == (1, 5)
        assert arrived(np.ones((1, 5)), 4.0)[0, 3] == pytest.approx(1 - np.exp(-1))

    def test_only_the_local_part_reacts_where_the_assumption_says_so(self):
        own = {"lever": "car_free_ratio", "signal": "pm25", "low": -0.5, "central": -0.5, "high": -0.5}
        local = Assumptions(name="own", coefficients=[own | {"source": "x", "part": "local"}])
        before = members()
        before[:, 0, PM25] = 2.0
        after = apply(before, doses(Policy(car_free_ratio=1.0)), local, seed=0, background_pm25=3.0)
        assert after[:, 1:, PM25] == pytest.approx(3.0 + 0.5 * (before[:, 1:, PM25] - 3.0))
        assert (after[:, 0, PM25] == 2.0).all()
        with pytest.raises(BadInput, match="local"):
            load_assumptions(
                {
                    "name": "own",
                    "coefficients": [own | {"source": "x", "part": "local", "signal": "energy_mwh"}],
                }
            )

    def test_an_effect_that_may_not_exist_has_an_interval_that_reaches_zero(self):
        effect = (under(Policy(renewable_mix=0.9)) - members())[..., PM25].mean(axis=1)
        low, high = np.quantile(effect, (0.05, 0.95), method="hazen")
        assert low < 0.0 == high
        assert effect.mean() < 0.0

    def test_what_is_not_known_of_the_status_quo_widens_and_fades_towards_it(self):
        def spread(mix: float, error: float) -> np.ndarray:
            laid = doses(Policy(renewable_mix=mix), StatusQuo(0.4, renewable_mix_error=error))
            excess = laid.member_excess("renewable_mix", np.linspace(-2.5, 2.5, 11))
            return np.broadcast_to(excess, (11, HOURS))

        assert (spread(0.7, 0.0) == 0.7 - 0.4).all()
        assert np.ptp(spread(0.7, 0.02)[:, 0]) == pytest.approx(5 * 0.02)
        assert spread(0.7, 0.02)[:, 0].mean() == pytest.approx(0.3)
        assert (spread(0.4, 0.02) == 0.0).all()
        steps = np.diff([spread(mix, 0.05)[:, 0] for mix in np.linspace(0, 1, 41)], axis=0)
        assert (steps >= -1e-12).all()

    def test_without_lag_the_effect_follows_the_dose(self):
        policy = Policy(schedule=[PolicyPeriod(from_hour=8, to_hour=20, car_free_ratio=1.0)])
        change = (under(policy, lagged=False) - members())[..., PM25]
        assert (change[:, 20:] == 0.0).all()

    def test_pm25_is_not_pushed_below_the_background(self):
        before = members()
        before[..., PM25] = 3.05
        before[:, 0, PM25] = 2.0
        after = under(Policy(car_free_ratio=1.0, renewable_mix=1.0), before=before)
        assert after[..., PM25][:, 1:].min() == 3.0
        assert (after[:, 0, PM25] == 2.0).all()

    def test_a_dirtier_mix_is_not_capped_by_the_background(self):
        after = under(Policy(renewable_mix=0.0))
        assert (after[..., PM25] >= members()[..., PM25]).all()

    def test_a_missing_signal_stays_missing(self):
        before = members()
        before[..., TRAFFIC] = np.nan
        after = under(Policy(car_free_ratio=0.5), before=before)
        assert np.isnan(after[..., TRAFFIC]).all()
        assert np.isfinite(after[..., PM25]).all()

    def test_activity_acts_on_energy_and_traffic_only(self):
        ratio = under(Policy(gdp_activity_index=1.2, commercial_load_factor=1.1)) / members()
        assert (ratio[..., ENERGY] > 1.0).all()
        assert (ratio[..., TRAFFIC] > 1.0).all()
        assert (ratio[..., PM25] == 1.0).all()

    def test_the_reference_preset_has_the_reference_formulas_on_levels(self):
        policy = Policy(car_free_ratio=0.3, renewable_mix=0.5)
        ratio = under(policy, "reference", on_levels=True) / members()
        assert ratio[..., PM25] == pytest.approx(1 - 0.25 * 0.5 - 0.30 * 0.3, rel=1e-12)
        assert ratio[..., ENERGY] == pytest.approx(1 - 0.15 * 0.5, rel=1e-12)
        assert ratio[..., TRAFFIC] == pytest.approx(1 - 0.3, rel=1e-12)

    def test_the_reference_preset_acts_on_a_forecast_as_a_ratio(self):
        ratio = under(Policy(car_free_ratio=0.3, renewable_mix=0.5), "reference") / members()
        assert ratio[..., PM25] == pytest.approx((1 - 0.125 - 0.09) / (1 - 0.25 * 0.4), rel=1e-12)

    def test_a_bracket_never_turns_negative(self):
        steep = {
            "lever": "renewable_mix",
            "signal": "pm25",
            "low": -1.0,
            "central": -1.0,
            "high": -1.0,
            "source": "x",
        }
        own = Assumptions(name="own", coefficients=[steep, steep])
        after = apply(members(), doses(Policy(renewable_mix=1.0)), own, seed=0, background_pm25=0.0)
        assert (after[..., PM25] == 0.0).all()

    def test_targets_are_in_the_vocabulary_s_order(self):
        assert TARGETS == ("pm25", "energy_mwh", "traffic_index")
