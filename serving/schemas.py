"""JSON schemas of the answers, units taken from the one vocabulary of signals."""

from __future__ import annotations

from typing import Any

from urbanwm.contracts.signals import SIGNALS, TARGETS
from urbanwm.response import INTERVAL, PREFIX

Schema = dict[str, Any]
REF = "#/components/schemas/"


def ref(name: str) -> Schema:
    """Point at a named schema."""
    return {"$ref": REF + name}


def array(items: Schema, description: str = "") -> Schema:
    """Return an array of `items`."""
    return {"type": "array", "items": items, **({"description": description} if description else {})}


def object_of(properties: Schema, required: list[str] | None = None, description: str = "") -> Schema:
    """Return an object; every property is required unless `required` names fewer."""
    schema: Schema = {"type": "object", "properties": properties, "required": required or list(properties)}
    return {**schema, "description": description} if description else schema


def number(description: str, *, null: bool = False) -> Schema:
    """Return a number, or null where a signal is not answered."""
    return {"type": ["number", "null"] if null else "number", "description": description}


def text(description: str, *, null: bool = False, form: str | None = None) -> Schema:
    """Return a string, of a format if `form` names one."""
    schema: Schema = {"type": ["string", "null"] if null else "string", "description": description}
    return {**schema, "format": form} if form else schema


def _hour() -> Schema:
    properties: Schema = {
        "hour": {"type": "integer", "description": "hours since the start; 0 is the first hour"},
        "timestamp": text("start of the hour, UTC", form="date-time"),
    }
    for name in TARGETS:
        signal = SIGNALS[name]
        properties[name] = number(f"{signal.meaning}, {signal.unit}; mean of the members", null=True)
        properties[f"{PREFIX[name]}_std"] = number(
            f"standard deviation of the members, {signal.unit}", null=True
        )
        for level in INTERVAL:
            properties[f"{PREFIX[name]}_{level}"] = number(
                f"quantile of the members, {signal.unit}", null=True
            )
    return object_of(properties)


def _meta() -> Schema:
    described = {
        "served_by": {"enum": ["world_model", "baseline"], "description": "who answered"},
        "model_version": text("registered version; null when the baseline answered", null=True),
        "run_id": text("MLflow run that trained it", null=True),
        "dataset_version": text("version of the lake that was read", null=True),
        "data_as_of": text("end of the newest observed hour, UTC", null=True, form="date-time"),
        "degraded": {"type": "boolean", "description": "whether the answer is worse than it should be"},
        "reasons": array({"type": "string"}, "one sentence per thing that is not as it should be"),
        "rung": {
            "type": "integer",
            "minimum": 0,
            "maximum": 4,
            "description": "rung of the degradation ladder",
        },
        "assumptions": {"description": "what the policy is assumed to do, with ranges and sources"},
    }
    return {**object_of(described), "additionalProperties": True}


def response_schemas() -> Schema:
    """Return the named schemas of every answer."""
    hours, meta = array(ref("Hour")), ref("Meta")
    effect = {"type": "object", "description": "paired differences per signal, with intervals"}
    error = object_of(
        {
            "type": text("name of the error"),
            "message": text("one readable sentence"),
            "field": text("what in the request is meant", null=True),
            "allowed": {"description": "what would be accepted"},
        }
    )
    row = array({"type": "number"})
    point = object_of(
        {
            "x": number("first component"),
            "y": number("second component"),
            "label": text("when"),
            "weight": number("0 to 1: PM2.5 among the points"),
        }
    )
    return {
        "Error": object_of({"error": error}),
        "Hour": _hour(),
        "Meta": _meta(),
        "Simulation": object_of(
            {
                "city": text("name"),
                "start": text("first hour, UTC", form="date-time"),
                "horizon": {"type": "integer"},
                "policy": {"type": "object"},
                "simulated": hours,
                "baseline": hours,
                "effect": effect,
                "meta": meta,
                "scenarios": array(ref("ScenarioResult"), "one per entry of the request's `scenarios`"),
            },
            required=["city", "start", "horizon", "policy", "simulated", "baseline", "effect", "meta"],
        ),
        "ScenarioResult": object_of(
            {
                "name": text("as in the request, or `scenario N`"),
                "policy": {"type": "object"},
                "policy_effective": {"type": "object", "description": "after defaults, bans and schedule"},
                "assumptions": {"type": "object", "description": "what this policy is assumed to do"},
                "simulated": hours,
                "effect": effect,
                "baseline": hours,
            },
            required=["name", "policy", "policy_effective", "assumptions", "simulated", "effect"],
            description="another policy on the same forecast with the same random numbers; `baseline` is "
            "there only where it differs from the answer's own",
        ),
        "Latents": object_of(
            {"z": array(row, "[horizon+1][128]"), "h": array(row, "[horizon+1][256]"), "meta": meta}
        ),
        "LatentSample": object_of({"points": array(point), "meta": meta}),
        "Plan": object_of(
            {
                "policy": {"type": "object"},
                "score": number("lower is better"),
                "candidates_tested": {"type": "integer"},
            }
        ),
        "Health": object_of(
            {
                "status": {"enum": ["ok", "degraded"]},
                "service": {"type": "string"},
                "alarms": array({"type": "string"}),
                "data_age_hours": {"type": "object"},
            }
        ),
        "Ready": object_of(
            {
                "status": {"enum": ["ready"]},
                "served_by": {"enum": ["world_model", "baseline"]},
                "model_version": text("version", null=True),
            }
        ),
        "Cities": object_of({"cities": array({"type": "object"})}),
        "Model": object_of(
            {"served_by": {"enum": ["world_model", "baseline"]}, "model_version": text("version", null=True)}
        ),
        "Job": object_of(
            {
                "job_id": {"type": "string"},
                "engine": {"enum": ["prefect", "local"]},
                "status": {"type": "string"},
            }
        ),
    }
