"""Prometheus metrics of the service; defined once per process by being imported once.

Import this module only after `PROMETHEUS_MULTIPROC_DIR` is set: the client library decides at import how it
stores its values.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

LATENCY_BUCKETS_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

REQUEST_SECONDS = Histogram(
    "urbanwm_request_seconds",
    "Time from the request's first byte to the answer's last, seconds",
    ["route", "method", "status"],
    buckets=LATENCY_BUCKETS_SECONDS,
)
ANSWERS = Counter(
    "urbanwm_answers_total",
    "Answers by city, rung of the degradation ladder (0 = all well), who answered and model version",
    ["city", "rung", "served_by", "model_version"],
)
REFUSALS = Counter("urbanwm_refusals_total", "Requests refused, by the type of the error", ["type"])
DATA_AGE_HOURS = Gauge(
    "urbanwm_data_age_hours",
    "Hours between now and the newest observed hour of a city, by signal",
    ["city", "signal"],
    multiprocess_mode="mostrecent",
)
LAST_NIGHT = Gauge(
    "urbanwm_last_successful_night_timestamp_seconds",
    "When a nightly run last ended without an error, seconds since 1970; 0 while none is known",
    multiprocess_mode="mostrecent",
)
SWAPS = Counter("urbanwm_champion_swaps_total", "Champions taken into service by this process")
BUNDLES_REFUSED = Counter(
    "urbanwm_champion_refusals_total", "Bundles that could not be loaded or failed their smoke test"
)
POLL_FAILURES = Counter("urbanwm_registry_poll_failures_total", "Polls that found the registry out of reach")
WATCH_FAILURES = Counter("urbanwm_lake_watch_failures_total", "Looks for new data that failed unexpectedly")


def render_metrics() -> bytes:
    """Return every metric in Prometheus' text format, those of all worker processes together."""
    try:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    except ValueError:
        # One process without a shared folder: not under BentoML.
        registry = REGISTRY
    return generate_latest(registry)
