"""One night: pull the data, train what is new, let the gate decide; what is done already is skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from urbanwm.cities import nightly_city_names
from urbanwm.clock import Clock, require_utc, utc_now
from urbanwm.errors import BadInput, UrbanWMError
from urbanwm.ingest.maintain import maintain_lake
from urbanwm.last_night import LastNight, read_last_night, write_last_night
from urbanwm.lease import LeaseTaken, night_lease
from urbanwm.monitoring import Alert, MonitorReport, make_alert
from urbanwm.pipeline.data import read_night
from urbanwm.pipeline.decision import NightDecision, Promote, decide_night
from urbanwm.pipeline.intake import CityIngest, run_ingest
from urbanwm.pipeline.live_rollback import LiveRollback, rollback_if_worse
from urbanwm.pipeline.monitor import data_checks, live_days, run_monitor, store_forecasts
from urbanwm.pipeline.night_report import EXIT_HELD, NightReport, Status
from urbanwm.pipeline.progress import Progress, Stopwatch, silent
from urbanwm.pipeline.promote import run_promote
from urbanwm.registry import DATASET_TAG, Registry
from urbanwm.report import write_night_report
from urbanwm.settings import Settings
from urbanwm.spread import Spread, local_spread

EXIT_STORAGE: Final = 3
"""Exit code where the disk is full or cannot be written: as for any store that is not available."""


@dataclass(frozen=True)
class Steps:
    """The steps that an orchestrator puts its own wrappers around; what a night does is decided here.

    Attributes:
        ingest: Cities and time → what each city's ingest brought.
        spread: Runs trainings and forecasts, see `urbanwm.spread`.
        promote: Version → what became of it.
    """

    ingest: Callable[[list[str], datetime], list[CityIngest]]
    spread: Spread
    promote: Promote


@contextmanager
def local_steps(settings: Settings) -> Iterator[Steps]:
    """Give the steps as plain function calls."""
    with local_spread(settings) as spread:
        yield Steps(
            ingest=lambda names, moment: run_ingest(names, settings, lambda: moment),
            spread=spread,
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

    Ingest, training, forecasts and decision are each skipped where they are done already, so a night that
    was killed is finished by the next call, and a repeated night changes nothing. Of two nights at once the
    second leaves: status "busy", exit code 0.

    Args:
        settings: Where everything is, what is trained, the gate's margin and confidence.
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
    try:
        with night_lease(settings, clock()), nullcontext(steps) if steps else local_steps(settings) as its:
            report = _Night(settings, cities, moment, its, say).run()
            _remember(settings, report, cities, clock())
            return report
    except LeaseTaken as taken:
        sentence = f"another nightly run is at work ({taken}); this one leaves"
        return NightReport(moment, "busy", errors=[sentence])


@dataclass
class _Night:
    """One night under the lease: its steps, and what each of them brought."""

    settings: Settings
    names: list[str]
    moment: datetime
    steps: Steps
    say: Progress
    watch: Stopwatch = field(default_factory=Stopwatch)
    ingested: list[CityIngest] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    exit_code: int = 0
    rollback: LiveRollback | None = None
    held: bool = False
    decision: NightDecision = field(default_factory=NightDecision)

    def run(self) -> NightReport:
        """Run the steps, each as if it were `moment`; a step that fails does not take the report with it."""
        self.say(f"ingesting {', '.join(self.names)}")
        self._attempt("ingest", self._ingest)
        self._attempt("check", self._check)
        if not self.errors and not self.held:
            self.say("looking for something to train on")
            self._attempt("decide", self._decide)
        monitor = self._watched()
        self._attempt("tidy", self._tidy)
        return self._written(self._report(monitor), monitor)

    def _attempt(self, step: str, work: Callable[[], None]) -> None:
        """Run one step; a named failure, or a disk that cannot be written, is noted.

        Raises:
            BadInput: The settings or a city file are wrong: a person must act, and sees the field.
        """
        try:
            work()
        except BadInput:
            raise
        except UrbanWMError as error:
            self.errors.append(f"{type(error).__name__}: {error}")
            self.exit_code = error.exit_code
        except OSError as error:
            self.errors.append(f"{type(error).__name__} in step {step}: {error}")
            self.exit_code = EXIT_STORAGE
        self.watch.lap(step)

    def _ingest(self) -> None:
        self.ingested = self.steps.ingest(self.names, self.moment)

    def _check(self) -> None:
        """Look at the data before anything learns from them, and at what the champion promised."""
        dropped = {city.city: city.dropped for city in self.ingested}
        self.alerts = list(data_checks(self.settings, self.names, self.moment, dropped=dropped))
        blocking = [alert.text() for alert in self.alerts if alert.blocks]
        if blocking:
            self.held = True
            self.notes.append(f"nothing was trained on these data: {'; '.join(blocking)}")
        scores = live_days(self.settings, self.names, self.moment)
        self.rollback = rollback_if_worse(self.settings, scores)
        if self.rollback is not None:
            kind = "rolled_back" if self.rollback.done else "live_skill"
            self.alerts.append(make_alert(kind, self.rollback.reason))

    def _decide(self) -> None:
        data = read_night(self.names, self.settings, until=self.moment, clock=lambda: self.moment)
        self.decision = decide_night(
            self.settings,
            data,
            self.moment,
            spread=self.steps.spread,
            promote=self.steps.promote,
            say=self.say,
        )
        if self.decision.note:
            self.notes.append(self.decision.note)

    def _watched(self) -> MonitorReport | None:
        """Store tonight's forecasts, score what came true, and tell what is wrong, once."""
        self.say("watching what was promised")
        alerts = [*self.alerts, *(make_alert("night_failed", error) for error in self.errors)]
        found: list[MonitorReport] = []

        def watch() -> None:
            stored = store_forecasts(self.settings, self.names, self.moment)
            alerts.extend(stored.alerts)
            found.append(run_monitor(self.settings, self.names, self.moment, checks=alerts))

        self._attempt("watch", watch)
        return found[0] if found else None

    def _tidy(self) -> None:
        """Put the lake in order; what a registered model was trained on stays readable."""
        registry = Registry(self.settings)
        versions = registry.list_versions() if registry.exists else []
        noted = [item.tags.get(DATASET_TAG, "") for item in versions]
        maintain_lake(self.settings, {int(text) for text in noted if text.isdecimal()})

    def _written(self, report: NightReport, monitor: MonitorReport | None) -> NightReport:
        """Write the report with its pictures; a disk that does not take it leaves the account."""
        folder: list[str] = []

        def write() -> None:
            page = write_night_report(self.settings, report.to_dict(), monitor, self.steps.spread)
            folder.append(str(page))

        self._attempt("report", write)
        if folder:
            return replace(report, report=folder[0], seconds=self.watch.seconds)
        return replace(self._report(monitor), report=None)

    def _report(self, monitor: MonitorReport | None) -> NightReport:
        training, promotion = self.decision.training, self.decision.promotion
        changed = any(city.inserted or city.updated for city in self.ingested)
        changed = changed or bool(self.rollback and self.rollback.done)
        idle = self.decision.reused or bool(self.decision.note)
        status: Status = "nothing new" if idle and not changed else "done"
        exit_code = self.exit_code
        if self.held:
            status, exit_code = "held", exit_code or EXIT_HELD
        if self.errors:
            status = "failed"
        return NightReport(
            as_of=self.moment,
            status=status,
            ingest=self.ingested,
            candidates=training.outcomes if training else [],
            lost=training.lost if training else {},
            training=training.chosen if training else None,
            promotion=promotion,
            rollback=self.rollback.to_dict() if self.rollback else None,
            alerts=[alert.to_dict() for alert in (monitor.alerts if monitor else self.alerts)],
            notes=self.notes,
            errors=self.errors,
            seconds=self.watch.seconds,
            run_id=self.decision.run_id,
            exit_code=exit_code,
        )


def _remember(settings: Settings, report: NightReport, cities: list[str], now: datetime) -> None:
    """Record for the service that a night ended, and whether it succeeded."""
    before = read_last_night(settings)
    succeeded = report.status in ("done", "nothing new")
    champion = report.promotion.champion if report.promotion else before.champion if before else None
    if report.rollback is not None:
        champion = report.rollback["serving"]
    write_last_night(
        settings,
        LastNight(
            as_of=report.as_of,
            finished_at=now,
            status=report.status,
            cities=cities,
            champion=champion,
            decision=report.decision,
            errors=report.errors,
            succeeded_at=now if succeeded else before.succeeded_at if before else None,
        ),
    )
