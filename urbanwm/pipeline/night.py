"""One night: pull the data, train what is new, let the gate decide; what is done already is skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from filelock import FileLock, Timeout

from urbanwm.cities import load_city, nightly_city_names
from urbanwm.clock import Clock, require_utc, utc_now
from urbanwm.errors import BadInput, DataUnavailable, LakeConflict, SourceError, UrbanWMError
from urbanwm.ingest import ingest_city
from urbanwm.pipeline.progress import Progress, Stopwatch, silent
from urbanwm.pipeline.promote import PromotionOutcome, run_promote
from urbanwm.pipeline.train import TrainOutcome, run_train
from urbanwm.settings import Settings

HEADLINE_SCORES: Final = ("/mae", "/all")
"""Scores that a report shows; the run has them all, by lead."""
Status = Literal["done", "nothing new", "failed", "busy"]


@dataclass(frozen=True)
class CityIngest:
    """What the night's ingest brought for one city.

    Attributes:
        city: Its name.
        inserted: New rows.
        updated: Corrected rows.
        version: Lake version afterwards; None where the ingest failed as a whole.
        errors: One sentence per source that failed; the others went on.
        retryable: Whether one of the failures can be over at the next attempt.
    """

    city: str
    inserted: int = 0
    updated: int = 0
    version: int | None = None
    errors: list[str] = field(default_factory=list)
    retryable: bool = False


@dataclass(frozen=True)
class NightReport:
    """One night in one document.

    Attributes:
        as_of: The time for which it ran, UTC.
        status: "done"; "nothing new": all of it had been done before; "failed"; "busy": another run works.
        ingest: Per city.
        training: The candidate, or None.
        promotion: What became of it, or None.
        errors: What went wrong, one sentence each.
        seconds: Wall time by step.
        exit_code: 0, or that of the error that ended the night.
    """

    as_of: datetime
    status: Status
    ingest: list[CityIngest] = field(default_factory=list)
    training: TrainOutcome | None = None
    promotion: PromotionOutcome | None = None
    errors: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"as_of": self.as_of.isoformat()}

    def text(self) -> str:
        """Return the report for a terminal."""
        lines = [f"night of {self.as_of:%Y-%m-%d %H:%M} UTC: {self.status}"]
        for city in self.ingest:
            lines.append(f"  {city.city}: {city.inserted} rows new, {city.updated} corrected")
            lines += [f"    failed: {error}" for error in city.errors]
        if self.training is not None:
            how = "already trained" if self.training.reused else "trained"
            lines.append(f"  model version {self.training.version} ({self.training.experiment}): {how}")
            lines += [
                f"    {name}: {value:.4g}"
                for name, value in sorted(self.training.metrics.items())
                if name.endswith(HEADLINE_SCORES)
            ]
        if self.promotion is not None:
            verdict = "in service" if self.promotion.promoted else "refused"
            lines.append(f"  gate: version {self.promotion.version} {verdict}")
            lines += [f"    {reason}" for reason in self.promotion.reasons]
        lines += [f"  error: {error}" for error in self.errors]
        if self.seconds:
            lines.append(
                "  " + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in self.seconds.items())
            )
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the report as Markdown, as the orchestrator shows it."""
        head = f"## Night of {self.as_of:%Y-%m-%d}: {self.status}"
        rows = [
            f"| {c.city} | {c.inserted} | {c.updated} | {'; '.join(c.errors) or '-'} |" for c in self.ingest
        ]
        table = ["| city | new rows | corrected | failed sources |", "|---|---|---|---|", *rows]
        body = "\n".join(line.strip() for line in self.text().splitlines()[1:])
        return "\n".join([head, "", *table, "", "```", body, "```"])


def ingest_one(name: str, settings: Settings, clock: Clock = utc_now) -> CityIngest:
    """Ingest one city; an upstream's failure is part of the answer.

    Raises:
        BadInput: The city is unknown or its file is wrong.
    """
    city = load_city(name, settings)
    try:
        report = ingest_city(city, settings, clock=clock)
    except (SourceError, DataUnavailable, LakeConflict) as error:
        return CityIngest(city.name, errors=[f"{type(error).__name__}: {error}"], retryable=error.retryable)
    errors = [f"{item['source']} for {item['signal']}: {item['message']}" for item in report.errors]
    retryable = any(item["retryable"] for item in report.errors)
    return CityIngest(city.name, report.inserted, report.updated, report.version, errors, retryable)


def run_ingest(names: Sequence[str], settings: Settings, clock: Clock = utc_now) -> list[CityIngest]:
    """Ingest each city; one that fails is reported and the others go on."""
    return [ingest_one(name, settings, clock) for name in names]


@dataclass(frozen=True)
class Steps:
    """The steps of a night. An orchestrator puts its own wrappers of the same functions in their place.

    Attributes:
        ingest: Cities and time → what each city's ingest brought.
        train: Cities and time → the candidate.
        promote: Version → what became of it.
    """

    ingest: Callable[[list[str], datetime], list[CityIngest]]
    train: Callable[[list[str], datetime], TrainOutcome]
    promote: Callable[[str], PromotionOutcome]


def local_steps(settings: Settings, say: Progress = silent) -> Steps:
    """Return the steps as plain function calls."""
    return Steps(
        ingest=lambda names, moment: run_ingest(names, settings, lambda: moment),
        train=lambda names, moment: run_train(
            names, settings, until=moment, steps=settings.training_steps, clock=lambda: moment, say=say
        ),
        promote=lambda version: run_promote(settings, version=version),
    )


def run_nightly(
    settings: Settings,
    names: Sequence[str] | None = None,
    *,
    as_of: datetime | None = None,
    clock: Clock = utc_now,
    say: Progress = silent,
    steps: Steps | None = None,
) -> NightReport:
    """Run one night.

    Ingest, training and decision are each skipped where they are done already, so a night that was killed is
    finished by the next call, and a repeated night changes nothing. Of two nights at once the second leaves.

    Args:
        settings: Where everything is, which experiment, the gate's margin and confidence.
        names: Cities; None: the nightly cities of the settings.
        as_of: Run as if it were this time; None: now.
        clock: What time it is.
        say: Told each step as it begins.
        steps: The steps themselves; None: plain function calls.

    Returns:
        The report; failures of the data, the training or the registry are its `errors`, with status "failed".

    Raises:
        BadInput: An unknown city, a wrong city file, or an `as_of` without a time zone.
    """
    moment = clock() if as_of is None else require_utc(as_of, "as_of")
    cities = list(names or nightly_city_names(settings))
    settings.locks_dir.mkdir(parents=True, exist_ok=True)
    # The system frees a file lock when its process dies, so a killed night never blocks the next one.
    lease = FileLock(settings.locks_dir / "nightly.lock")
    try:
        with lease.acquire(blocking=False):
            return _night(cities, moment, steps or local_steps(settings, say), say)
    except Timeout:
        return NightReport(moment, "busy", errors=["another nightly run is at work; this one leaves"])


def _night(names: list[str], moment: datetime, steps: Steps, say: Progress) -> NightReport:
    """Run the steps under the lease, each as if it were `moment`."""
    watch = Stopwatch()
    errors: list[str] = []
    exit_code = 0
    training: TrainOutcome | None = None
    promotion: PromotionOutcome | None = None
    say(f"ingesting {', '.join(names)}")
    ingested = steps.ingest(names, moment)
    watch.lap("ingest")
    try:
        say("looking for something to train on")
        training = steps.train(names, moment)
        watch.lap("train")
        say(f"judging version {training.version}")
        promotion = steps.promote(training.version)
        watch.lap("gate")
    except BadInput:
        raise
    except UrbanWMError as error:
        errors.append(f"{type(error).__name__}: {error}")
        exit_code = error.exit_code
    changed = any(city.inserted or city.updated for city in ingested)
    repeated = training is not None and training.reused and promotion is not None and promotion.reused
    status: Status = "failed" if errors else "nothing new" if repeated and not changed else "done"
    return NightReport(moment, status, ingested, training, promotion, errors, watch.seconds, exit_code)
