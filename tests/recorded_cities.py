"""A few recorded cities in a folder, the file of the last one missing; for tests of ingest at large."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from urbanwm.lake import Lake
from urbanwm.settings import Settings

NOW = datetime(2025, 3, 1, tzinfo=UTC)
NAMES = ["alder", "birch", "cedar", "maple"]
HOURS = 24 * 20


def write_cities(folder: Path) -> Path:
    """Write city files and their records; return the folder."""
    folder.mkdir()
    generator = np.random.default_rng(7)
    for name in NAMES:
        hours = pd.date_range(end=NOW, periods=HOURS + 1, freq="h", inclusive="left")
        record = pd.DataFrame({"timestamp": hours, "pm25": generator.uniform(3, 40, HOURS).round(2)})
        record["energy_mwh"] = generator.uniform(400, 600, HOURS).round(1)
        if name != NAMES[-1]:
            record.to_parquet(folder / f"{name}.parquet")
        source = [{"source": "file", "path": f"{name}.parquet"}]
        place = {"latitude": 50.0, "longitude": 10.0}
        document = {"name": name, "timezone": "Europe/Berlin", "location": place, "replay": True}
        document["signals"] = {"pm25": source, "energy_mwh": source}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
    return folder


def assert_same_lakes(one: Settings, other: Settings) -> None:
    assert Lake(one.lake_uri).cities() == Lake(other.lake_uri).cities() == NAMES[:3]
    for name in NAMES[:3]:
        expected = Lake(one.lake_uri).read_provenance(name)
        assert len(expected) == 2 * HOURS
        pd.testing.assert_frame_equal(Lake(other.lake_uri).read_provenance(name), expected)
