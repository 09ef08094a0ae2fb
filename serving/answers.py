"""What each route answers, as plain functions of a request body; knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

import urbanwm
from serving.alarms import Alarms
from serving.catalogue import describe_city, publish_ages
from serving.champion import ChampionHolder, Standing
from serving.comparison import View, compare
from serving.envelope import NotFound, Unavailable
from serving.examination import Examiner
from serving.history import Histories, Snapshot
from serving.ladder import Footing, choose, settle
from serving.latents import sample_points
from serving.metrics import ANSWERS
from serving.outlooks import ForecastMemory, RememberingForecaster
from serving.present import lag_of, move_back, sentence
from serving.requests import SimulationRequest, check_years
from serving.watch import Watch
from serving.work import Checkpoint
from urbanwm.baseline import BaselineForecaster
from urbanwm.cities import City, find_city, load_cities
from urbanwm.clock import Clock, floor_hour, require_utc, utc_now
from urbanwm.contracts.scenario import Policy, Scenario, parse_strict
from urbanwm.contracts.signals import HORIZON_HOURS_MAX
from urbanwm.evaluation.stamps import Stamps
from urbanwm.last_night import LastNight, read_last_night
from urbanwm.planner import PlanRequest, go_on, optimise
from urbanwm.registry import ChampionCache, DirectRegistry, Registry
from urbanwm.response import to_response
from urbanwm.settings import Settings
from urbanwm.simulator import Outlook, look_ahead, respond
from urbanwm.stores import records_of

Document = dict[str, Any]
LOOK_SECONDS = 3.0
"""How often the lake's version is asked for: 5 ms on a local disk, more on an object store."""
SCENARIOS_QUICK = 4
"""Beside the first; each takes a few milliseconds more."""
STARTING = "the model registry has not had its time to answer yet"
NO_DATA = "no city has data to answer from: neither the lake nor this service's memory holds a row"
NO_WORLD_MODEL = "no world model can answer, and the baseline has no latent states"


@dataclass(frozen=True)
class Answer:
    """A JSON-ready document, and the facts about it that belong into the log line."""

    document: Document
    facts: Document


class Answers:
    """Holds cities, data and the model in service; one per process, safe to use from several threads."""

    def __init__(
        self,
        cities: Mapping[str, City],
        histories: Histories,
        holder: ChampionHolder,
        clock: Clock = utc_now,
        read_night: Callable[[], LastNight | None] = lambda: None,
    ) -> None:
        """Take the parts; `holder` has been started, `read_night` reads the record of the last night."""
        self._cities = cities
        self._histories = histories
        self._holder = holder
        self._clock = clock
        self._baseline = BaselineForecaster()
        self._memory = ForecastMemory()
        self._alarms = Alarms(read_night, clock)
        self._watch = Watch("urbanwm-lake", LOOK_SECONDS, self.look)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Load the cities, open the lake and start looking for a champion.

        Raises:
            BadInput: A city file is wrong: better no service than one without that city.
        """
        cities = load_cities(settings)
        histories = Histories(records_of(settings), utc_now)
        cache = ChampionCache(settings.cache_dir, DirectRegistry(Registry(settings)))
        examiner = Examiner(cities, histories, stamps=Stamps(settings.cache_dir))
        holder = ChampionHolder(cache, settings.poll_seconds, examine=examiner)
        holder.start()
        answers = cls(cities, histories, holder, read_night=partial(read_last_night, settings))
        answers.start()
        return answers

    def start(self) -> None:
        """Begin to look for new data."""
        self._watch.start()

    def close(self) -> None:
        """Stop looking and polling."""
        self._watch.stop()
        self._holder.stop()

    def look(self) -> None:
        """Take up new data, publish how old each feed is, and notice what is overdue."""
        self._histories.refresh(self._cities.values())
        ages = {}
        for city in self._cities.values():
            snapshot = self._histories.snapshot(city)
            if snapshot.data_end is not None:
                ages[city.name] = publish_ages(city, snapshot, self._histories.now(city, snapshot))
        self._alarms.look(ages)

    @property
    def unready(self) -> str | None:
        """Why nothing can be answered, or None; a missing model is no reason, missing data are."""
        if not self._holder.settled:
            return STARTING
        return None if self._histories.has_rows else NO_DATA

    def who(self) -> Document:
        """Return who would answer, in the terms of `meta`."""
        return _who(self._holder.standing)

    def city_names(self) -> list[str]:
        """Return the names of the cities."""
        return sorted(self._cities)

    def is_slow(self, body: Document) -> bool:
        """Return whether a simulation, its body not yet checked, may take much longer than others.

        Many scenarios do, and so does a city whose rows must be fetched first.
        """
        scenarios = body.get("scenarios")
        many = isinstance(scenarios, list) and len(scenarios) > SCENARIOS_QUICK
        return many or not self._histories.holds(body.get("city"))

    def simulate(self, body: Document, checkpoint: Checkpoint = go_on) -> Answer:
        """Answer `POST /api/simulate`; `checkpoint` is called before every further scenario.

        Raises:
            BadInput: The body is refused; the field is named.
            DataUnavailable: There is nothing to answer from (rung 5).
        """
        request = parse_strict(SimulationRequest, body)
        view = self._look_ahead(request)
        document = to_response(respond(view.outlook, view.scenario.policy, view.provenance))
        if request.scenarios:
            document["scenarios"] = []
        for number, variant in enumerate(request.scenarios):
            checkpoint()
            document["scenarios"].append(compare(view, variant, number))
        return _answer(document)

    def latent(self, body: Document) -> Answer:
        """Answer `POST /api/latent`: the states behind the first member.

        Raises:
            Unavailable: The baseline would answer, which has no latent states; none are invented.
        """
        view = self._look_ahead(parse_strict(Scenario, body))
        simulation = respond(view.outlook, view.scenario.policy, view.provenance)
        if simulation.latents is None:
            raise Unavailable(_because(NO_WORLD_MODEL, simulation.meta["reasons"]))
        z, h = simulation.latents
        return _answer({"z": z, "h": h, "meta": simulation.meta})

    def latent_sample(self, city_name: str) -> Answer:
        """Answer `GET /api/explain/latent_sample`: a week of imagined states in two dimensions.

        Raises:
            UnknownCity: No such city.
            Unavailable: No world model.
        """
        scenario = parse_strict(Scenario, {"city": city_name, "horizon_hours": HORIZON_HOURS_MAX})
        view = self._look_ahead(scenario)
        simulation = respond(view.outlook, Policy(), view.provenance)
        if simulation.latents is None:
            raise Unavailable(_because(NO_WORLD_MODEL, simulation.meta["reasons"]))
        points = sample_points(simulation, view.outlook.city)
        return _answer({"points": points, "meta": simulation.meta})

    def optimize(self, body: Document, checkpoint: Checkpoint = go_on) -> Answer:
        """Answer `POST /api/optimize`: the policy that best meets the goal, among those that were tried."""
        request = parse_strict(PlanRequest, body)
        view = self._look_ahead(request.scenario())
        outlook = view.outlook
        found = optimise(
            request.model_copy(update={"start_time": outlook.start}),
            outlook.city,
            outlook.history,
            view.forecaster,
            now=view.now,
            provenance=view.provenance,
            checkpoint=checkpoint,
        )
        return _answer(found)

    def cities(self) -> Answer:
        """Answer `GET /api/cities`: what is known of each city, and how fresh."""
        described = []
        for _, city in sorted(self._cities.items()):
            snapshot = self._histories.snapshot(city)
            described.append(describe_city(city, snapshot, self._histories.now(city, snapshot)))
        return Answer({"cities": described}, {})

    def health(self) -> Document:
        """Answer `GET /api/health`: who would answer now."""
        standing = self._holder.standing
        degraded = bool(standing.reasons)
        return {
            "status": "degraded" if degraded else "ok",
            "service": "urbanwm",
            "version": urbanwm.__version__,
            **_who(standing),
            "degraded": degraded,
            "reasons": list(standing.reasons),
            "cities": self.city_names(),
            **self._alarms.describe(),
        }

    def model(self) -> Document:
        """Answer `GET /api/model`: the model in service, its run and its scores."""
        standing = self._holder.standing
        champion = standing.champion
        return {
            **_who(standing),
            "run_id": champion.run_id if champion else None,
            "dataset_version": champion.dataset_version if champion else None,
            "digest": champion.digest if champion else None,
            "experiment": champion.experiment if champion else None,
            "trained_on": list(champion.cities) if champion else [],
            "scores": champion.metrics if champion else {},
            "previous_version": standing.previous.version if standing.previous else None,
            "confirmed_by_registry": standing.confirmed,
            "reasons": list(standing.reasons),
        }

    def card(self) -> str:
        """Answer `GET /api/model/card`: the model card of the model in service, Markdown.

        Raises:
            NotFound: The baseline answers, or the model was registered without a card.
        """
        champion = self._holder.standing.champion
        if champion is None or champion.card is None:
            raise NotFound("there is no model card", allowed="a model that was judged by a nightly run")
        return champion.card

    def _look_ahead(self, scenario: Scenario) -> View:
        """Forecast the status quo with the best that is left, and return what must be said about it."""
        city = find_city(scenario.city, self._cities)
        check_years(scenario)
        snapshot = self._histories.snapshot(city)
        now = self._histories.now(city, snapshot)
        start = floor_hour(require_utc(scenario.start_time or now, "start_time"))
        lag = lag_of(city, start, now, self._clock())
        moved = (sentence(city, start, now),) if lag else ()
        scenario, start = move_back(scenario, start, lag), start - lag
        footing = choose(snapshot, self._holder.standing, start, has_state=scenario.initial_state is not None)
        forecaster = RememberingForecaster(
            footing.champion.forecaster if footing.champion else self._baseline,
            self._memory,
            (footing.champion.digest if footing.champion else None, city.name, snapshot.serial),
        )
        outlook = look_ahead(scenario, city, snapshot.frame, forecaster, now=now)
        footing = settle(footing, outlook.forecast, lacked_data=forecaster.lacked_data)
        self._count(city, footing, outlook)
        footing = replace(footing, reasons=(*moved, *footing.reasons))
        provenance = _provenance(footing, snapshot, outlook.start)
        return View(scenario, outlook, forecaster, now, provenance, lag)

    def _count(self, city: City, footing: Footing, outlook: Outlook) -> None:
        """Count an answer by who gave it."""
        version = footing.champion.version if footing.champion else "none"
        ANSWERS.labels(city.name, str(footing.rung), outlook.forecast.served_by, version).inc()


def _who(standing: Standing) -> Document:
    """Return who serves in the terms of `meta`."""
    champion = standing.champion
    return {
        "served_by": "world_model" if champion else "baseline",
        "model_version": champion.version if champion else None,
    }


def _provenance(footing: Footing, snapshot: Snapshot, start: datetime) -> Document:
    """Return what the service adds to an answer's `meta`.

    `generated_at` (epoch seconds) is the first simulated hour and not the wall clock: the same question to
    the same data and model has the same bytes.
    """
    champion = footing.champion
    lake_version = None if snapshot.version is None else str(snapshot.version)
    who = f"world model version {champion.version}" if champion else "deterministic baseline"
    return {
        "model_version": champion.version if champion else None,
        "run_id": champion.run_id if champion else None,
        "dataset_version": lake_version,
        "trained_on_dataset_version": champion.dataset_version if champion else None,
        "rung": footing.rung,
        "degraded": footing.degraded,
        "reasons": list(footing.reasons),
        "generated_at": int(start.astimezone(UTC).timestamp()),
        "note": f"Forecast by the {who}; the policy's effect is assumed, not estimated: see assumptions.",
    }


def _because(sentence: str, reasons: list[str]) -> str:
    """Return a sentence with its reasons."""
    return ": ".join([sentence, "; ".join(reasons)]) if reasons else sentence


def _answer(document: Document) -> Answer:
    """Return a document with the facts of its `meta` that its log line carries."""
    meta = document.get("meta", {})
    facts = {key: meta[key] for key in ("served_by", "model_version", "rung") if key in meta}
    return Answer(document, facts)
