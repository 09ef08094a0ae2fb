"""What every source shares: the raw answer, the parsed rows, and the question asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import pandas as pd
from pydantic import BaseModel, ConfigDict

from urbanwm.contracts.tables import empty_rows

if TYPE_CHECKING:
    from urbanwm.cities import City
    from urbanwm.clock import Clock
    from urbanwm.settings import Settings


class SourceConfig(BaseModel):
    """One entry under a city's `signals:`; every source extends it with its own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str

    @property
    def label(self) -> str:
        """Provenance as it is stored beside each value, such as `waqi:@5725`."""
        return self.source


@dataclass(frozen=True)
class RawPayload:
    """An upstream's answer exactly as received; nothing in it is secret.

    Attributes:
        source: Source name.
        url: Address without any key.
        status: HTTP status (200 for local sources).
        headers: Response headers.
        body: The bytes.
        fetched_at: When it was received, UTC.
        request: The parameters asked for, without secrets; enough for `parse`.
    """

    source: str
    url: str
    status: int
    headers: dict[str, str]
    body: bytes
    fetched_at: datetime
    request: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ParseContext:
    """What `parse` may know besides the payload; `signal` None asks for everything it holds."""

    config: SourceConfig
    signal: str | None = None
    timezone: str = "UTC"
    latitude: float | None = None
    longitude: float | None = None


@dataclass
class Parsed:
    """Rows and the account of what was left out.

    Attributes:
        rows: Columns of `contracts.tables.PARSED`: timestamp (hour start, UTC), signal, value, flags,
            available_at (NaT = known when fetched).
        dropped: Count per reason.
        next_page: Cursor of the next page, if the answer was one of several.
        notes: Facts worth keeping: attribution, AQI table, method.
        forecast_rows: Values for hours after `fetched_at`; known-ahead inputs, never observations.
    """

    rows: pd.DataFrame = field(default_factory=empty_rows)
    dropped: Counter[str] = field(default_factory=Counter)
    next_page: str | None = None
    notes: dict[str, str] = field(default_factory=dict)
    forecast_rows: pd.DataFrame = field(default_factory=empty_rows)


@dataclass(frozen=True)
class Window:
    """Half-open range of whole hours `[start, end)`, UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class FetchContext:
    """One question to one source."""

    city: City
    config: SourceConfig
    signal: str
    window: Window
    settings: Settings
    clock: Clock


@dataclass(frozen=True)
class Traits:
    """What makes a source different to ask; the default is an upstream with a queryable history.

    Attributes:
        live: It gives the present hour only, whatever window is asked for.
        local: It needs no network, so nothing is gained by asking month by month.
        whole_record: It is read whole at no cost, so corrections of any age are found.
        one_answer: One answer holds every signal, so it is fetched once for all entries that ask the same.
    """

    live: bool = False
    local: bool = False
    whole_record: bool = False
    one_answer: bool = False


class Source(Protocol):
    """The shape of a source module."""

    NAME: str
    KEY: str | None
    TRAITS: Traits
    Config: type[SourceConfig]

    def fetch(self, ctx: FetchContext) -> Iterator[RawPayload]:
        """Ask the upstream; network only, no interpretation."""
        ...

    def parse(self, raw: RawPayload, ctx: ParseContext) -> Parsed:
        """Interpret a payload; pure."""
        ...
