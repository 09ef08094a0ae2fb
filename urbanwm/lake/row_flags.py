"""The `flags` column of the lake: one short text per row, `"pm25:citizen_sensor,flatline;no2:model"`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def plain_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a text column as plain strings; most kernels refuse the engine's `string_view`."""
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


class RowFlags:
    """The flags of some rows; each distinct text is read once, however many rows carry it."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        encoded = plain_text(column).fill_null("").combine_chunks().dictionary_encode()
        entries = [text.split(";") for text in encoded.dictionary.to_pylist()]
        self._parts = [dict(entry.split(":", 1) for entry in found if entry) for found in entries]
        self._codes: NDArray[np.int64] = encoded.indices.to_numpy().astype(np.int64)

    @property
    def signals(self) -> set[str]:
        """Return the signals that are flagged in any row."""
        return {signal for parts in self._parts for signal in parts}

    def distinct(self, signal: str) -> list[str]:
        """Return the different flags of a signal, "" included."""
        return ["", *(parts[signal] for parts in self._parts if signal in parts)]

    def of(self, signal: str) -> NDArray[np.object_]:
        """Return a signal's flags per row; "" where there are none."""
        texts = np.array([*(parts.get(signal, "") for parts in self._parts), ""], dtype=object)
        return texts[self._codes]
