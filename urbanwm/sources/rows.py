"""The parsed table, built in one place so that its column types are always the contract's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from urbanwm.contracts.tables import PARSED_COLUMNS, UTC_MICROSECONDS, empty_rows


def parsed_rows(
    timestamp: pd.DatetimeIndex,
    signal: str | Sequence[str],
    value: ArrayLike,
    available_at: pd.DatetimeIndex,
    flags: str | Sequence[str] = "",
) -> pd.DataFrame:
    """Return `(rows,)` observations as `contracts.tables.PARSED` wants them; texts may be given once for all.

    Times are aware; they are stored in UTC with microseconds.
    """
    if len(timestamp) == 0:
        return empty_rows()
    columns = {
        "timestamp": timestamp.astype(UTC_MICROSECONDS),
        "signal": signal,
        "value": np.asarray(value, dtype=np.float64),
        "flags": flags,
        "available_at": available_at.astype(UTC_MICROSECONDS),
    }
    return pd.DataFrame(columns, columns=list(PARSED_COLUMNS))
