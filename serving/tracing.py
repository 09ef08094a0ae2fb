"""OpenTelemetry traces: BentoML's own spans, sent only when an OTLP endpoint is set."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import structlog
from opentelemetry import trace

EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
EXPORTER_PACKAGE = "opentelemetry-exporter-otlp-proto-http"
UNTRACED = "livez,readyz,healthz,metrics"
"""Probes that ask every few seconds."""
NO_TRACES: Mapping[str, Any] = {"excluded_urls": ".*"}
"""Nothing is traced; without it BentoML still prepares a span per request, two thirds of its own time."""

log = structlog.get_logger("urbanwm.tracing")


def tracing_options(endpoint: str | None) -> dict[str, Any]:
    """Return BentoML's `tracing` options; they exclude every address while no endpoint is set.

    An endpoint without the exporter's package is a mistake that must not keep the service from answering: it
    is said in the log, and nothing is traced. The exporter finds the endpoint in the environment, and
    OpenTelemetry's other settings too.
    """
    if not endpoint:
        return dict(NO_TRACES)
    if not _importable(EXPORTER):
        log.warning(
            "traces_not_sent", why=f"the package {EXPORTER_PACKAGE} is not installed, or not all of it"
        )
        return dict(NO_TRACES)
    return {
        "exporter_type": "otlp",
        "sample_rate": 1.0,
        "excluded_urls": UNTRACED,
        "otlp": {"protocol": "http"},
    }


def _importable(module: str) -> bool:
    """Return whether a module can be imported; one that is there in part would end the service later."""
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def annotate_span(facts: Mapping[str, object]) -> None:
    """Put facts about the answer, never the caller's input, on the current span, if one is recorded."""
    span = trace.get_current_span()
    if span.is_recording():
        plain = {name: value for name, value in facts.items() if isinstance(value, (str, int, float))}
        span.set_attributes({f"urbanwm.{name}": value for name, value in plain.items()})
