"""A file of local times says the same hours as the UTC record it was written from, clock changes included."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from urbanwm.contracts.table_checks import PARSED, validate
from urbanwm.sources import file
from urbanwm.sources.base import ParseContext, Parsed, RawPayload
from urbanwm.sources.usual_value import HOURS_PER_WEEK, WARM_UP_WEEKS, usual_values

ZONES = st.sampled_from(
    ["Europe/Madrid", "Europe/Dublin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]
)
STARTS = st.datetimes(datetime(2015, 1, 1), datetime(2025, 12, 31)).map(  # noqa: DTZ001 - made aware on the next line
    lambda moment: moment.replace(minute=0, second=0, microsecond=0, tzinfo=UTC)
)


def parse(text: str, **options: object) -> Parsed:
    raw = RawPayload("file", "file:a.csv", 200, {}, text.encode(), datetime(2026, 1, 1, tzinfo=UTC))
    config = file.Config.model_validate({"source": "file", "path": "a.csv", **options})
    parsed = file.parse(raw, ParseContext(config, "pm25", "UTC"))
    validate(parsed.rows, PARSED)
    return parsed


def write(stamps: pd.Index, values: np.ndarray) -> str:
    return pd.DataFrame({"timestamp": stamps, "pm25": values}).to_csv(index=False)


@settings(deadline=None, max_examples=20)
@given(start=STARTS, days=st.integers(1, 250), zone=ZONES.filter(lambda name: name != "Australia/Lord_Howe"))
def test_local_stamps_round_trip_over_any_stretch_of_hours(start: datetime, days: int, zone: str) -> None:
    hours = pd.date_range(start, periods=24 * days, freq="h", unit="us")
    values = np.arange(len(hours), dtype=float)
    local = hours.tz_convert(zone)
    parsed = parse(write(local.tz_localize(None), values), timezone=zone)
    # A stretch that begins or ends inside the doubled hour holds one of its instances only.
    assert parsed.dropped["ambiguous_hour"] <= 2
    assert parsed.dropped["nonexistent_hour"] == 0
    assert len(parsed.rows) == len(hours) - parsed.dropped["ambiguous_hour"]
    found = pd.Series(parsed.rows["value"].to_numpy(), index=parsed.rows["timestamp"])
    expected = pd.Series(values, index=hours.floor("h"))
    assert (found == expected.reindex(found.index)).all()


@settings(deadline=None, max_examples=20)
@given(start=STARTS, hours=st.integers(1, 100), zone=ZONES, newest_first=st.booleans())
def test_stamps_with_an_offset_round_trip_in_any_zone_and_order(
    start: datetime, hours: int, zone: str, newest_first: bool
) -> None:
    index = pd.date_range(start, periods=hours, freq="h", unit="us")
    stamps = pd.Index([stamp.isoformat() for stamp in index.tz_convert(zone)])
    values = np.arange(hours, dtype=float)
    step = -1 if newest_first else 1
    parsed = parse(write(stamps[::step], values[::step]))
    assert not parsed.dropped
    assert parsed.rows["value"].tolist() == values.tolist()
    assert (pd.DatetimeIndex(parsed.rows["timestamp"]) == index).all()


@settings(deadline=None, max_examples=20)
@given(
    cells=st.lists(
        st.one_of(st.floats(), st.text(alphabet="0123456789.,-+eEinfaN ", max_size=6)),
        min_size=1,
        max_size=40,
    )
)
def test_every_cell_becomes_a_row_or_a_count(cells: list[object]) -> None:
    hours = pd.date_range("2026-01-01", periods=len(cells), freq="h", tz="UTC")
    stamps = pd.Index([stamp.isoformat() for stamp in hours])
    parsed = parse(write(stamps, np.array([str(cell) for cell in cells], dtype=object)))
    assert len(parsed.rows) + parsed.dropped.total() == len(cells)


@settings(deadline=None, max_examples=20)
@given(text=st.text(max_size=200), body=st.binary(max_size=100))
def test_no_content_escapes_as_an_unnamed_error(text: str, body: bytes) -> None:
    from urbanwm.errors import SourceError

    for content in (text.encode(), body, b"PAR1" + body, b"timestamp,pm25\n" + text.encode()):
        raw = RawPayload("file", "file:a.csv", 200, {}, content, datetime(2026, 1, 1, tzinfo=UTC))
        try:
            parsed = file.parse(raw, ParseContext(file.Config(source="file", path="a.csv"), "pm25", "UTC"))
        except SourceError:
            continue
        validate(parsed.rows, PARSED)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), cut_week=st.integers(WARM_UP_WEEKS + 1, 29), keep=st.floats(0.3, 1.0))
def test_a_usual_value_after_the_warm_up_never_depends_on_its_own_week_or_later(
    seed: int, cut_week: int, keep: float
) -> None:
    rng = np.random.default_rng(seed)
    hours = pd.date_range("2024-01-01", periods=30 * HOURS_PER_WEEK, freq="h", tz="UTC", unit="us")
    hours = hours[rng.random(len(hours)) < keep]
    volume = rng.uniform(1, 100, len(hours))
    week = (hours - pd.Timestamp("2024-01-01", tz="UTC")).days.to_numpy() // 7
    changed = np.where(week >= cut_week, rng.uniform(1, 100, len(hours)), volume)
    usual, warm_up = usual_values(hours, volume, "UTC")
    usual_changed, _ = usual_values(hours, changed, "UTC")
    settled = ~warm_up & (week <= cut_week)
    assert np.array_equal(usual[settled], usual_changed[settled])
    assert np.isfinite(usual).all()
    assert (usual > 0).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), factor=st.floats(0.01, 1000))
def test_the_index_does_not_depend_on_the_unit_of_the_volume(seed: int, factor: float) -> None:
    hours = pd.date_range("2024-01-01", periods=12 * HOURS_PER_WEEK, freq="h", tz="UTC", unit="us")
    volume = np.random.default_rng(seed).uniform(1, 100, len(hours))
    usual, _ = usual_values(hours, volume, "UTC")
    scaled, _ = usual_values(hours, volume * factor, "UTC")
    assert np.allclose(scaled, usual * factor, rtol=1e-12)
