"""Property: however forecasts arrive, the table ends the same, and no origin sees what came after it."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lake_batches import START, batch, observation
from urbanwm.lake import Forecasts
from urbanwm.lake.forecasts import latest

HOUR = timedelta(hours=1)
SIGNALS = ("temperature_c", "humidity_pct")
forecast = st.builds(
    observation,
    hour=st.integers(0, 6),
    value=st.sampled_from([1.0, 2.0, 3.5]),
    city=st.sampled_from(["x", "y"]),
    signal=st.sampled_from(SIGNALS),
    source=st.sampled_from(["a", "b"]),
    known=st.sampled_from([-2, -1, 0, 1, 2.5, 4]),
    flags=st.sampled_from(["model,forecast", "forecast"]),
)
rows_of_a_batch = st.lists(forecast, min_size=1, max_size=8)


def content(table: Forecasts) -> pd.DataFrame:
    window = {"start": START - 9 * HOUR, "end": START + 99 * HOUR}
    parts = [table.issued(city, **window).assign(city=city) for city in ("x", "y")]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def written(folder: str, parts: list[list[dict[str, object]]]) -> Forecasts:
    table = Forecasts(Path(folder))
    for part in parts:
        table.add(batch(*part))
    return table


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(rows_of_a_batch, min_size=1, max_size=4), data=st.data())
def test_any_order_and_repetition_of_forecasts_gives_the_same_table(parts, data):
    repeated = [*data.draw(st.permutations(parts)), data.draw(st.sampled_from(parts))]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        at_once = written(one, [[row for part in parts for row in part]])
        pd.testing.assert_frame_equal(content(written(other, repeated)), content(at_once))


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(forecast, min_size=1, max_size=20),
    origin=st.integers(-1, 5),
    later=st.lists(forecast, min_size=1, max_size=6),
)
def test_a_forecast_that_became_available_after_the_origin_never_shows(rows, origin, later):
    moment = START + origin * HOUR
    for number, row in enumerate(later):
        row["available_at"] = moment + timedelta(seconds=1 + number)
    with tempfile.TemporaryDirectory() as folder:
        table = written(folder, [[row for row in rows if row["available_at"] <= moment] or rows])
        before = table.read_known_ahead("x", moment, 8)
        table.add(batch(*later))
        after = table.read_known_ahead("x", moment, 8)
    pd.testing.assert_frame_equal(after, before)
    assert after.index[0] == moment


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(forecast, min_size=1, max_size=30), trusted=st.sampled_from([None, ["b", "a"], ["a"]]))
def test_the_vectorised_choice_is_the_choice_by_definition(rows, trusted):
    said = batch(*rows)
    best: dict[tuple[object, object], tuple[object, ...]] = {}
    for row in said.itertuples():
        rank = 0 if trusted is None or row.source not in trusted else len(trusted) - trusted.index(row.source)
        offer = (rank, row.available_at, row.value, row.source)
        best[row.timestamp, row.signal] = max(best.get((row.timestamp, row.signal), offer), offer)
    found = latest(said, None if trusted is None else dict.fromkeys(SIGNALS, trusted))
    chosen = {
        (row.timestamp, row.signal): (row.available_at, row.value, row.source) for row in found.itertuples()
    }
    assert chosen == {key: offer[1:] for key, offer in best.items()}
