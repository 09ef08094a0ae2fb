"""Markdown tables for documents that a run writes about itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

WHOLE_FROM = 1000.0
"""Numbers from here on are shown without decimals."""


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> Iterator[str]:
    """Yield a Markdown table: one column per heading, filled by a format string from each row."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        shown = {name: readable(value) for name, value in row.items()}
        yield "| " + " | ".join(pattern.format_map(shown) for pattern in columns.values()) + " |"


def readable(value: object) -> str:
    """Return a value as a reader wants it: four significant figures, no line breaks."""
    if isinstance(value, float):
        if math.isnan(value):
            return "–"
        return f"{value:,.0f}" if abs(value) >= WHOLE_FROM else f"{value:.4g}"
    return " ".join(str(value).replace("|", "/").split())
