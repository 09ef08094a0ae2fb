"""Forecasts as they were made, kept until the hours have come: one Parquet file per city, origin and model.

A file appears complete or not at all, and is never changed: what was promised cannot be improved afterwards.
Layout: `<folder>/<city>/<origin>/<model>-<version>.parquet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa

from urbanwm.whole_file import written_whole

ORIGIN_FORMAT: Final = "%Y-%m-%dT%H%MZ"
KEEP_DAYS: Final = 400
"""A year of live skill and the weeks to compare it with; about 20 kB per city and night."""


class ForecastStore:
    """The folder of stored forecasts.

    Args:
        folder: Where; created at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, city: str, origin: datetime, model: str, version: str) -> Path:
        """Return where a forecast is, or would be."""
        stamp = origin.astimezone(UTC).strftime(ORIGIN_FORMAT)
        return self.folder / city / stamp / f"{model}-{version}.parquet"

    def put(self, table: pd.DataFrame, city: str, origin: datetime, model: str, version: str) -> bool:
        """Store one forecast; return False where it is there already, which then stays as it is.

        Raises:
            OSError: The disk does not take it; nothing half written stays.
        """
        target = self.path(city, origin, model, version)
        if target.is_file():
            return False
        with written_whole(target) as draft:
            table.to_parquet(draft, index=False)
        return True

    def origins(self, city: str, since: datetime, until: datetime) -> list[datetime]:
        """Return the stored origins of a city in `[since, until)`, oldest first."""
        folder = self.folder / city
        found = [_origin(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted(origin for origin in found if origin is not None and since <= origin < until)

    def read(
        self, cities: Sequence[str], since: datetime, until: datetime
    ) -> tuple[pd.DataFrame | None, list[str]]:
        """Read the forecasts of `[since, until)`; a damaged file is named and left out.

        Returns:
            The columns of DESIGN §6 without `observed`, and `model`, `version`, `made_at`; None without any.
            With it, one sentence per file that could not be read.
        """
        tables, damaged = [], []
        for city in cities:
            for origin in self.origins(city, since, until):
                stamp = origin.strftime(ORIGIN_FORMAT)
                for file in sorted((self.folder / city / stamp).glob("[!.]*.parquet")):
                    try:
                        tables.append(pd.read_parquet(file))
                    except (pa.ArrowException, OSError, ValueError) as error:
                        damaged.append(f"the stored forecast {city}/{stamp}/{file.name} is damaged: {error}")
        return (pd.concat(tables, ignore_index=True) if tables else None), damaged

    def prune(self, now: datetime, keep_days: int = KEEP_DAYS) -> int:
        """Delete forecasts older than `keep_days`; return how many origins went."""
        limit, gone = now - timedelta(days=keep_days), 0
        for city in self.folder.iterdir() if self.folder.is_dir() else ():
            for entry in list(city.iterdir()):
                origin = _origin(entry.name)
                if origin is not None and origin < limit:
                    for file in entry.iterdir():
                        file.unlink()
                    entry.rmdir()
                    gone += 1
        return gone


def _origin(name: str) -> datetime | None:
    """Read the name of an origin's folder; None for anything else that lies there."""
    try:
        return datetime.strptime(name, ORIGIN_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
