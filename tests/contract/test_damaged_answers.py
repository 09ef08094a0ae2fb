"""Whatever happens to an answer on its way, a parser gives rows that hold the contract, or a named error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.answers import fixture, parse
from urbanwm.errors import InternalContractBroken, SourceError

ANSWERS = [
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


def is_named(source, body, status=200):
    try:
        parse(source, body, status=status)
    except InternalContractBroken:
        raise
    except SourceError as error:
        assert error.message
        assert error.source == source


@pytest.mark.parametrize(("source", "name"), [pair for pair in ANSWERS if pair[1].endswith(".json")])
def test_any_value_may_be_replaced_or_missing(source, name):
    text = fixture(source, name)
    for path in places(json.loads(text)):
        for odd in ODD_VALUES:
            answer = json.loads(text)
            parent = answer
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = odd
            is_named(source, answer)


@pytest.mark.parametrize(("source", "name"), ANSWERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_answer_may_be_cut_off_or_have_bytes_changed(source, name, data):
    body = fixture(source, name)
    cut = data.draw(st.integers(0, len(body)), label="cut")
    is_named(source, body[:cut], data.draw(st.sampled_from([200, 400, 404, 429, 500]), label="status"))
    place = data.draw(st.integers(0, len(body) - 1), label="place")
    is_named(source, body[:place] + data.draw(st.binary(min_size=1, max_size=3)) + body[place + 1 :])
