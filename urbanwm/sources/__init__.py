"""Sources: one module per upstream, `fetch` (network) and `parse` (pure)."""

from __future__ import annotations

import importlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from urbanwm.contracts.signals import nearest_name
from urbanwm.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from urbanwm.sources.base import Source

SOURCE_NAMES = (
    "file",
    "synthetic",
    "waqi",
    "open_meteo",
    "openaq",
    "eia",
    "entsoe",
    "energy_charts",
    "carbon_intensity",
    "tomtom",
)


def source_module(name: str) -> Source:
    """Return the module of a source; loaded on first use.

    Raises:
        BadInput: No source has this name; the nearest one is named.
    """
    if name not in SOURCE_NAMES:
        close = nearest_name(name, SOURCE_NAMES)
        hint = f"; did you mean '{close}'?" if close else ""
        raise BadInput(
            f"unknown source '{name}'{hint}", field="source", value=name, allowed=list(SOURCE_NAMES)
        )
    return cast("Source", importlib.import_module(f"urbanwm.sources.{name}"))


def parse_recorded(
    name: str,
    body: bytes,
    *,
    received_at: datetime,
    status: int = 200,
    latitude: float | None = None,
    longitude: float | None = None,
    options: dict[str, Any] | None = None,
    file_name: str = "recorded",
) -> dict[str, Any]:
    """Parse a recorded upstream answer and apply the data-quality rules, as `urbanwm parse` prints it.

    Args:
        name: Source name.
        body: The recorded bytes.
        received_at: When it was received (UTC); staleness and futures are judged against it.
        status: HTTP status it came with.
        latitude: Where the city is, degrees north; None skips the distance check.
        longitude: Degrees east.
        options: Further fields of the source's configuration.
        file_name: Name of the recording, for the `file` source's provenance.

    Returns:
        `{"rows": [{"timestamp", "signal", "value", "flags"}], "dropped": {reason: count}}` and, if any,
        `next` (the next page), `notes`, and `forecast`: rows of the same shape for hours after `received_at`,
        which are no observations.

    Raises:
        SourceError: The named failure that the body stands for.
    """
    from urbanwm.contracts.scenario import parse_strict
    from urbanwm.quality import check
    from urbanwm.sources.base import ParseContext, RawPayload

    module = source_module(name)
    fields = {"source": name, **(options or {})}
    if name == "file":
        fields.setdefault("path", file_name)
    timezone = str(fields.get("timezone", "UTC")) if name == "file" else "UTC"
    config = parse_strict(module.Config, fields)
    raw = RawPayload(
        source=name, url="recorded", status=status, headers={}, body=body, fetched_at=received_at, request={}
    )
    parsed = module.parse(raw, ParseContext(config=config, latitude=latitude, longitude=longitude))
    checked = check(parsed.rows, timezone=timezone, now=received_at)
    document: dict[str, Any] = {
        "rows": _row_documents(checked.rows),
        "dropped": dict(parsed.dropped + checked.dropped),
    }
    if parsed.next_page is not None:
        document["next"] = parsed.next_page
    if parsed.notes:
        document["notes"] = dict(parsed.notes)
    if len(parsed.forecast_rows):
        document["forecast"] = _row_documents(parsed.forecast_rows)
    return document


def _row_documents(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON-ready objects, in order of time and signal."""
    return [
        {
            "timestamp": row.timestamp.isoformat(),
            "signal": row.signal,
            "value": float(row.value),
            "flags": [flag for flag in row.flags.split(",") if flag],
        }
        for row in rows.sort_values(["timestamp", "signal"], kind="stable").itertuples(index=False)
    ]
