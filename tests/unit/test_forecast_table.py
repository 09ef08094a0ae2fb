"""Forecasts: each issue is kept, and an origin sees only what was available at it."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from tests.lake_batches import START, batch, observation
from urbanwm.errors import BadInput, InternalContractBroken
from urbanwm.lake import Commit, Forecasts, Lake

HOUR = timedelta(hours=1)
ORIGIN = START + 10 * HOUR


@pytest.fixture
def forecasts(tmp_path) -> Forecasts:
    return Forecasts(tmp_path / "forecasts")


def run(issued: float, hours: range, level: float, **options: object) -> pd.DataFrame:
    """Return one model run: issued so many hours after START, about some hours, each `level` + hour."""
    signal = {"signal": "temperature_c", "flags": "model,forecast", **options}
    return batch(*(observation(hour, level + hour, known=issued, **signal) for hour in hours))


def test_an_origin_sees_the_latest_run_before_it(forecasts):
    forecasts.add(pd.concat([run(4, range(5, 20), 100), run(9.5, range(10, 16), 200)]))
    forecasts.add(run(10.5, range(11, 20), 300))
    seen = forecasts.read_known_ahead("x", ORIGIN, 8)["temperature_c"]
    # The second run ends after six hours; the first one still speaks for the rest.
    assert seen.tolist() == [210, 211, 212, 213, 214, 215, 116, 117]
    assert seen.index[0] == pd.Timestamp(ORIGIN)
    later = forecasts.read_known_ahead("x", ORIGIN + HOUR, 3)["temperature_c"]
    assert later.tolist() == [311, 312, 313]


def test_what_was_issued_at_the_origin_itself_is_known(forecasts):
    forecasts.add(run(10, range(10, 12), 0))
    assert forecasts.read_known_ahead("x", ORIGIN, 1)["temperature_c"].tolist() == [10]
    assert forecasts.read_known_ahead("x", ORIGIN - HOUR, 3).empty


def test_every_issue_stays_readable_with_its_provenance(forecasts):
    forecasts.add(run(4, range(5, 7), 100, source="open_meteo:model"))
    forecasts.add(run(5, range(5, 7), 200, source="open_meteo:model"))
    issued = forecasts.issued("x", start=START, end=START + 9 * HOUR)
    assert issued["value"].tolist() == [105, 205, 106, 206]
    assert set(issued["source"]) == {"open_meteo:model"}
    assert set(issued["flags"]) == {"model,forecast"}
    assert len(forecasts.issued("x", start=START, end=START + 9 * HOUR, known_at=START + 4 * HOUR)) == 2


def test_a_more_trusted_source_wins_over_a_later_run(forecasts):
    forecasts.add(pd.concat([run(8, range(10, 12), 0, source="a"), run(9, range(10, 13), 50, source="b")]))
    latest = forecasts.read_known_ahead("x", ORIGIN, 3)["temperature_c"]
    trusted = forecasts.read_known_ahead("x", ORIGIN, 3, preference={"temperature_c": ["a", "b"]})
    assert latest.tolist() == [60, 61, 62]
    assert trusted["temperature_c"].tolist() == [10, 11, 62]


def test_hours_and_signals_without_a_forecast_are_missing(forecasts):
    assert forecasts.read_known_ahead("x", ORIGIN, 2, signals=["temperature_c"])["temperature_c"].isna().all()
    forecasts.add(run(9, range(11, 12), 0))
    seen = forecasts.read_known_ahead("x", ORIGIN, 3, signals=["temperature_c", "humidity_pct"])
    np.testing.assert_array_equal(seen["temperature_c"], [np.nan, 11, np.nan])
    assert seen["humidity_pct"].isna().all()
    assert forecasts.read_known_ahead("y", ORIGIN, 2).empty


def test_the_same_batch_again_makes_no_version(forecasts):
    first = forecasts.add(run(4, range(5, 20), 0))
    assert (first.inserted, first.updated, first.cities["x"].inserted) == (15, 0, 15)
    assert forecasts.add(run(4, range(5, 20), 0)) == Commit(first.version)
    assert forecasts.add(pd.concat([run(4, range(5, 9), 0)] * 2)) == Commit(first.version)
    assert forecasts.add(run(4, range(0), 0)) == Commit(first.version)


def test_forecasts_cross_month_and_year(forecasts):
    new_year = datetime(2026, 1, 1, tzinfo=START.tzinfo)
    hour = int((new_year - START) / HOUR)
    forecasts.add(run(hour - 40, range(hour - 3, hour + 3), 0))
    seen = forecasts.read_known_ahead("x", new_year - 2 * HOUR, 5)["temperature_c"]
    assert seen.tolist() == [hour + step for step in range(-2, 3)]


def test_compaction_and_vacuum_change_no_forecast(forecasts):
    for issued in range(20):
        forecasts.add(run(issued, range(issued + 1, issued + 5), issued * 100))
    before = forecasts.issued("x", start=START, end=START + 99 * HOUR)
    assert forecasts.compact(overlaps=False) == 1
    version = forecasts.version()
    assert forecasts.compact(overlaps=False) == 0
    assert forecasts.vacuum([], retention_hours=0) > 0
    assert forecasts.version() > version
    pd.testing.assert_frame_equal(forecasts.issued("x", start=START, end=START + 99 * HOUR), before)


def test_forecasts_never_reach_the_observations(forecasts, tmp_path):
    forecasts.add(run(4, range(5, 20), 0))
    assert Lake(tmp_path / "observations").version() == -1
    assert forecasts.cities() == ["x"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"origin": ORIGIN.replace(tzinfo=None)}, "origin has no time zone"),
        ({"origin": ORIGIN + timedelta(minutes=5)}, "origin is not a whole hour"),
        ({"horizon_hours": 0}, "the horizon is empty"),
        ({"signals": ["temperature"]}, "unknown signal 'temperature'"),
    ],
)
def test_bad_questions_are_named(forecasts, question, message):
    with pytest.raises(BadInput, match=message):
        forecasts.read_known_ahead("x", **{"origin": ORIGIN, "horizon_hours": 2, **question})


def test_a_batch_that_breaks_the_contract_is_refused(forecasts):
    rows = run(4, range(5, 7), 0)
    rows.loc[0, "value"] = np.nan
    with pytest.raises(InternalContractBroken):
        forecasts.add(rows)
    assert forecasts.version() == -1
