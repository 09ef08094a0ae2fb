"""The simulated city as a source: works offline, every value is generated and labelled so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Literal

import pandas as pd
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from urbanwm.clock import floor_hour
from urbanwm.contracts.signals import SIGNALS
from urbanwm.errors import InternalContractBroken, MalformedPayload, RequestRefused
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, SourceConfig, Traits
from urbanwm.sources.http import check_status, excerpt
from urbanwm.sources.rows import parsed_rows
from urbanwm.synthetic import SyntheticUrbanDataset
from urbanwm.synthetic.parameters import PROFILES

NAME = "synthetic"
KEY = None
TRAITS = Traits(local=True, one_answer=True)
HOUR = pd.Timedelta(hours=1)

Profile = Literal["demo", "measures"]
Seed = Annotated[int, Field(ge=0, le=2**32)]


class Config(SourceConfig):
    """One simulated city.

    Attributes:
        seed: Which of the possible cities.
        profile: `demo` never tried a measure; `measures` did, in spells.
    """

    seed: Seed = 7
    profile: Profile = "demo"

    @property
    def label(self) -> str:
        """Provenance, such as `synthetic:demo-7`."""
        return f"{NAME}:{self.profile}-{self.seed}"


class _Question(BaseModel):
    """The payload: not the values but all that decides them; the archive stays small and replays exactly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: Seed
    profile: Profile
    start: AwareDatetime
    end: AwareDatetime
    timezone: str
    country: str | None = None
    subdivision: str | None = None


def fetch(ctx: FetchContext) -> Iterator[RawPayload]:
    """Answer with the question for the hours of the window that are over; nothing when none is."""
    if not isinstance(ctx.config, Config):
        raise InternalContractBroken(f"synthetic was handed a {type(ctx.config).__name__}")
    now = ctx.clock()
    end = min(ctx.window.end, floor_hour(now))
    if end <= ctx.window.start:
        return
    calendar = ctx.city.holidays
    question = _Question(
        seed=ctx.config.seed,
        profile=ctx.config.profile,
        start=ctx.window.start,
        end=end,
        timezone=ctx.city.timezone,
        country=calendar.country if calendar else None,
        subdivision=calendar.subdivision if calendar else None,
    )
    yield RawPayload(
        source=NAME,
        url=f"{NAME}:{question.profile}",
        status=200,
        headers={},
        body=question.model_dump_json().encode(),
        fetched_at=now,
    )


def parse(raw: RawPayload, ctx: ParseContext) -> Parsed:
    """Generate the hours that the payload asks for; a value counts as known when its hour is over.

    Raises:
        MalformedPayload: The payload is not such a question.
        RequestRefused: The simulated city has no such signal.
    """
    check_status(raw)
    try:
        question = _Question.model_validate(json.loads(raw.body))
    except (ValueError, RecursionError) as failure:
        reason = failure.errors()[0]["msg"] if isinstance(failure, ValidationError) else excerpt(raw.body)
        raise MalformedPayload(
            f"synthetic: not a question to the generator: {reason}", source=NAME, field="body"
        ) from failure
    frame = SyntheticUrbanDataset(question.seed, PROFILES[question.profile]).hours(
        question.start,
        question.end,
        question.timezone,
        country=question.country,
        subdivision=question.subdivision,
    )
    given = [name for name in SIGNALS if name in frame.columns]
    if ctx.signal is not None and ctx.signal not in given:
        raise RequestRefused(
            f"the simulated city has no {ctx.signal}",
            source=NAME,
            field="signal",
            value=ctx.signal,
            allowed=given,
        )
    wanted = given if ctx.signal is None else [ctx.signal]
    hours = pd.DatetimeIndex(frame.index)
    parts = [parsed_rows(hours, name, frame[name], available_at=hours + HOUR) for name in wanted]
    return Parsed(rows=pd.concat(parts, ignore_index=True), notes={"method": "simulated"})
