"""An observation batch as the columns that resolving works on: numbers, and texts as codes.

Checking the contract happens here, vectorised: on a backfill of millions of values the declarative schema of
`contracts.tables` looks at every text by itself and takes longer than read, resolve and write together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from urbanwm.contracts.signals import SIGNALS
from urbanwm.contracts.tables import BATCH_COLUMNS, UTC_MICROSECONDS
from urbanwm.errors import InternalContractBroken

HOUR_MICROSECONDS = 3_600_000_000


@dataclass(frozen=True)
class Texts:
    """A text column as codes into its sorted distinct texts, so that comparing codes is comparing texts."""

    distinct: list[str]
    codes: NDArray[np.int64]

    @classmethod
    def of(cls, column: pd.Series) -> Texts:
        """Encode a column.

        Raises:
            InternalContractBroken: A cell is not a text.
        """
        try:
            encoded = pa.array(column, pa.string()).dictionary_encode()
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise _broken(f"column '{column.name}' holds something that is not a text: {error}") from error
        if encoded.null_count:
            raise _broken(f"column '{column.name}' has missing cells")
        found = encoded.dictionary.to_pylist()
        order = np.argsort(np.array(found, dtype=object)) if found else np.zeros(0, dtype=np.int64)
        place = np.empty(len(found), dtype=np.int64)
        place[order] = np.arange(len(found))
        return cls([found[index] for index in order], place[encoded.indices.to_numpy()])

    def within(self, vocabulary: Sequence[str]) -> NDArray[np.int64]:
        """Return the codes within a larger sorted vocabulary."""
        places: NDArray[np.int64] = np.searchsorted(np.array(vocabulary, dtype=object), self.distinct)
        return places.astype(np.int64)[self.codes]

    def take(self, rows: NDArray[np.int64]) -> Texts:
        """Return some rows; texts that no longer occur stay in `distinct`."""
        return Texts(self.distinct, self.codes[rows])


@dataclass(frozen=True)
class Offers:
    """A checked batch: one entry per offered value, all columns of the same length.

    `hour` is in hours since 1970, `available_at` in microseconds since 1970, UTC.
    """

    city: Texts
    signal: Texts
    source: Texts
    flags: Texts
    hour: NDArray[np.int64]
    value: NDArray[np.float64]
    available_at: NDArray[np.int64]

    @classmethod
    def of(cls, batch: pd.DataFrame) -> Offers:
        """Check a batch against `contracts.tables.BATCH` (a key may repeat) and encode it.

        Raises:
            InternalContractBroken: A column is missing or of another type, a time is naive or not a whole
                hour, a value is not finite, or a signal is unknown.
        """
        missing = [name for name in BATCH_COLUMNS if name not in batch.columns]
        if missing:
            raise _broken(f"columns are missing: {missing}")
        for name in ("timestamp", "available_at"):
            if batch[name].dtype != UTC_MICROSECONDS or batch[name].isna().any():
                raise _broken(f"'{name}' must be complete and {UTC_MICROSECONDS}, not {batch[name].dtype}")
        if batch["value"].dtype != np.float64 or not np.isfinite(batch["value"].to_numpy()).all():
            raise _broken(f"'value' must be float64 and finite, not {batch['value'].dtype}")
        stamps = pd.DatetimeIndex(batch["timestamp"]).asi8
        if (stamps % HOUR_MICROSECONDS).any():
            raise _broken("a timestamp does not start an hour")
        signal = Texts.of(batch["signal"])
        unknown = [name for name in signal.distinct if name not in SIGNALS]
        if unknown:
            raise _broken(f"unknown signals: {unknown}")
        return cls(
            Texts.of(batch["city"]),
            signal,
            Texts.of(batch["source"]),
            Texts.of(batch["flags"]),
            stamps // HOUR_MICROSECONDS,
            batch["value"].to_numpy(),
            pd.DatetimeIndex(batch["available_at"]).asi8,
        )

    def __len__(self) -> int:
        return len(self.hour)

    def take(self, rows: NDArray[np.int64]) -> Offers:
        """Return some of the offers."""
        return Offers(
            self.city.take(rows),
            self.signal.take(rows),
            self.source.take(rows),
            self.flags.take(rows),
            self.hour[rows],
            self.value[rows],
            self.available_at[rows],
        )


def _broken(reason: str) -> InternalContractBroken:
    return InternalContractBroken(f"observation batch: {reason}")
