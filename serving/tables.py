"""A simulation as CSV: one row per hour and scenario, every row with who answered and in which units."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from urbanwm.contracts.signals import SIGNALS, TARGETS
from urbanwm.response import INTERVAL, PREFIX

CSV = "text/csv"
MAIN_SCENARIO = "policy"
"""Name of the request's own policy in the column `scenario`."""
UNITS = "; ".join(f"{name} {SIGNALS[name].unit}" for name in TARGETS)
SPREADS = ("std", *INTERVAL)
SIMULATED = (*TARGETS, *(f"{PREFIX[name]}_{spread}" for name in TARGETS for spread in SPREADS))
BASELINE = (*TARGETS, *(f"{PREFIX[name]}_{level}" for name in TARGETS for level in INTERVAL))
EFFECT = tuple((name, part) for name in TARGETS for part in ("mean", "q05", "q95"))
PROVENANCE = ("served_by", "model_version", "run_id", "dataset_version", "data_as_of", "rung", "degraded")
COLUMNS: dict[str, str] = {
    "scenario": f"`{MAIN_SCENARIO}`, or the name of one of `scenarios`",
    "hour": "hours since the start; 0 is the first hour",
    "timestamp": "start of the hour, ISO 8601, UTC",
    **dict.fromkeys(SIMULATED, "under the policy, as in JSON; in the unit that `units` states"),
    **{f"baseline_{name}": "under the status quo, likewise" for name in BASELINE},
    **{
        f"effect_{name if part == 'mean' else f'{PREFIX[name]}_{part}'}": "paired difference, likewise"
        for name, part in EFFECT
    },
    **dict.fromkeys(PROVENANCE, "as in `meta`, the same in every row"),
    "assumptions": "name of the effect assumptions",
    "reasons": "sentences of `meta.reasons`, joined by `; `",
    "units": f"units of the three signals: {UNITS}",
}
"""Columns in their order, with their meaning; an unanswered value is an empty cell."""


def wants_csv(accept: str | None) -> bool:
    """Return whether an `Accept` header prefers CSV; JSON wins a tie, and where neither is named."""
    weights = {CSV: 0.0, "application/json": 0.0}
    for entry in (accept or "").split(","):
        media_type, *parameters = (part.strip().lower() for part in entry.split(";"))
        if media_type in weights:
            stated = next((text[2:] for text in parameters if text.startswith("q=")), "1")
            weights[media_type] = float(stated) if stated.replace(".", "", 1).isdecimal() else 0.0
    return weights[CSV] > weights["application/json"]


def to_csv(document: Mapping[str, Any]) -> bytes:
    """Return the answer of `/api/simulate` as CSV, UTF-8, with one header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    meta = document["meta"]
    told = [meta.get(name) for name in PROVENANCE]
    main = {"name": MAIN_SCENARIO, "assumptions": meta["assumptions"], **document}
    for scenario in (main, *document.get("scenarios", [])):
        about = [*told, _safe(scenario["assumptions"]["name"]), "; ".join(meta["reasons"]), UNITS]
        usual = scenario.get("baseline", document["baseline"])
        for row in _hours(scenario, usual):
            writer.writerow([_safe(scenario["name"]), *row, *about])
    return text.getvalue().encode()


def _hours(scenario: Mapping[str, Any], baseline: list[dict[str, Any]]) -> Iterator[list[Any]]:
    """Return the columns of one scenario that change by the hour."""
    effects = scenario["effect"]
    for hour, (row, usual) in enumerate(zip(scenario["simulated"], baseline, strict=True)):
        differences = [
            None if effects[name] is None else effects[name]["hourly"][part][hour] for name, part in EFFECT
        ]
        values = [row[name] for name in ("hour", "timestamp", *SIMULATED)]
        yield [*values, *(usual[name] for name in BASELINE), *differences]


def _safe(name: str) -> str:
    """Keep a caller's name from being read as a formula by a spreadsheet."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
