"""The rules that look at one value at a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.contracts.signals import SIGNALS, TRAFFIC_INDEX, TRAFFIC_VOLUME
from urbanwm.errors import InternalContractBroken
from urbanwm.quality.rules import POLLUTANTS, Checked, Mask

SENTINELS = (-999.0, -9999.0, -99999.0, 99999.0, 999999.0)
POLLUTANT_SENTINELS = (999.0, 9999.0)
NOISE_FLOOR = -5.0  # µg/m³: a zero-drift of the instrument; below it the value means nothing
DAYTIME_HOURS = (6, 22)


def check_points(
    batch: pd.DataFrame, *, timezone: str = "UTC", now: datetime | pd.Series | None = None
) -> Checked:
    """Apply the rules that look at one value at a time; arguments as `check`.

    With `now` a series, one time per row, the rows of many answers are checked at once: rows that were
    received at different times do not count as repetitions of each other.
    """
    if not isinstance(batch["timestamp"].dtype, pd.DatetimeTZDtype):
        raise InternalContractBroken("naive_time: timestamps carry no zone", field="timestamp")
    checked = Checked(batch.reset_index(drop=True))
    received = pd.Series(pd.NaT if now is None else now, index=batch.index).reset_index(drop=True)
    repeated = (
        checked.rows[["timestamp", "signal"]].assign(received=received).duplicated(keep="last").to_numpy()
    )
    future = (
        np.zeros(len(batch), dtype=bool) if now is None else (checked.rows["timestamp"] > received).to_numpy()
    )
    checked.drop("duplicate", repeated)
    checked.drop("future", future[~repeated])
    rules: tuple[tuple[str, Callable[[pd.DataFrame], Mask]], ...] = (
        ("sentinel", _is_sentinel),
        ("negative", lambda rows: _is_pollutant(rows) & (rows["value"].to_numpy() < NOISE_FLOOR)),
    )
    for name, applies in rules:
        checked.drop(name, applies(checked.rows))
    drifted = _is_pollutant(checked.rows) & (checked.rows["value"].to_numpy() < 0)
    checked.flag("negative_to_zero", drifted)
    checked.rows = checked.rows.assign(value=np.where(drifted, 0.0, checked.rows["value"].to_numpy()))
    checked.drop("out_of_range", _is_out_of_range(checked.rows))
    checked.flag("extreme", checked.rows["value"].to_numpy() > _limits(checked.rows, "maximum"))
    checked.drop("zero_is_missing", _is_zero_for_missing(checked.rows, timezone))
    return checked


def _is_pollutant(rows: pd.DataFrame) -> Mask:
    return np.asarray(rows["signal"].isin(POLLUTANTS), dtype=bool)


def _is_sentinel(rows: pd.DataFrame) -> Mask:
    value = rows["value"]
    pollutant = _is_pollutant(rows) & np.asarray(value.isin(POLLUTANT_SENTINELS))
    # 99,999 MWh and veh/h are real numbers; a negative code never is.
    large = ~np.asarray(rows["signal"].isin(("energy_mwh", TRAFFIC_VOLUME))) | (value.to_numpy() < 0)
    code: Mask = pollutant | (np.asarray(value.isin(SENTINELS)) & large)
    return code


def _is_out_of_range(rows: pd.DataFrame) -> Mask:
    value = rows["value"].to_numpy(np.float64)
    possible: Mask = (value >= _limits(rows, "minimum")) & (value <= _limits(rows, "highest"))
    return ~possible


def _limits(rows: pd.DataFrame, which: Literal["minimum", "maximum", "highest"]) -> NDArray[np.float64]:
    """Return one limit of each row's signal, in the signal's unit."""
    return (
        rows["signal"].map({name: getattr(signal, which) for name, signal in SIGNALS.items()}).to_numpy(float)
    )


def _is_zero_for_missing(rows: pd.DataFrame, timezone: str) -> Mask:
    zero: Mask = rows["value"].to_numpy(np.float64) == 0
    hour = rows["timestamp"].dt.tz_convert(timezone).dt.hour
    by_day = hour.between(DAYTIME_HOURS[0], DAYTIME_HOURS[1] - 1).to_numpy()
    signal = rows["signal"]
    traffic = signal.isin((TRAFFIC_INDEX, TRAFFIC_VOLUME)).to_numpy()
    silent: Mask = zero & ((signal == "energy_mwh").to_numpy() | (traffic & by_day))
    return silent
