"""The picture of a record: which share of each day every signal has values for.

Built without pyplot: no global state, no display, safe in threads (see `urbanwm.figures`).
"""

from __future__ import annotations

import io
from typing import Final, Literal

import numpy as np
import pandas as pd
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from urbanwm.quality.report import daily_coverage

WIDTH_IN: Final = 10.0
ROW_HEIGHT_IN: Final = 0.32
MARGIN_IN: Final = 1.3
DAYS_PER_CELL_MAX: Final = 800
"""Columns of pixels worth drawing: a longer record is shown by means of several days."""


def coverage_heatmap(frame: pd.DataFrame, title: str = "") -> Figure:
    """Draw the coverage of each signal (rows) over days (columns): white is nothing, dark is every hour.

    Signals without any value are drawn too: an empty row says that a source gave nothing.

    Args:
        frame: Hourly grid as `Lake.read` gives it, at least one hour.
        title: Heading, such as the city's name.
    """
    table = daily_coverage(frame)
    days_per_cell = -(-len(table) // DAYS_PER_CELL_MAX)
    if days_per_cell > 1:
        table = table.resample(f"{days_per_cell}D").mean()
    days = pd.DatetimeIndex(table.index).tz_localize(None)
    edges = date2num(days.append(days[-1:] + pd.Timedelta(days=days_per_cell)).to_pydatetime())
    names = [str(name) for name in table.columns]
    figure = Figure(figsize=(WIDTH_IN, MARGIN_IN + ROW_HEIGHT_IN * len(names)), layout="constrained")
    axes = figure.subplots()
    shares = table.to_numpy(dtype=np.float64).T
    mesh = axes.pcolormesh(edges, np.arange(len(names) + 1), shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    axes.invert_yaxis()
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_title(f"{title}: share of hours with a value".lstrip(": "), fontsize=10)
    figure.colorbar(mesh, ax=axes, label="share of hours", pad=0.01)
    return figure


def heatmap_bytes(frame: pd.DataFrame, title: str = "", kind: Literal["png", "svg"] = "png") -> bytes:
    """Return the heat-map as the bytes of a picture; arguments as `coverage_heatmap`."""
    buffer = io.BytesIO()
    coverage_heatmap(frame, title).savefig(buffer, format=kind, dpi=110)
    return buffer.getvalue()
