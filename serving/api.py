"""The HTTP routes as one ASGI application; BentoML mounts it, and any ASGI server can run it alone."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.body import read_json_object
from serving.envelope import Unavailable, error_response, json_response
from serving.metrics import render_metrics
from serving.retrain import Retrainer
from serving.security import require_key
from serving.tracing import annotate_span
from serving.work import Checkpoint, WorkQueue
from urbanwm.errors import BadInput, UrbanWMError
from urbanwm.settings import Settings

if TYPE_CHECKING:
    # numpy, pandas and the domain come with them: the process that serves imports them in its lifespan, and
    # BentoML's parent process, which only needs the name of the service, never does.
    from serving.answers import Answer, Answers, Document

Handler = Callable[[Request], Awaitable[Response]]
Work = Callable[[Checkpoint], "Answer"]

MARKDOWN = "text/markdown"
WEB = Path(__file__).parent / "web"
STATIC_TYPES = {"css": "text/css", "js": "text/javascript", "html": "text/html"}
PAGES = {
    "/": "index.html",
    "/static/style.css": "style.css",
    "/static/app.js": "app.js",
    "/static/chart.js": "chart.js",
}
"""Every file that is served; a request chooses among these and never names a path."""
GC_THRESHOLDS = (50_000, 50, 50)
"""Rare collections: a full one over a loaded model pauses every request for about 100 ms."""


SWITCH_SECONDS = 0.0002
"""How long a computing thread may keep the event loop waiting: it waits once per packet, and Python's own
5 ms a time would add up to seconds under load."""


RETRY_SECONDS = 5
"""When to ask an unready service again."""
QUICK, SLOW = "quick", "slow"
LANE_OF = {
    "/api/simulate": QUICK,
    "/api/latent": QUICK,
    "/api/optimize": SLOW,
    "/api/explain/latent_sample": SLOW,
    "/api/cities": SLOW,
}
"""The queue that a route's work waits on: a search, or a city that is read for the first time, must not
stand before answers of a few milliseconds."""


class Api:
    """The handlers, and the parts that live as long as the server runs."""

    def __init__(self, settings: Settings, answers: Callable[[Settings], Answers] | None = None) -> None:
        """Remember how to build the parts; `lifespan` builds them, in the process that serves."""
        self._settings = settings
        self._build = answers or _build_answers
        self._answers: Answers | None = None
        self._queues: Mapping[str, WorkQueue] = {}
        self._retrainer = Retrainer(settings)
        self._pages = {path: (WEB / name).read_bytes() for path, name in PAGES.items()}

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Load what serves, freeze it for the garbage collector, and let it go at the end."""
        self._answers = await run_in_threadpool(self._build, self._settings)
        self._queues = {lane: WorkQueue(self._settings.request_timeout_seconds) for lane in (QUICK, SLOW)}
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            yield
        finally:
            for queue in self._queues.values():
                queue.close()
            self._answers.close()

    @property
    def answers(self) -> Answers:
        """The domain side; there once the server has started."""
        if self._answers is None:
            raise RuntimeError("the application was used before its lifespan began")
        return self._answers

    def admit(self, path: str) -> None:
        """Say at once, by the path alone, whether there is room for a request.

        Raises:
            Overloaded: The queue that its work would wait on is full.
        """
        lane = LANE_OF.get(path)
        if lane is not None and self._queues:
            self._queues[lane].check()

    async def _compute(
        self,
        request: Request,
        work: Work,
        *,
        lane: str,
        render: Callable[[Document], Response] = json_response,
    ) -> Response:
        """Run `work` on one of the queues and send what it returns; who answered goes to the log line.

        The response is rendered on the queue too: a week of many scenarios takes milliseconds to write down,
        which would hold up everyone else on the event loop.
        """

        def run(checkpoint: Checkpoint) -> tuple[Response, Document]:
            answer = work(checkpoint)
            return render(answer.document), answer.facts

        response, facts = await self._queues[lane].run(run, _hung_up(request))
        request.state.answered = facts
        annotate_span(facts)
        return response

    async def simulate(self, request: Request) -> Response:
        """Answer a "what if" question, as JSON or, where `Accept` prefers it, as CSV."""
        from serving.tables import wants_csv

        body = await read_json_object(request)
        render = _csv_response if wants_csv(request.headers.get("accept")) else json_response
        lane = SLOW if self.answers.is_slow(body) else QUICK
        response = await self._compute(
            request, lambda go_on: self.answers.simulate(body, go_on), lane=lane, render=render
        )
        response.headers["Vary"] = "Accept"
        return response

    async def latent(self, request: Request) -> Response:
        """Return the latent states of a simulation."""
        body = await read_json_object(request)
        lane = SLOW if self.answers.is_slow(body) else QUICK
        return await self._compute(request, lambda _: self.answers.latent(body), lane=lane)

    async def optimize(self, request: Request) -> Response:
        """Search for a policy that meets a goal."""
        body = await read_json_object(request)
        return await self._compute(request, lambda go_on: self.answers.optimize(body, go_on), lane=SLOW)

    async def latent_sample(self, request: Request) -> Response:
        """Return latent states in two dimensions."""
        unknown = set(request.query_params) - {"city"}
        if unknown:
            name = min(unknown)
            raise BadInput(f"unknown parameter '{name}'", field=name, allowed=["city"])
        city = request.query_params.get("city", "")
        if not city:
            raise BadInput("the parameter 'city' is missing", field="city", allowed=self.answers.city_names())
        return await self._compute(request, lambda _: self.answers.latent_sample(city), lane=SLOW)

    async def cities(self, request: Request) -> Response:
        """List the cities and how fresh each feed is."""
        return await self._compute(request, lambda _: self.answers.cities(), lane=SLOW)

    async def health(self, _: Request) -> Response:
        """Say who would answer now."""
        return json_response(self.answers.health())

    async def ready(self, _: Request) -> Response:
        """Say that requests can be answered and by whom, or why not; a probe's no is no refused request."""
        reason = self.answers.unready
        if reason is not None:
            return error_response(Unavailable(reason, headers={"Retry-After": str(RETRY_SECONDS)}))
        return json_response({"status": "ready", **self.answers.who()})

    async def model(self, _: Request) -> Response:
        """Describe the model in service."""
        return json_response(self.answers.model())

    async def card(self, _: Request) -> Response:
        """Return the model card of the model in service."""
        return Response(self.answers.card(), media_type=MARKDOWN)

    async def retrain(self, request: Request) -> Response:
        """Start a nightly run and return at once."""
        require_key(request.headers, self._settings.api_key)
        job = await run_in_threadpool(self._retrainer.start)
        return json_response(vars(job), status=202)

    async def openapi(self, _: Request) -> Response:
        """Return the OpenAPI document of every route."""
        from serving.openapi import openapi_document

        return json_response(openapi_document())

    async def metrics(self, _: Request) -> Response:
        """Return the Prometheus metrics."""
        return Response(await run_in_threadpool(render_metrics), media_type=CONTENT_TYPE_LATEST)

    async def page(self, request: Request) -> Response:
        """Return one of the dashboard's files."""
        kind = PAGES[request.url.path].rsplit(".", 1)[-1]
        return Response(
            self._pages[request.url.path],
            media_type=STATIC_TYPES[kind],
            headers={"Cache-Control": "no-cache"},
        )

    def _endpoint(self, path: str, handler: Handler, *, keyed: bool) -> Handler:
        """Give a handler its name in the metrics, the key check, and the error envelope."""

        async def endpoint(request: Request) -> Response:
            request.state.route = path
            try:
                if keyed:
                    require_key(request.headers, self._settings.api_key)
                return await handler(request)
            except UrbanWMError as error:
                request.state.error_type = type(error).__name__
                return error_response(error)

        return endpoint

    def routes(self) -> list[Route]:
        """Return every route."""
        api: list[tuple[str, str, Handler]] = [
            ("POST", "/api/simulate", self.simulate),
            ("POST", "/api/latent", self.latent),
            ("POST", "/api/optimize", self.optimize),
            ("POST", "/api/retrain", self.retrain),
            ("GET", "/api/explain/latent_sample", self.latent_sample),
            ("GET", "/api/health", self.health),
            ("GET", "/api/cities", self.cities),
            ("GET", "/api/model", self.model),
            ("GET", "/api/model/card", self.card),
        ]
        open_pages: list[tuple[str, str, Handler]] = [
            ("GET", "/openapi.json", self.openapi),
            ("GET", "/readyz", self.ready),
            # In place of BentoML's own, which knows nothing of mounted routes.
            ("GET", "/docs.json", self.openapi),
            # BentoML's counts every path that anybody makes up on a label of its own, without end.
            ("GET", "/metrics", self.metrics),
            *(("GET", path, self.page) for path in PAGES),
        ]
        keyed = self._settings.protect_reads
        return [
            Route(path, self._endpoint(path, handler, keyed=keyed and is_api), methods=[method])
            for is_api, group in ((True, api), (False, open_pages))
            for method, path, handler in group
        ]


def _build_answers(settings: Settings) -> Answers:
    """Import the domain and build it."""
    from serving.answers import Answers

    return Answers.from_settings(settings)


async def _hung_up(request: Request) -> None:
    """Return when the client has closed its connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _csv_response(document: Document) -> Response:
    """Return a simulation as a table."""
    from serving.tables import CSV, to_csv

    return Response(to_csv(document), media_type=CSV, headers={"Content-Disposition": "inline"})


def create_app(api: Api) -> Starlette:
    """Return the application; wrap it in `serving.security.Guard`, unless what mounts it is wrapped."""
    return Starlette(routes=api.routes(), lifespan=api.lifespan)
