"""Rolling-origin backtests and the reference forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tests.feature_support import START, make_city, make_frame
from urbanwm.cities import City
from urbanwm.contracts.scenario import Forecast
from urbanwm.contracts.signals import TARGETS
from urbanwm.errors import BadInput, DataUnavailable, InternalContractBroken
from urbanwm.evaluation.backtest import backtest, forecast_table, local_midnights
from urbanwm.evaluation.forecasts import COLUMNS, QUANTILE_COLUMNS, check_forecasts
from urbanwm.evaluation.metrics import summarise
from urbanwm.evaluation.references import REFERENCES

CITY = make_city()
FRAME = make_frame(24 * 60)
FIRST, LAST = START + timedelta(days=40), START + timedelta(days=50)


class LastValue:
    """Repeats the last known value, spread evenly by ±1; remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[pd.DataFrame] = []

    def forecast(
        self,
        history: pd.DataFrame | None,
        city: City,
        start: datetime,
        horizon_hours: int,
        samples: int,
        seed: int,
    ) -> Forecast:
        assert history is not None
        self.shown.append(history)
        last = history[list(TARGETS)].iloc[-1].to_numpy()
        spread = np.linspace(-1.0, 1.0, samples)[:, None, None]
        return Forecast(np.broadcast_to(last, (samples, horizon_hours, 3)) + spread, "baseline")


class LastValueBatch(LastValue):
    """The same, many origins at once."""

    def forecast_batch(
        self,
        frame: pd.DataFrame,
        city: City,
        origins: Sequence[datetime],
        horizon_hours: int,
        samples: int,
        seed: int,
    ) -> NDArray[np.float64]:
        self.shown.append(frame)
        return np.stack(
            [
                self.forecast(frame[frame.index < o], city, o, horizon_hours, samples, seed).members
                for o in origins
            ]
        )


def test_the_table_has_the_columns_and_a_row_for_every_lead() -> None:
    table = backtest(CITY, FRAME, LastValue(), start=FIRST, end=LAST, samples=21)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 10 * 48 * 3
    assert check_forecasts(table, "backtest")["lead_hours"].max() == 48
    first = table[(table.origin == table.origin.min()) & (table.signal == "energy_mwh")].iloc[0]
    assert first["timestamp"] == first["origin"]
    assert first["lead_hours"] == 1
    assert first["observed"] == FRAME.loc[first["timestamp"], "energy_mwh"]
    assert first["mean"] == pytest.approx(FRAME.loc[first["origin"] - pd.Timedelta(hours=1), "energy_mwh"])
    assert first["q75"] - first["q25"] == pytest.approx(1.0)


def test_no_forecaster_sees_an_hour_at_or_after_its_origin() -> None:
    single = LastValue()
    table = backtest(CITY, FRAME, single, start=FIRST, end=LAST, samples=5)
    for history, origin in zip(single.shown, sorted(table.origin.unique()), strict=True):
        assert history.index[-1] == origin - pd.Timedelta(hours=1)
    batch = LastValueBatch()
    backtest(CITY, FRAME, batch, start=FIRST, end=LAST, samples=5)
    assert batch.shown[0].index[-1] < table.origin.max()


def test_one_batch_and_one_origin_at_a_time_give_the_same_table() -> None:
    one, other = (
        backtest(CITY, FRAME, forecaster, start=FIRST, end=LAST, samples=9)
        for forecaster in (LastValue(), LastValueBatch())
    )
    pd.testing.assert_frame_equal(one, other)


def test_leads_beyond_the_record_have_no_observation() -> None:
    end = FRAME.index[-1].to_pydatetime()
    table = backtest(CITY, FRAME, LastValue(), start=end - timedelta(days=1), end=end, samples=5)
    assert table["observed"].isna().any()
    assert table[list(QUANTILE_COLUMNS)].notna().all().all()


def test_a_signal_that_the_forecaster_does_not_know_stays_missing() -> None:
    frame = FRAME.assign(traffic_index=np.nan)
    table = backtest(CITY, frame, LastValue(), start=FIRST, end=LAST, samples=5)
    traffic = table[table.signal == "traffic_index"]
    assert traffic[["mean", "q50", "observed"]].isna().all().all()
    assert set(summarise(check_forecasts(table, "backtest")).signal) == {"pm25", "energy_mwh"}


def test_origins_stay_at_local_midnight_through_the_clock_change() -> None:
    origins = local_midnights(CITY, datetime(2024, 3, 29, tzinfo=UTC), datetime(2024, 4, 2, 12, tzinfo=UTC))
    assert [origin.astimezone(CITY.zone).hour for origin in origins] == [0] * 4
    assert [origin.hour for origin in origins] == [23, 23, 22, 22]


def test_six_hourly_origins_start_at_local_midnight() -> None:
    origins = local_midnights(CITY, START + timedelta(hours=23), START + timedelta(hours=47), 6)
    assert [origin.astimezone(CITY.zone).hour for origin in origins] == [0, 6, 12, 18]


def test_a_span_without_an_origin_is_refused() -> None:
    with pytest.raises(BadInput) as refusal:
        backtest(CITY, FRAME, LastValue(), start=FIRST, end=FIRST + timedelta(hours=3))
    assert refusal.value.field == "start"


def test_an_origin_before_the_record_is_refused() -> None:
    with pytest.raises(DataUnavailable):
        forecast_table(CITY, FRAME, LastValue(), [START - timedelta(days=3)])


def test_a_forecaster_of_another_shape_is_our_own_mistake() -> None:
    class Short(LastValue):
        def forecast(self, *arguments: object) -> Forecast:  # type: ignore[override]
            return Forecast(np.zeros((2, 3, 3)), "baseline")

    with pytest.raises(InternalContractBroken):
        backtest(CITY, FRAME, Short(), start=FIRST, end=LAST, samples=5)


@pytest.mark.parametrize("name", list(REFERENCES))
def test_a_reference_uses_nothing_at_or_after_its_origin(name: str) -> None:
    origins = local_midnights(CITY, FIRST, LAST)
    table = REFERENCES[name](CITY, FRAME, origins, 48)
    assert tuple(table.columns) == COLUMNS
    changed = FRAME.copy()
    changed.loc[changed.index >= origins[0]] *= 3.0
    other = REFERENCES[name](CITY, changed, origins, 48)
    first = table.origin == table.origin.min()
    forecast = ["mean", *QUANTILE_COLUMNS]
    pd.testing.assert_frame_equal(table.loc[first, forecast], other.loc[first, forecast])


def test_references_repeat_what_they_say_they_repeat() -> None:
    origins = local_midnights(CITY, FIRST, LAST)
    origin = pd.Timestamp(origins[0])
    hour = pd.Timedelta(hours=1)

    def mean(name: str, lead: int) -> float:
        table = REFERENCES[name](CITY, FRAME, origins, 48)
        row = table[(table.origin == origin) & (table.lead_hours == lead) & (table.signal == "energy_mwh")]
        return float(row["mean"].iloc[0])

    energy = FRAME["energy_mwh"]
    assert mean("persistence", 30) == energy[origin - hour]
    assert mean("yesterday", 1) == energy[origin - 24 * hour]
    assert mean("yesterday", 25) == energy[origin - 24 * hour]
    assert mean("last_week", 25) == energy[origin - 144 * hour]


def test_a_reference_needs_some_history_to_know_its_errors() -> None:
    with pytest.raises(DataUnavailable):
        REFERENCES["persistence"](CITY, FRAME, [START + timedelta(days=3)], 48)


def test_a_gap_in_the_record_is_bridged_by_the_season_before() -> None:
    frame = FRAME.copy()
    origins = local_midnights(CITY, FIRST, LAST)
    origin = pd.Timestamp(origins[0])
    frame.loc[origin - pd.Timedelta(hours=24), "energy_mwh"] = np.nan
    table = REFERENCES["yesterday"](CITY, frame, origins, 48)
    row = table[(table.origin == origin) & (table.lead_hours == 1) & (table.signal == "energy_mwh")]
    assert float(row["mean"].iloc[0]) == frame["energy_mwh"][origin - pd.Timedelta(hours=48)]
