"""Whether tonight's forecasts can be meant: finite, ordered, and of this city."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from urbanwm.contracts.signals import SIGNALS
from urbanwm.evaluation.forecasts import QUANTILE_COLUMNS

HISTORY_DAYS: Final = 400
LOWEST_SHARE, HIGHEST_SHARE = 0.001, 0.999
SLACK_FACTOR: Final = 2.0
"""A mean over the horizon may lie this far outside all but a thousandth of the hours of a year."""
NEARLY_ZERO: Final = 1e-9


def implausible(table: pd.DataFrame, history: pd.DataFrame) -> dict[str, str]:
    """Return, per signal, what is wrong with one forecast; a signal that was not answered is not wrong.

    Args:
        table: One origin's forecast, columns of DESIGN §6 (`observed` is not needed).
        history: Hourly frame of what was known before the origin.
    """
    found = {}
    for signal, part in table.groupby("signal"):
        quantiles = part.sort_values("lead_hours")[list(QUANTILE_COLUMNS)].to_numpy(np.float64)
        if np.isnan(quantiles).all():
            continue
        sentence = _wrong(str(signal), quantiles, history)
        if sentence:
            found[str(signal)] = sentence
    return found


def _wrong(signal: str, quantiles: np.ndarray, history: pd.DataFrame) -> str:
    """Return what is wrong with the quantiles `(horizon, 7)` of a signal; empty: nothing."""
    if not np.isfinite(quantiles).all():
        return f"{int((~np.isfinite(quantiles)).any(axis=1).sum())} hours are not finite"
    if (np.diff(quantiles, axis=1) < -NEARLY_ZERO).any():
        return "quantiles cross"
    limits = SIGNALS[signal]
    if quantiles.min() < limits.minimum or quantiles.max() > limits.maximum:
        return (
            f"{quantiles.min():.4g} to {quantiles.max():.4g} {limits.unit} is more than the signal can be "
            f"({limits.minimum:g} to {limits.maximum:g})"
        )
    if (quantiles[:, -1] - quantiles[:, 0] <= NEARLY_ZERO).all():
        return "the forecast claims certainty: its 90 % interval has no width in any hour"
    if signal not in history:
        return ""
    known = history[signal].iloc[-HISTORY_DAYS * 24 :].dropna().to_numpy(np.float64)
    if len(known) == 0:
        return ""
    low, high = np.quantile(known, [LOWEST_SHARE, HIGHEST_SHARE])
    centre = float(quantiles[:, quantiles.shape[1] // 2].mean())
    if low / SLACK_FACTOR <= centre <= high * SLACK_FACTOR:
        return ""
    return (
        f"the mean of the median, {centre:.4g} {limits.unit}, is far from all that was observed "
        f"({low:.4g} to {high:.4g})"
    )
