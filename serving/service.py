"""The BentoML service, a thin shell around `serving.api`: `bentoml serve serving.service:UrbanWM`."""

from __future__ import annotations

import bentoml

from serving.api import Api, create_app
from serving.connections import install
from serving.logs import configure_request_log
from serving.security import Guard
from serving.tracing import tracing_options
from urbanwm.settings import apply_environment, load_settings

SHUTDOWN_MARGIN_SECONDS = 20.0
"""BentoML's own timeout lies this far behind ours: it would leave the work running."""

settings = load_settings()
apply_environment(settings)
configure_request_log(settings.log_level)
install()
api = Api(settings)
app = create_app(api)


@bentoml.service(
    name="urbanwm",
    workers=1,
    traffic={"timeout": settings.request_timeout_seconds + SHUTDOWN_MARGIN_SECONDS},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    # glibc would give each thread a heap of its own, 30 MiB in all, and hand none of it back.
    envs=[{"name": "MALLOC_ARENA_MAX", "value": "2"}],
    tracing=tracing_options(settings.otlp_endpoint),
)
@bentoml.asgi_app(app, path="/")
class UrbanWM:
    """All routes live in the mounted application, whose lifespan loads the model."""


# The decorator turned the class into a bentoml.Service, which type checkers do not follow.
# BentoML's own readiness probe would win over ours, and cannot say why not.
UrbanWM.add_asgi_middleware(Guard, admit=api.admit, instead={"/readyz": app})  # type: ignore[attr-defined]
