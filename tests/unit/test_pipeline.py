"""The cut between training rows and held-out origins, and the names of scores."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from urbanwm.cities import load_city
from urbanwm.errors import DataUnavailable
from urbanwm.evaluation.forecasts import QUANTILE_COLUMNS
from urbanwm.pipeline import data as data_module
from urbanwm.pipeline.data import read_night
from urbanwm.pipeline.judge import score_metrics
from urbanwm.pipeline.plan import make_plan
from urbanwm.settings import load_settings

NOW = datetime(2026, 4, 20, 9, 30, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    return load_settings(home=tmp_path / "home")


class FakeLake:
    """A lake of one city in memory."""

    uri = "/lake"

    def __init__(self, frame):
        self.frame = frame

    def version(self):
        return 7

    def read(self, city, *, end=None, version=None):
        return self.frame if end is None else self.frame[self.frame.index < end]


def hourly(days, end="2026-04-20 10:00", seed=0):
    index = pd.date_range(end=end, periods=24 * days, freq="h", tz="UTC", name="timestamp")
    values = np.random.default_rng(seed).uniform(1, 2, (len(index), 4))
    frame = pd.DataFrame(values, index, ["pm25", "energy_mwh", "traffic_index", "no2"])
    return frame.assign(temperature_c=np.nan)


@pytest.fixture
def lake(monkeypatch):
    def install(frame):
        monkeypatch.setattr(data_module, "records_of", lambda _: FakeLake(frame))
        monkeypatch.setattr(data_module, "city_now", lambda city, lake, clock: clock())

    return install


def read(settings, until=None):
    return read_night(["demo"], settings, until=until, clock=lambda: NOW).records["demo"]


class TestCut:
    def test_held_out_origins_are_local_midnights_and_leave_the_whole_horizon(self, settings, lake):
        lake(hourly(400))
        record = read(settings)
        zone = record.city.zone
        assert all(origin.astimezone(zone).hour == 0 for origin in record.origins)
        assert len(record.origins) == 60
        end = record.frame.index[-1] + pd.Timedelta(hours=1)
        assert end.tz_convert(zone).isoformat() == "2026-04-20T00:00:00+02:00"
        assert end - record.origins[-1] == pd.Timedelta(hours=48)

    def test_no_held_out_hour_is_trained_on(self, settings, lake):
        lake(hourly(400))
        record = read(settings)
        assert record.training.index[-1] < record.origins[0]
        assert record.training.index[-1] == pd.Timestamp(record.origins[0]) - pd.Timedelta(hours=1)

    def test_a_short_record_holds_out_fewer_days(self, settings, lake):
        lake(hourly(60))
        assert 7 <= len(read(settings).origins) <= 12

    def test_a_record_too_short_to_judge_is_refused_with_its_length(self, settings, lake):
        lake(hourly(20))
        with pytest.raises(DataUnavailable, match="19 whole days"):
            read(settings)

    def test_a_signal_without_a_value_is_left_out(self, settings, lake):
        lake(hourly(60))
        assert list(read(settings).frame.columns) == ["pm25", "energy_mwh", "traffic_index", "no2"]

    def test_hours_that_arrive_during_the_day_do_not_change_the_night(self, settings, lake):
        lake(hourly(60 + 1, end="2026-04-20 20:00"))
        evening = read(settings)
        lake(hourly(60 + 1, end="2026-04-20 20:00").iloc[:-12])
        assert read(settings).digest == evening.digest

    def test_the_digest_sees_every_value(self, settings, lake):
        frame = hourly(60)
        lake(frame)
        before = read(settings).digest
        changed = frame.copy()
        changed.iloc[500, 0] += 1e-9
        lake(changed)
        assert read(settings).digest != before

    def test_until_moves_the_night_into_the_past(self, settings, lake):
        lake(hourly(100))
        record = read(settings, until=datetime(2026, 3, 31, 12, tzinfo=UTC))
        assert record.frame.index[-1] == pd.Timestamp("2026-03-30 21:00", tz="UTC")

    def test_the_key_changes_with_data_and_configuration_only(self, settings, lake):
        lake(hourly(60))

        def key(**options):
            return make_plan(["demo"], settings, "urban", clock=lambda: NOW, **options).key

        assert key() == key()
        assert key() != key(steps=5)
        lake(hourly(60, seed=1))
        assert key() != key(steps=5)


def test_scores_have_stable_names_and_skill_compares_with_the_yardsticks(settings):
    city = load_city("demo", settings).name
    origins = pd.date_range("2026-01-01", periods=2, freq="D", tz="UTC")
    hours = pd.timedelta_range(0, periods=48, freq="h")
    keys = pd.MultiIndex.from_product([origins, hours], names=["origin", "since"]).to_frame(index=False)
    keys = keys.assign(city=city, signal="pm25", timestamp=keys["origin"] + keys["since"])
    keys["lead_hours"] = keys.pop("since") // pd.Timedelta(hours=1) + 1
    base = keys.assign(observed=10.0)

    def off_by(error):
        return base.assign(**dict.fromkeys(("mean", *QUANTILE_COLUMNS), 10.0 + error))

    tables = {
        "challenger": off_by(1.0),
        "baseline": off_by(2.0),
        "persistence": off_by(4.0),
        "climatology": off_by(3.0),
    }
    metrics = score_metrics(tables)
    assert metrics["test/pm25/mae"] == pytest.approx(1.0)
    assert metrics["test/pm25/mae_h24"] == pytest.approx(1.0)
    assert metrics["baseline/pm25/mae"] == pytest.approx(2.0)
    assert metrics["skill/pm25/h48"] == pytest.approx(1 - 1 / 3)
    assert metrics["skill_persistence/pm25/all"] == pytest.approx(0.75)
    assert not any(name.startswith("baseline/pm25/mae_h") for name in metrics)
