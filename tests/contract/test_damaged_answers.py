"""Whatever happens to an answer on its way, a parser gives rows that hold the contract, or a named error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.answers import fixture, parse
from urbanwm.errors import SourceError

ANSWERS = [
    ("waqi", "feed_fresh.json"),
    ("open_meteo", "weather_imperial_local.json"),
    ("open_meteo", "air_quality_gmt.json"),
    ("openaq", "hours.json"),
    ("openaq", "locations.json"),
    ("openaq", "archive_quarter_hours.csv"),
    ("eia", "mixed_types.json"),
    ("eia", "fuel_mix.json"),
    ("entsoe", "load_quarter_hours_A03.xml"),
    ("entsoe", "generation_A75.xml"),
    ("energy_charts", "public_power.json"),
    ("carbon_intensity", "national_generation.json"),
    ("carbon_intensity", "national_intensity.json"),
    ("tomtom", "segment.json"),
]
ODD_VALUES = [
    None,
    True,
    "",
    "-",
    "NaN",
    "x",
    -1,
    0,
    1e308,
    10**40,
    [],
    {},
    [None],
    {"utc": 5},
    "0001-01-01T00:00Z",
]


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON document."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def outcome(source: str, body: Any, status: int = 200) -> str:
    """Return the name of the error that an answer leads to, or `rows`; anything unnamed is raised."""
    try:
        parse(source, body, status=status, check=False)
    except SourceError as error:
        return type(error).__name__ if error.message and error.source == source else "anonymous"
    return "rows"


def replaced(answer: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a JSON document with one value replaced."""
    copy = json.loads(json.dumps(answer))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return copy


@pytest.mark.parametrize(("source", "name"), [pair for pair in ANSWERS if pair[1].endswith(".json")])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_value_may_be_replaced(source, name, data):
    answer = json.loads(fixture(source, name))
    path = data.draw(st.sampled_from(list(places(answer))), label="path")
    odd = data.draw(st.sampled_from(ODD_VALUES), label="value")
    assert outcome(source, replaced(answer, path, odd)) != "anonymous"


@pytest.mark.parametrize(("source", "name"), ANSWERS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_answer_may_be_cut_off_or_have_bytes_changed(source, name, data):
    body = fixture(source, name)
    cut = data.draw(st.integers(0, len(body)), label="cut")
    status = data.draw(st.sampled_from([200, 400, 404, 429, 500]), label="status")
    assert outcome(source, body[:cut], status) != "anonymous"
    place = data.draw(st.integers(0, len(body) - 1), label="place")
    damage = data.draw(st.binary(min_size=1, max_size=3), label="damage")
    assert outcome(source, body[:place] + damage + body[place + 1 :]) != "anonymous"
