"""Does a source answer: one short, bounded question to each that a city needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from urbanwm.cities import City
from urbanwm.clock import Clock, floor_hour
from urbanwm.errors import InternalContractBroken, KeyMissing, NoData, UrbanWMError
from urbanwm.settings import Settings
from urbanwm.sources import source_module
from urbanwm.sources.base import FetchContext, ParseContext, SourceConfig, Window
from urbanwm.sources.http import Politeness, patience

PROBE_POLITENESS = Politeness(attempts=1, connect_seconds=3.0, read_seconds=8.0, longest_wait_seconds=2.0)
"""A person is waiting: nothing is tried twice, and a source that is silent for 8 s counts as away."""
SETTLED_DAYS = 8
"""A day this long ago has been published by every source, the reanalysis archive included."""
PROBES_AT_ONCE = 8

State = Literal["answers", "empty", "no_key", "fails"]


@dataclass(frozen=True)
class Probe:
    """What one question came to.

    Attributes:
        signal: What was asked for.
        label: Provenance label of the source entry that was asked.
        state: `answers` with values, `empty` (a valid answer without any), `no_key`, or `fails`.
        error: The named error as `UrbanWMError.envelope` gives it, None where there is none.
        seconds: How long the answer took.
    """

    signal: str
    label: str
    state: State
    error: dict[str, object] | None
    seconds: float

    @property
    def usable(self) -> bool:
        """Whether the source can be relied on; an empty day is the data's affair, not the connection's."""
        return self.state in ("answers", "empty")


def probe_city(city: City, settings: Settings, clock: Clock) -> list[Probe]:
    """Ask every source of a city, all at once; at most some ten seconds, whatever the network does.

    A live source is asked for the present hour, any other for a day of last week. A source that offers
    different things at different addresses is asked for each signal, one whose answer holds all of them once.
    """
    questions: dict[tuple[str, str], list[tuple[str, SourceConfig]]] = {}
    for signal, configs in city.signals.items():
        for config in configs:
            shared = source_module(config.source).TRAITS.one_answer
            key = (config.model_dump_json(), "" if shared else signal)
            questions.setdefault(key, []).append((signal, config))
    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        told = pool.map(lambda entries: _ask(city, entries, settings, clock), questions.values())
        return [probe for probes in told for probe in probes]


def _ask(
    city: City, entries: list[tuple[str, SourceConfig]], settings: Settings, clock: Clock
) -> list[Probe]:
    """Put one question to one source; the answer is read for each of the signals."""
    signal, config = entries[0]
    module = source_module(config.source)
    present = floor_hour(clock())
    start = present if module.TRAITS.live else present - timedelta(days=SETTLED_DAYS)
    length = timedelta(hours=1) if module.TRAITS.live else timedelta(days=1)
    context = FetchContext(city, config, signal, Window(start, start + length), settings, clock)
    place = city.location
    wanted = [
        ParseContext(config, name, city.timezone, place.latitude, place.longitude) for name, _ in entries
    ]
    found: set[str | None] = set()
    began = time.perf_counter()
    error: UrbanWMError | None = None
    try:
        with patience(PROBE_POLITENESS):
            for raw in module.fetch(context):
                found |= {reading.signal for reading in wanted if len(module.parse(raw, reading).rows)}
                if found:
                    break
    except NoData:
        pass
    except UrbanWMError as failure:
        if isinstance(failure, InternalContractBroken):
            raise
        error = failure
    seconds = time.perf_counter() - began
    envelope = None if error is None else error.envelope()["error"]
    return [Probe(name, config.label, _state(error, name in found), envelope, seconds) for name, _ in entries]


def _state(error: UrbanWMError | None, has_values: bool) -> State:
    """Return what an answer came to."""
    if error is not None:
        return "no_key" if isinstance(error, KeyMissing) else "fails"
    return "answers" if has_values else "empty"


def unserved(city: City, probes: Sequence[Probe]) -> list[str]:
    """Return the signals of a city for which no source can be relied on."""
    served = {probe.signal for probe in probes if probe.usable}
    return [signal for signal in city.signals if signal not in served]
