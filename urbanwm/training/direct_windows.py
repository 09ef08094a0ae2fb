"""The windows of a record that the direct forecast is fitted on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from urbanwm.features import CitySeries, Windows
from urbanwm.features.calendar import HOURS_PER_DAY, thinning_step
from urbanwm.features.direct import fold_of

WARM_UP_HOURS, WARM_UP_SHARE = 7 * HOURS_PER_DAY, 0.2
"""The first week of a signal, at most this share of the record, has no history and is not learned from."""
MAXIMUM_WINDOWS = 36_000
"""Windows per city: four years of hours; a longer record is thinned."""
CHUNK = 1024


def chunks(series: CitySeries, most: int = MAXIMUM_WINDOWS) -> Iterator[tuple[NDArray[np.int64], Windows]]:
    """Cut windows without context over the whole record, thinned evenly to at most `most`.

    Those of one fold and local hour come together: one large product for each takes half the time of many
    small ones.
    """
    leads = series.spec.horizon_hours
    last = len(series) - leads
    origins = np.arange(0, last + 1, thinning_step(last, most))
    origins = origins[np.lexsort((series.local_hour[origins], fold_of(origins)))]
    for first in range(0, len(origins), CHUNK):
        part = origins[first : first + CHUNK]
        yield part, series.windows(part, 0, leads)


def counted(series: CitySeries, origins: NDArray[np.int64], windows: Windows) -> NDArray[np.float32]:
    """Return `(B, T, 3)` 1.0 for the hours to learn from: observed, of a target with a week of history."""
    observed = series.target_mask > 0
    first = np.where(observed.any(axis=0), observed.argmax(axis=0), len(series))
    warm_up = int(min(WARM_UP_HOURS, WARM_UP_SHARE * len(series)))
    warm = origins[:, None, None] >= first + warm_up
    return np.asarray(windows.target_mask * warm, dtype=np.float32)
