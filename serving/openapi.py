"""The OpenAPI 3.1 document of every route, request schemas taken from the types that validate them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import BaseModel

import urbanwm
from serving.body import BODY_LIMIT_BYTES
from urbanwm.contracts.scenario import Scenario
from urbanwm.contracts.signals import SIGNALS, TARGETS
from urbanwm.planner import PlanRequest

Schema = dict[str, Any]
REF = "#/components/schemas/"
STD_NAMES = {"pm25": "pm25", "energy_mwh": "energy", "traffic_index": "traffic"}
"""Short names of the targets in `…_std` and the quantile fields, as the earlier implementation had them."""

EXAMPLE = {
    "city": "demo",
    "horizon_hours": 48,
    "policy": {"car_free_ratio": 0.3, "renewable_mix": 0.5},
    "uncertainty_samples": 20,
}
LATENT_EXAMPLE = {"city": "demo", "horizon_hours": 24, "policy": {"car_free_ratio": 0.3}}
PLAN_EXAMPLE = {"city": "demo", "horizon_hours": 48, "weights": {"pm25": 1, "energy": 0.2, "traffic": 0.2}}


def _ref(name: str) -> Schema:
    return {"$ref": REF + name}


def _array(items: Schema, description: str = "") -> Schema:
    return {"type": "array", "items": items, **({"description": description} if description else {})}


def _object(properties: Schema, required: list[str] | None = None, description: str = "") -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "required": required or list(properties)}
    return {**schema, "description": description} if description else schema


def _number(description: str, *, null: bool = False) -> Schema:
    return {"type": ["number", "null"] if null else "number", "description": description}


def _text(description: str, *, null: bool = False, form: str | None = None) -> Schema:
    schema: Schema = {"type": ["string", "null"] if null else "string", "description": description}
    return {**schema, "format": form} if form else schema


def _hour_schema() -> Schema:
    properties: Schema = {
        "hour": {"type": "integer", "description": "hours since the start; 0 is the first hour"},
        "timestamp": _text("start of the hour, UTC", form="date-time"),
    }
    for name in TARGETS:
        signal = SIGNALS[name]
        properties[name] = _number(f"{signal.meaning}, {signal.unit}; mean of the members", null=True)
        properties[f"{STD_NAMES[name]}_std"] = _number(
            f"standard deviation of the members, {signal.unit}", null=True
        )
        for level in ("q05", "q95"):
            properties[f"{STD_NAMES[name]}_{level}"] = _number(
                f"quantile of the members, {signal.unit}", null=True
            )
    return _object(properties)


def _meta_schema() -> Schema:
    described = {
        "served_by": {"enum": ["world_model", "baseline"], "description": "who answered"},
        "model_version": _text("registered version; null when the baseline answered", null=True),
        "run_id": _text("MLflow run that trained it", null=True),
        "dataset_version": _text("version of the lake that was read", null=True),
        "data_as_of": _text("end of the newest observed hour, UTC", null=True, form="date-time"),
        "degraded": {"type": "boolean", "description": "whether the answer is worse than it should be"},
        "reasons": _array({"type": "string"}, "one sentence per thing that is not as it should be"),
        "rung": {
            "type": "integer",
            "minimum": 0,
            "maximum": 4,
            "description": "rung of the degradation ladder",
        },
        "assumptions": {"description": "what the policy is assumed to do, with ranges and sources"},
    }
    return {**_object(described), "additionalProperties": True}


def _response_schemas() -> Schema:
    hours, meta = _array(_ref("Hour")), _ref("Meta")
    error = _object(
        {
            "type": _text("name of the error"),
            "message": _text("one readable sentence"),
            "field": _text("what in the request is meant", null=True),
            "allowed": {"description": "what would be accepted"},
        }
    )
    row = _array({"type": "number"})
    point = _object(
        {
            "x": _number("first component"),
            "y": _number("second component"),
            "label": _text("when"),
            "weight": _number("0 to 1: PM2.5 among the points"),
        }
    )
    return {
        "Error": _object({"error": error}),
        "Hour": _hour_schema(),
        "Meta": _meta_schema(),
        "Simulation": _object(
            {
                "city": _text("name"),
                "start": _text("first hour, UTC", form="date-time"),
                "horizon": {"type": "integer"},
                "policy": {"type": "object"},
                "simulated": hours,
                "baseline": hours,
                "effect": {"type": "object", "description": "paired differences per signal, with intervals"},
                "meta": meta,
            }
        ),
        "Latents": _object(
            {"z": _array(row, "[horizon+1][128]"), "h": _array(row, "[horizon+1][256]"), "meta": meta}
        ),
        "LatentSample": _object({"points": _array(point), "meta": meta}),
        "Plan": _object(
            {
                "policy": {"type": "object"},
                "score": _number("lower is better"),
                "candidates_tested": {"type": "integer"},
            }
        ),
        "Health": _object({"status": {"enum": ["ok", "degraded"]}, "service": {"type": "string"}}),
        "Cities": _object({"cities": _array({"type": "object"})}),
        "Model": _object(
            {"served_by": {"enum": ["world_model", "baseline"]}, "model_version": _text("version", null=True)}
        ),
        "Job": _object(
            {
                "job_id": {"type": "string"},
                "engine": {"enum": ["prefect", "local"]},
                "status": {"type": "string"},
            }
        ),
    }


def _request_schemas(*models: type[BaseModel]) -> Schema:
    """Return the pydantic schemas with their nested definitions beside them."""
    found: Schema = {}
    for model in models:
        schema = model.model_json_schema(ref_template=REF + "{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found


def _answers(statuses: list[int], ok: Schema) -> Schema:
    error = {"application/json": {"schema": _ref("Error")}}
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
    content = {"application/json": {"schema": _ref(schema)}}
    return {str(status): {"description": "done", "content": content}}


def _post(summary: str, body: str, example: Schema, answer: str) -> Schema:
    content = {"application/json": {"schema": _ref(body), "example": example}}
    statuses = [404, 408, 413, 415, 422, 429, 503, 504]
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": _answers(statuses, _ok(answer)),
        }
    }


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


def _plain(summary: str, *, unready: bool = False) -> Schema:
    responses: Schema = {"200": {"description": "done"}}
    return {"get": {"summary": summary, "responses": _answers([503] if unready else [], responses)}}


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
            "/api/simulate": _post(
                "Simulate a policy beside the status quo", "Scenario", EXAMPLE, "Simulation"
            ),
            "/api/latent": _post("Latent states of a simulation", "Scenario", LATENT_EXAMPLE, "Latents"),
            "/api/optimize": _post(
                "Search for a policy that meets a goal", "PlanRequest", PLAN_EXAMPLE, "Plan"
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
            "/openapi.json": _plain("This document"),
            "/docs.json": _plain("This document, where BentoML has it"),
            "/livez": _plain("The process is alive"),
            "/readyz": _plain("Requests can be answered, by the model or the baseline", unready=True),
            "/metrics": _plain("Prometheus metrics"),
            "/": _plain("The dashboard"),
        },
        "components": {
            "schemas": _request_schemas(Scenario, PlanRequest) | _response_schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }
