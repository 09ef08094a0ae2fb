"""A small typed client of the HTTP service: one method per route, retries where a retry can help."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, NotRequired, Self, TypedDict, TypeVar, cast

import requests

from urbanwm.clock import require_utc
from urbanwm.errors import UrbanWMError

Answer = TypeVar("Answer")

RETRYABLE_STATUS = frozenset({429, 502, 503})
"""Busy, or not there for the moment; a 504 is not among them: the same question would take as long again."""
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0


class Meta(TypedDict, total=False):
    """Who answered, and on what grounds."""

    served_by: Literal["world_model", "baseline"]
    model_version: str | None
    run_id: str | None
    dataset_version: str | None
    data_as_of: str | None
    degraded: bool
    reasons: list[str]
    rung: int
    assumptions: dict[str, Any]
    seed: int


class Hour(TypedDict, total=False):
    """One hour of a forecast; None where the city has no such signal."""

    hour: int
    timestamp: str
    pm25: float | None
    energy_mwh: float | None
    traffic_index: float | None
    pm25_std: float | None
    energy_std: float | None
    traffic_std: float | None
    pm25_q05: float | None
    pm25_q95: float | None
    energy_q05: float | None
    energy_q95: float | None
    traffic_q05: float | None
    traffic_q95: float | None


class ScenarioResult(TypedDict):
    """One more policy on the same forecast; `baseline` only where it differs from the answer's."""

    name: str
    policy: dict[str, Any]
    policy_effective: dict[str, Any]
    assumptions: dict[str, Any]
    simulated: list[Hour]
    effect: dict[str, Any]
    baseline: NotRequired[list[Hour]]


class SimulationAnswer(TypedDict):
    """The answer of `/api/simulate`; `scenarios` where the request named some."""

    city: str
    start: str
    horizon: int
    policy: dict[str, Any]
    simulated: list[Hour]
    baseline: list[Hour]
    effect: dict[str, Any]
    meta: Meta
    scenarios: NotRequired[list[ScenarioResult]]


class LatentAnswer(TypedDict):
    """The answer of `/api/latent`: `z` `(horizon + 1, 128)` and `h` `(horizon + 1, 256)`."""

    z: list[list[float]]
    h: list[list[float]]
    meta: Meta


class ServiceError(UrbanWMError):
    """The service refused or failed.

    Attributes:
        status: HTTP status; 0 when there was no answer at all.
        kind: The service's name of the error.
        retry_after_seconds: How long the service asks to wait; 0 when it does not say.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        status: int,
        kind: str,
        field: str | None = None,
        allowed: object = None,
        retry_after_seconds: float = 0.0,
    ) -> None:
        """Keep the service's own words."""
        super().__init__(message, field=field, allowed=allowed)
        self.status = status
        self.kind = kind
        self.retry_after_seconds = retry_after_seconds
        self.retryable = status == 0 or status in RETRYABLE_STATUS


class Client:
    """Talks to one service; a context manager that keeps its connection open.

    Args:
        base_url: Where the service is.
        api_key: Key for `retrain`, and for every route where the service protects them all.
        timeout_seconds: For one attempt.
        attempts: How often a request is tried when the service is busy or away. `retrain` is tried once.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:3000",
        *,
        api_key: str | None = None,
        timeout_seconds: float = 35.0,
        attempts: int = 4,
    ) -> None:
        """Open no connection yet."""
        self._base_url = base_url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._attempts = max(1, attempts)
        self._session = requests.Session()
        if api_key:
            self._session.headers["Authorization"] = f"Bearer {api_key}"

    def __enter__(self) -> Self:
        """Use the client as a context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._session.close()

    def simulate(
        self,
        city: str,
        *,
        horizon_hours: int = 48,
        car_free_ratio: float | None = None,
        renewable_mix: float | None = None,
        schedule: Sequence[Mapping[str, Any]] = (),
        start_time: datetime | None = None,
        initial_state: Mapping[str, float] | None = None,
        samples: int = 20,
        seed: int | None = None,
        assumptions: str | Mapping[str, Any] | None = None,
        scenarios: Sequence[Mapping[str, Any]] = (),
    ) -> SimulationAnswer:
        """Ask what a policy would change; a lever left out stays at the status quo.

        `scenarios` are further policies to lay on the same forecast, `{name?, policy, assumptions?}` each.

        Raises:
            ServiceError: The service refused, and why; or it could not be reached.
        """
        policy = {
            "car_free_ratio": car_free_ratio,
            "renewable_mix": renewable_mix,
            "schedule": list(schedule),
        }
        body = {
            "city": city,
            "horizon_hours": horizon_hours,
            "policy": {key: value for key, value in policy.items() if value not in (None, [])},
            "start_time": require_utc(start_time, "start_time").isoformat() if start_time else None,
            "initial_state": initial_state,
            "uncertainty_samples": samples,
            "seed": seed,
            "assumptions": assumptions,
            "scenarios": list(scenarios) or None,
        }
        return cast("SimulationAnswer", self.post("/api/simulate", _without_none(body)))

    def simulate_csv(self, body: Mapping[str, Any]) -> str:
        """Return a simulation as CSV text, one row per hour and scenario; `body` as for `/api/simulate`."""
        arguments = {"json": dict(body), "headers": {"Accept": "text/csv"}}
        return self._retry(lambda: self._send("POST", "/api/simulate", **arguments).text)

    def latent(self, body: Mapping[str, Any]) -> LatentAnswer:
        """Return the latent states of a simulation; `body` as for `/api/simulate`."""
        return cast("LatentAnswer", self.post("/api/latent", body))

    def optimize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Search for a policy; `body` as for `/api/optimize`."""
        return self.post("/api/optimize", body)

    def latent_sample(self, city: str) -> dict[str, Any]:
        """Return latent states in two dimensions."""
        return self._call("GET", "/api/explain/latent_sample", params={"city": city})

    def cities(self) -> list[dict[str, Any]]:
        """Return the cities and how fresh their data are."""
        return cast("list[dict[str, Any]]", self._call("GET", "/api/cities")["cities"])

    def model(self) -> dict[str, Any]:
        """Describe the model in service."""
        return self._call("GET", "/api/model")

    def health(self) -> dict[str, Any]:
        """Say who would answer now."""
        return self._call("GET", "/api/health")

    def retrain(self) -> dict[str, Any]:
        """Start a nightly run; never repeated by itself, so that one call starts one run."""
        return self._once("POST", "/api/retrain")

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send any JSON body."""
        return self._call("POST", path, json=dict(body))

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - passed on to requests
        """Ask for a JSON document, with retries."""
        return self._retry(lambda: self._once(method, path, **arguments))

    def _retry(self, ask: Callable[[], Answer]) -> Answer:
        """Try up to `attempts` times, waiting as long as the service asks or twice as long each time."""
        wait = FIRST_WAIT_SECONDS
        for remaining in range(self._attempts - 1, -1, -1):
            try:
                return ask()
            except ServiceError as error:
                if remaining == 0 or not error.retryable:
                    raise
                time.sleep(min(max(wait, error.retry_after_seconds), LONGEST_WAIT_SECONDS))
            wait *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _once(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - passed on to requests
        """Send one request and return the JSON document."""
        response = self._send(method, path, **arguments)
        document = _document(response)
        if isinstance(document, dict):
            return document
        raise _refusal(response, document)

    def _send(self, method: str, path: str, **arguments: Any) -> requests.Response:  # noqa: ANN401 - passed on to requests
        """Send one request and return a response that is no refusal."""
        try:
            response = self._session.request(
                method, self._base_url + path, timeout=self._timeout_seconds, **arguments
            )
        except requests.RequestException as failure:
            raise ServiceError(
                f"the service at {self._base_url} does not answer ({type(failure).__name__})",
                status=0,
                kind="Unreachable",
            ) from failure
        if response.ok:
            return response
        raise _refusal(response, _document(response))


def _document(response: requests.Response) -> object:
    """Return the JSON document of a response, None where it is none."""
    try:
        return cast("object", response.json())
    except requests.JSONDecodeError:
        return None


def _refusal(response: requests.Response, document: object) -> ServiceError:
    """Turn the service's error envelope into an exception."""
    told = document.get("error") if isinstance(document, dict) else None
    told = told if isinstance(told, dict) else {}
    asked = response.headers.get("Retry-After", "")
    return ServiceError(
        str(told.get("message", f"status {response.status_code} without an explanation")),
        status=response.status_code,
        kind=str(told.get("type", "Unknown")),
        field=told.get("field"),
        allowed=told.get("allowed"),
        retry_after_seconds=float(asked) if asked.isdigit() else 0.0,
    )


def _without_none(body: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what was left out."""
    return {key: value for key, value in body.items() if value is not None}
