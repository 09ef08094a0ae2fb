"""The OpenAPI 3.1 document of every route, request schemas taken from the types that validate them."""

from __future__ import annotations

from functools import lru_cache

from pydantic import BaseModel

import urbanwm
from serving.body import BODY_LIMIT_BYTES
from serving.requests import SCENARIOS_MAX, SimulationRequest
from serving.schemas import REF, Schema, ref, response_schemas
from serving.tables import COLUMNS, CSV
from urbanwm.contracts.scenario import Scenario
from urbanwm.planner import PlanRequest

EXAMPLE = {
    "city": "demo",
    "horizon_hours": 48,
    "policy": {"car_free_ratio": 0.3, "renewable_mix": 0.5},
    "uncertainty_samples": 20,
}
SIMULATE_EXAMPLES = {
    "one policy": EXAMPLE,
    "several scenarios on one forecast": {
        **EXAMPLE,
        "scenarios": [
            {"name": "fewer cars", "policy": {"car_free_ratio": 0.5}},
            {
                "name": "rush hours only",
                "policy": {
                    "schedule": [{"hours": [7, 8, 16, 17], "weekdays": [0, 1, 2, 3, 4], "car_free_ratio": 1}]
                },
            },
            {"name": "other assumptions", "policy": {"car_free_ratio": 0.5}, "assumptions": "reference"},
        ],
    },
    "the caller's own present": {
        "city": "demo",
        "initial_state": {"pm25": 35.0, "energy_mwh": 1200.0, "traffic_index": 1.1},
    },
    "a client of the earlier implementation": {
        "city": "demo",
        "horizon_hours": 48,
        "policy": {
            "car_free_ratio": 0.2,
            "renewable_mix": 0.4,
            "dynamic_pricing": True,
            "stricter_car_bans": False,
            "gdp_activity_index": 1.0,
            "commercial_load_factor": 1.0,
        },
    },
}
LATENT_EXAMPLES = {
    "a day": {"city": "demo", "horizon_hours": 24, "policy": {"car_free_ratio": 0.3}},
}
PLAN_EXAMPLES = {
    "weights": {"city": "demo", "horizon_hours": 48, "weights": {"pm25": 1, "energy": 0.2, "traffic": 0.2}},
    "a target": {"city": "demo", "horizon_hours": 48, "pm25_target": 15.0, "eval_budget": 16},
}
SIMULATE_DESCRIPTION = f"""The answer holds the policy (`simulated`) beside the status quo (`baseline`).

`scenarios` (at most {SCENARIOS_MAX}) lays further policies on the same forecast with the same random numbers.

For a recorded or simulated city a `start_time` beyond the reach of its data means "now": the simulation
then starts at the city's own present; `start` says where, `meta.reasons` why. Times in a schedule move along.

With `Accept: text/csv` the answer is a table, one row per hour and scenario:

""" + "\n".join(f"- `{name}`: {meaning}" for name, meaning in COLUMNS.items())


def _request_schemas(*models: type[BaseModel]) -> Schema:
    """Return the pydantic schemas with their nested definitions beside them."""
    found: Schema = {}
    for model in models:
        schema = model.model_json_schema(ref_template=REF + "{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found


def _answers(statuses: list[int], ok: Schema) -> Schema:
    error = {"application/json": {"schema": ref("Error")}}
    words = {
        401: "no API key",
        403: "wrong API key, or the route is off",
        404: "unknown city",
        409: "already running",
        408: "the body came too slowly",
        413: f"body larger than {BODY_LIMIT_BYTES} bytes",
        415: "not application/json",
        422: "invalid input",
        429: "busy: see Retry-After",
        503: "nothing to answer from: see the message",
        504: "the deadline passed",
    }
    return ok | {str(status): {"description": words[status], "content": error} for status in statuses}


def _ok(schema: str, status: int = 200) -> Schema:
    content = {"application/json": {"schema": ref(schema)}}
    return {str(status): {"description": "done", "content": content}}


def _post(summary: str, body: str, examples: Schema, answer: str) -> Schema:
    shown = {name: {"summary": name, "value": value} for name, value in examples.items()}
    content = {"application/json": {"schema": ref(body), "examples": shown}}
    statuses = [404, 408, 413, 415, 422, 429, 503, 504]
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": _answers(statuses, _ok(answer)),
        }
    }


def _simulate() -> Schema:
    """Return the entry of `/api/simulate`, which also answers with a table."""
    summary = "Simulate policies beside the status quo"
    entry = _post(summary, "SimulationRequest", SIMULATE_EXAMPLES, "Simulation")
    entry["post"]["description"] = SIMULATE_DESCRIPTION
    table = {"schema": {"type": "string", "description": ",".join(COLUMNS)}}
    entry["post"]["responses"]["200"]["content"][CSV] = table
    return entry


def _get(
    summary: str, answer: str, statuses: list[int] | None = None, parameters: list[Schema] | None = None
) -> Schema:
    return {
        "get": {
            "summary": summary,
            "parameters": parameters or [],
            "responses": _answers(statuses or [], _ok(answer)),
        }
    }


def _card() -> Schema:
    """Return the entry of `/api/model/card`."""
    text = {"text/markdown": {"schema": {"type": "string"}}}
    responses = {"200": {"description": "data, splits, scores, calibration, limits", "content": text}}
    return {"get": {"summary": "The card of the model in service", "responses": _answers([404], responses)}}


def _plain(summary: str) -> Schema:
    return {"get": {"summary": summary, "responses": {"200": {"description": "done"}}}}


@lru_cache(maxsize=1)
def openapi_document() -> Schema:
    """Return the document; a test holds it equal to the routes that exist."""
    city = {"name": "city", "in": "query", "required": True, "schema": {"type": "string"}}
    key: list[Schema] = [{"bearer": []}, {"header": []}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "UrbanWM",
            "version": urbanwm.__version__,
            "description": "What would the next hours of a city look like under another policy?",
        },
        "paths": {
            "/api/simulate": _simulate(),
            "/api/latent": _post("Latent states of a simulation", "Scenario", LATENT_EXAMPLES, "Latents"),
            "/api/optimize": _post(
                "Search for a policy that meets a goal", "PlanRequest", PLAN_EXAMPLES, "Plan"
            ),
            "/api/retrain": {
                "post": {
                    "summary": "Start a nightly run",
                    "security": key,
                    "responses": _answers([401, 403, 409, 503], _ok("Job", 202)),
                }
            },
            "/api/explain/latent_sample": _get(
                "Latent states in two dimensions", "LatentSample", [404, 422, 429, 503, 504], [city]
            ),
            "/api/health": _get("Who would answer now", "Health"),
            "/api/cities": _get("Cities and how fresh their data are", "Cities", [429, 504]),
            "/api/model": _get("The model in service", "Model"),
            "/api/model/card": _card(),
            "/openapi.json": _plain("This document"),
            "/docs.json": _plain("This document, where BentoML has it"),
            "/livez": _plain("The process is alive"),
            "/readyz": _get("Requests can be answered, without a model by the baseline", "Ready", [503]),
            "/metrics": _plain("Prometheus metrics"),
            "/": _plain("The dashboard"),
        },
        "components": {
            "schemas": _request_schemas(Scenario, SimulationRequest, PlanRequest) | response_schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }
