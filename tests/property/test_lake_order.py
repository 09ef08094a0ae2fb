"""Property: however batches are cut, repeated, re-ordered or interleaved, the lake ends the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lake_batches import batch, observation
from urbanwm.ingest.availability import settle
from urbanwm.lake import Lake
from urbanwm.lake.offers import Offers
from urbanwm.lake.winners import resolve

PREFERENCE = {
    ("x", "pm25"): ["a", "b"],
    ("y", "pm25"): ["b", "a", "c"],
    ("x", "no2"): ["c"],
}
observations = st.builds(
    observation,
    hour=st.integers(0, 3),
    value=st.sampled_from([0.0, 1.0, 2.5]),
    city=st.sampled_from(["x", "y"]),
    signal=st.sampled_from(["pm25", "no2"]),
    source=st.sampled_from(["a", "b", "c"]),
    known=st.sampled_from([10, 11, 12]),
    flags=st.sampled_from(["", "flatline", "citizen_sensor"]),
)
batches = st.lists(st.lists(observations, min_size=1, max_size=6), min_size=1, max_size=4)


def content(lake: Lake) -> pd.DataFrame:
    parts = [lake.read_provenance(city).assign(city=city) for city in lake.cities()]
    return pd.concat(parts, ignore_index=True)


def written(parts: list[list[dict[str, object]]]) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        for part in parts:
            lake.upsert(batch(*part), PREFERENCE)
        return content(lake)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=batches, data=st.data())
def test_any_order_and_repetition_of_batches_gives_the_same_lake(parts, data):
    shuffled = data.draw(st.permutations(parts))
    repeated = [*shuffled, data.draw(st.sampled_from(parts))]
    single = [[row for part in parts for row in part]]
    expected = written(single)
    pd.testing.assert_frame_equal(written(repeated), expected)


def _winners(rows: list[dict[str, object]]) -> dict[tuple[object, ...], tuple[object, ...]]:
    """Return the winners by the definition, one comparison at a time."""
    best: dict[tuple[object, ...], tuple[object, ...]] = {}
    for row in rows:
        key = (row["city"], row["timestamp"], row["signal"])
        order = PREFERENCE.get((str(row["city"]), str(row["signal"])))
        rank = (
            0
            if order is None
            else (len(order) - order.index(row["source"]) if row["source"] in order else -1)
        )
        offer = (rank, row["available_at"], row["value"], row["source"], row["flags"])
        best[key] = max(best.get(key, offer), offer)
    return best


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(observations, min_size=1, max_size=30))
def test_the_vectorised_winner_is_the_winner_by_definition(rows):
    empty = {"city": [], "timestamp": [], "flags": []}
    wide = resolve(Offers.of(batch(*rows)), _typed(empty), PREFERENCE).rows.to_pandas()
    expected = _winners(rows)
    found = {
        (row["city"], row["timestamp"].to_pydatetime(), signal): (
            row[f"{signal}_available_at"].to_pydatetime(),
            row[signal],
            row[f"{signal}_source"],
        )
        for _, row in wide.iterrows()
        for signal in ("pm25", "no2")
        if signal in wide and pd.notna(row[signal])
    }
    assert found == {key: offer[1:4] for key, offer in expected.items()}


def _typed(columns: dict[str, list[object]]):
    import pyarrow as pa

    types = {"city": pa.string(), "timestamp": pa.timestamp("us", "UTC"), "flags": pa.string()}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


said = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([1.0, 2.0, 3.0])), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(words=said, cut=st.integers(0, 12))
def test_a_source_heard_in_two_parts_or_at_once_says_the_same(words, cut):
    """What the lake holds after two fetches equals what the raw archive gives in one go."""
    rows = batch(*(observation(hour, value, known=100) for hour, value in words))
    rows["fetched_at"] = rows["available_at"] + pd.to_timedelta(range(len(rows)), unit="h").as_unit("us")
    rows["available_at"] = pd.Series(pd.NaT, rows.index, rows["fetched_at"].dtype)
    rows = rows[["timestamp", "signal", "value", "flags", "available_at", "fetched_at"]]
    at_once = settle(rows, rows.iloc[:0])
    cut = min(cut, len(rows))
    early = settle(rows.iloc[:cut], rows.iloc[:0]) if cut else rows.iloc[:0]
    late = settle(rows.iloc[cut:], early) if cut < len(rows) else rows.iloc[:0]
    key = ["timestamp", "signal"]
    union = pd.concat([early, late], ignore_index=True).drop_duplicates(key, keep="last")
    columns = [*key, "value", "available_at"]
    pd.testing.assert_frame_equal(
        union[columns].sort_values(key, ignore_index=True),
        at_once[columns].sort_values(key, ignore_index=True),
    )
