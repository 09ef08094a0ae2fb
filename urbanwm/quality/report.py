"""What the record of a city looks like: coverage, gaps, flags, drops, and where its values come from.

`quality_report` puts it together as one JSON-ready document, `quality_markdown` lays that out for reading;
the picture beside it is `urbanwm.quality.figure.coverage_heatmap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

from urbanwm.contracts.signals import SIGNALS
from urbanwm.quality.rules import RULES

GAP_COLUMNS = ("signal", "start", "end", "hours")
FLAG_COLUMNS = ("signal", "flag", "hours", "meaning")
GAPS_LISTED = 20
"""Gaps that a report names one by one, longest first; the others are only counted."""


def coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of hours with a value per month (rows, UTC, "YYYY-MM") and signal (columns), 0 to 1.

    Args:
        frame: Hourly grid as `Lake.read` gives it. The first and last month count only the hours of the grid.
    """
    month = pd.DatetimeIndex(frame.index).strftime("%Y-%m")
    return frame.notna().groupby(month).mean().rename_axis(index="month", columns="signal")


def daily_coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of hours with a value per UTC day (rows) and signal (columns), 0 to 1.

    Args:
        frame: Hourly grid as `Lake.read` gives it. The first and last day count only the hours of the grid.
    """
    days = pd.DatetimeIndex(frame.index).floor("D")
    return frame.notna().groupby(days).mean().rename_axis(index="day", columns="signal")


def gaps(frame: pd.DataFrame, longer_than: timedelta = timedelta(hours=0)) -> pd.DataFrame:
    """Return every run of missing hours between the first and the last value of a signal, longest first.

    Args:
        frame: Hourly grid as `Lake.read` gives it.
        longer_than: Leave out runs up to this long.

    Returns:
        Columns signal, start (first missing hour), end (first hour with a value again), hours.
    """
    found = []
    for signal in frame.columns:
        series = frame[signal].loc[frame[signal].first_valid_index() : frame[signal].last_valid_index()]
        missing = series.isna().to_numpy() if frame[signal].notna().any() else np.zeros(0, dtype=bool)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(np.int8)))
        for first, end in edges.reshape(-1, 2):
            if timedelta(hours=int(end - first)) > longer_than:
                found.append((signal, series.index[first], series.index[end], int(end - first)))
    table = pd.DataFrame(found, columns=list(GAP_COLUMNS))
    return table.sort_values(["hours", "signal", "start"], ascending=[False, True, True], ignore_index=True)


def flag_counts(provenance: pd.DataFrame) -> pd.DataFrame:
    """Return how many hours carry each flag, per signal, most frequent first.

    Args:
        provenance: As `Lake.read_provenance` gives it.

    Returns:
        Columns signal, flag, hours, meaning ("" for a flag that a source set; its module explains it).
    """
    flagged = provenance.loc[provenance["flags"] != "", ["signal", "flags"]]
    single = flagged.assign(flag=flagged["flags"].str.split(",")).explode("flag")
    counts = single.groupby(["signal", "flag"]).size().rename("hours").reset_index()
    counts["meaning"] = [RULES[name].meaning if name in RULES else "" for name in counts["flag"]]
    counts = counts.sort_values(["hours", "signal", "flag"], ascending=[False, True, True], ignore_index=True)
    return counts.loc[:, list(FLAG_COLUMNS)]


def quality_report(
    frame: pd.DataFrame,
    provenance: pd.DataFrame | None = None,
    *,
    city: str = "",
    dropped: Mapping[str, Mapping[str, int]] | None = None,
    errors: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the data-quality report of one city as a JSON-ready document; times are ISO 8601, UTC.

    Args:
        frame: Hourly grid as `Lake.read` gives it; columns without any value are reported as empty.
        provenance: As `Lake.read_provenance` gives it for the same hours; without it the report names no
            sources and no flags.
        city: Name, for the heading.
        dropped: Values dropped per source label and reason, as `IngestReport.dropped` counts them.
        errors: Failures of single sources, as `IngestReport.errors` lists them.

    Returns:
        `{"city", "start", "end", "hours", "signals": [...], "gaps": [the longest], "gaps_left_out", "flags",
        "dropped", "errors"}`; per signal its `unit`, `values` (hours with one), `coverage` (0 to 1), `first`,
        `last`, `gaps`, `longest_gap_hours`, `sources` and `flags` (each name -> hours).
    """
    if provenance is None:
        provenance = pd.DataFrame({"signal": [], "source": [], "flags": []}, dtype=str)
    holes, flags = gaps(frame), flag_counts(provenance)
    index = pd.DatetimeIndex(frame.index)
    listed = holes.head(GAPS_LISTED).assign(
        start=lambda table: [moment.isoformat() for moment in table["start"]],
        end=lambda table: [moment.isoformat() for moment in table["end"]],
    )
    return {
        "city": city,
        "start": index[0].isoformat() if len(index) else None,
        "end": (index[-1] + pd.Timedelta(hours=1)).isoformat() if len(index) else None,
        "hours": len(index),
        "signals": [
            _signal_summary(
                frame[name],
                holes[holes["signal"] == name],
                provenance[provenance["signal"] == name],
                flags[flags["signal"] == name],
            )
            for name in frame.columns
        ],
        "gaps": listed.to_dict("records"),
        "gaps_left_out": max(0, len(holes) - GAPS_LISTED),
        "flags": flags.to_dict("records"),
        "dropped": {label: dict(counts) for label, counts in (dropped or {}).items() if counts},
        "errors": [dict(error) for error in errors],
    }


def _signal_summary(
    series: pd.Series, holes: pd.DataFrame, provenance: pd.DataFrame, flags: pd.DataFrame
) -> dict[str, Any]:
    """Return the line of one signal."""
    name = str(series.name)
    first, last = series.first_valid_index(), series.last_valid_index()
    return {
        "signal": name,
        "unit": SIGNALS[name].unit,
        "values": int(series.notna().sum()),
        "coverage": float(series.notna().mean()) if len(series) else 0.0,
        "first": None if first is None else first.isoformat(),
        "last": None if last is None else last.isoformat(),
        "gaps": len(holes),
        "longest_gap_hours": int(holes["hours"].max()) if len(holes) else 0,
        "sources": {str(label): int(n) for label, n in provenance["source"].value_counts().items()},
        "flags": {str(row.flag): int(row.hours) for row in flags.itertuples()},
    }


def quality_markdown(report: Mapping[str, Any]) -> str:
    """Return a `quality_report` as Markdown: a table of signals, the longest gaps, flags, drops, failures."""
    title = f"# Data quality{': ' + report['city'] if report['city'] else ''}"
    lines = [title, "", f"{report['hours']} hours, {report['start']} to {report['end']} (UTC)", ""]
    lines += _table(
        ("signal", "unit", "values", "coverage", "first", "last", "gaps", "longest gap, h", "sources"),
        (
            (
                line["signal"],
                line["unit"],
                line["values"],
                f"{line['coverage']:.1%}",
                (line["first"] or "–")[:16],
                (line["last"] or "–")[:16],
                line["gaps"],
                line["longest_gap_hours"],
                ", ".join(f"{label} ({hours})" for label, hours in line["sources"].items()) or "–",
            )
            for line in report["signals"]
        ),
    )
    if report["gaps"]:
        left_out = f" ({report['gaps_left_out']} shorter ones left out)" if report["gaps_left_out"] else ""
        lines += ["", f"## Longest gaps{left_out}", ""]
        rows = ([gap["signal"], gap["start"][:16], gap["end"][:16], gap["hours"]] for gap in report["gaps"])
        lines += _table(("signal", "from", "until", "hours"), rows)
    if report["flags"]:
        lines += ["", "## Flagged values", ""]
        lines += _table(FLAG_COLUMNS, ([line[column] for column in FLAG_COLUMNS] for line in report["flags"]))
    if report["dropped"]:
        lines += ["", "## Dropped values", ""]
        counts = (
            (label, reason, count, RULES[reason].meaning if reason in RULES else "")
            for label, reasons in report["dropped"].items()
            for reason, count in reasons.items()
        )
        lines += _table(("source", "reason", "values", "meaning"), counts)
    if report["errors"]:
        lines += ["", "## Sources that failed", ""]
        columns = ("source", "signal", "type", "message")
        lines += _table(columns, ([error.get(name, "") for name in columns] for error in report["errors"]))
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Any) -> list[str]:  # noqa: ANN401 - any iterable of cells
    """Return a Markdown table; a bar inside a cell is escaped."""
    cells = [[str(cell).replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    body = [f"| {' | '.join(row)} |" for row in cells]
    return [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *body]
