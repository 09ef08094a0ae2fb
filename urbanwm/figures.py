"""The pictures on a run: how training went, what forecasts look like, and how the error grows with lead.

Figures are built without pyplot: no global state, no display, safe in threads. Every forecast table has the
columns that `urbanwm backtest` writes (DESIGN §6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from numpy.typing import NDArray

from urbanwm.contracts.signals import SIGNALS, TARGETS

PANEL_WIDTH_IN: Final = 9.0
PANEL_HEIGHT_IN: Final = 2.4
CONTEXT_HOURS_SHOWN: Final = 48
NOT_LOSSES: Final = ("gradient_norm", "learning_rate")
LINE_STYLES: Final = ("-", "--", "-.", ":", (0, (1, 1)))


def training_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Plot each loss part and each validation score over the optimiser steps.

    Args:
        history: One mapping per report, with `step` and any number of metrics.
    """
    table = pd.DataFrame(list(history)).set_index("step").sort_index()
    validation = [name for name in table.columns if name.startswith("val")]
    parts = [name for name in table.columns if name not in {*validation, *NOT_LOSSES}]
    figure = Figure(figsize=(PANEL_WIDTH_IN, 2 * PANEL_HEIGHT_IN), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    _curves(upper, table, parts, "training loss and parts")
    upper.set_yscale("log")
    _curves(lower, table, validation, "validation score")
    lower.set_xlabel("optimiser step")
    return figure


def _curves(axes: Axes, table: pd.DataFrame, names: Sequence[str], label: str) -> None:
    """Draw named columns; a metric is reported at some steps only, so gaps are dropped."""
    for name in names:
        series = table[name].dropna()
        axes.plot(series.index, series.to_numpy(), marker=".", markersize=3, label=name)
    axes.set_ylabel(label)
    if names:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def forecast_fan(table: pd.DataFrame, city: str, origin: pd.Timestamp, title: str) -> Figure:
    """Plot one forecast: median, 50 % and 90 % bands, and what was observed, for each target.

    Args:
        table: Forecasts as `urbanwm backtest` writes them.
        city: Which city.
        origin: Which origin, one of the table's.
        title: Heading, such as the model's name.
    """
    mine = table[(table["city"] == city) & (table["origin"] == origin)]
    figure = Figure(figsize=(PANEL_WIDTH_IN, len(TARGETS) * PANEL_HEIGHT_IN), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(TARGETS), 1, sharex=True))
    for axes, signal in zip(panels, TARGETS, strict=True):
        part = mine[mine["signal"] == signal].sort_values("lead_hours")
        lead = part["lead_hours"].to_numpy()
        axes.fill_between(lead, part["q05"], part["q95"], alpha=0.2, color="C0", lw=0, label="90 %")
        axes.fill_between(lead, part["q25"], part["q75"], alpha=0.35, color="C0", lw=0, label="50 %")
        axes.plot(lead, part["q50"], color="C0", label="median")
        axes.plot(lead, part["observed"], color="black", lw=1, label="observed")
        axes.set_ylabel(f"{signal}\n{SIGNALS[signal].unit}")
    panels[0].legend(fontsize=7, ncols=4)
    panels[-1].set_xlabel(f"hours after {origin:%Y-%m-%d %H:%M} UTC")
    figure.suptitle(f"{title}: {city}", fontsize=10)
    return figure


def error_by_lead(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot the mean absolute error over the lead time, one line per forecaster, one panel per target.

    Args:
        tables: Forecaster's name → forecasts as `urbanwm backtest` writes them, on the same origins.
    """
    figure = Figure(figsize=(PANEL_WIDTH_IN, len(TARGETS) * PANEL_HEIGHT_IN), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(TARGETS), 1, sharex=True))
    for axes, signal in zip(panels, TARGETS, strict=True):
        for index, (name, table) in enumerate(tables.items()):
            part = table[table["signal"] == signal]
            error = (part["q50"] - part["observed"]).abs().groupby(part["lead_hours"]).mean()
            axes.plot(error.index, error.to_numpy(), ls=LINE_STYLES[index % len(LINE_STYLES)], label=name)
        axes.set_ylabel(f"MAE {signal}\n{SIGNALS[signal].unit}")
        axes.set_ylim(bottom=0)
    panels[0].legend(fontsize=7, ncols=3)
    panels[-1].set_xlabel("lead, hours")
    return figure


def score_ratios(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the gate's evidence: the challenger's score over its rival's; below 1 is better.

    Args:
        rows: Mappings with `label`, `ratio`, `low` and `high`.
    """
    figure = Figure(figsize=(PANEL_WIDTH_IN, 1.0 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    position = np.arange(len(rows))[::-1]
    ratio = np.array([row["ratio"] for row in rows], dtype=np.float64)
    low = np.array([row["low"] for row in rows], dtype=np.float64)
    high = np.array([row["high"] for row in rows], dtype=np.float64)
    axes.errorbar(ratio, position, xerr=np.stack([ratio - low, high - ratio]), fmt="o", capsize=3)
    axes.axvline(1.0, color="black", lw=0.8)
    axes.set_yticks(position, [str(row["label"]) for row in rows], fontsize=8)
    axes.set_xlabel("challenger's score ÷ rival's (below 1: better)")
    return figure


def reliability(pit: pd.DataFrame) -> Figure:
    """Plot how often the observation lay below each quantile, against the promised level.

    Args:
        pit: Shares between neighbouring quantiles, as `urbanwm.evaluation.metrics.pit_histogram` gives them.
    """
    figure = Figure(figsize=(PANEL_WIDTH_IN, PANEL_WIDTH_IN / len(TARGETS)), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, len(TARGETS), sharex=True, sharey=True))
    for axes, signal in zip(panels, TARGETS, strict=True):
        axes.plot([0, 1], [0, 1], color="black", lw=0.8)
        for city, part in pit[pit["signal"] == signal].groupby("city"):
            # The last interval ends at 1 for every forecast: it says nothing.
            promised = part["expected"].cumsum().to_numpy()[:-1]
            happened = part["share"].cumsum().to_numpy()[:-1]
            axes.plot(promised, happened, marker="o", markersize=4, label=str(city))
        axes.set_title(signal, fontsize=9)
        axes.set_xlabel("level of the quantile")
    panels[0].set_ylabel("share of observations below it")
    panels[0].legend(fontsize=7)
    return figure


def outlook(
    table: pd.DataFrame, known: pd.DataFrame, title: str, rival: pd.DataFrame | None = None
) -> Figure:
    """Plot a forecast of hours that are still to come, after what was observed before them.

    Args:
        table: One city's forecast from one origin, columns of DESIGN §6 (`observed` is not needed).
        known: Hourly UTC frame; its hours around the origin are drawn.
        title: Heading.
        rival: The baseline's forecast of the same hours, of which the median is drawn.
    """
    origin = pd.Timestamp(table["origin"].iloc[0])
    first = origin - pd.Timedelta(hours=CONTEXT_HOURS_SHOWN)
    past = known[(known.index >= first) & (known.index <= table["timestamp"].max())]
    figure = Figure(figsize=(PANEL_WIDTH_IN, len(TARGETS) * PANEL_HEIGHT_IN), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(TARGETS), 1, sharex=True))
    for axes, signal in zip(panels, TARGETS, strict=True):
        part = table[table["signal"] == signal].sort_values("timestamp")
        hours = _hours_after(part["timestamp"], origin)
        axes.fill_between(hours, part["q05"], part["q95"], alpha=0.18, color="C0", lw=0, label="90 %")
        axes.fill_between(hours, part["q25"], part["q75"], alpha=0.35, color="C0", lw=0, label="50 %")
        axes.plot(hours, part["q50"], color="C0", label="median")
        if rival is not None:
            other = rival[rival["signal"] == signal].sort_values("timestamp")
            other_hours = _hours_after(other["timestamp"], origin)
            axes.plot(other_hours, other["q50"], color="C1", lw=1, ls="--", label="baseline")
        if signal in past:
            axes.plot(_hours_after(past.index, origin), past[signal], color="black", lw=1, label="observed")
        axes.axvline(0, color="0.6", lw=0.8)
        axes.set_ylabel(f"{signal}\n{SIGNALS[signal].unit}")
        axes.margins(x=0)
    panels[0].legend(fontsize=7, ncols=5, loc="upper left")
    panels[-1].set_xlabel(f"hours after {origin:%Y-%m-%d %H:%M} UTC")
    figure.suptitle(title, fontsize=10)
    return figure


def _hours_after(moments: pd.Series | pd.DatetimeIndex, origin: pd.Timestamp) -> NDArray[np.float64]:
    """Return the time since the origin, hours."""
    hours: NDArray[np.float64] = ((pd.DatetimeIndex(moments) - origin) / pd.Timedelta(hours=1)).to_numpy()
    return hours


def live_ratios(days: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the champion's CRPS over the baseline's per origin day, one line per city; below 1 is better.

    Args:
        days: Mappings with `city`, `day` (a date) and `ratio`.
    """
    table = pd.DataFrame(list(days))
    figure = Figure(figsize=(PANEL_WIDTH_IN, PANEL_HEIGHT_IN), layout="constrained")
    axes = figure.subplots()
    for city, part in table.groupby("city"):
        axes.plot(pd.to_datetime(part["day"]), part["ratio"], marker="o", markersize=4, label=str(city))
    axes.axhline(1.0, color="black", lw=0.8)
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_ylabel("CRPS ÷ baseline's")
    axes.margins(y=0.15)
    axes.legend(fontsize=7)
    return figure
