"""A simulated city in a home of its own: what the tests of whole nights work on."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.registry_support import make_settings
from urbanwm.settings import Settings

SIGNALS = ("pm25", "energy_mwh", "traffic_index")
SMALL = {"candidates": ["urban", "warm"], "night_workers": 1}
"""One training in this process, where a test can patch what it runs."""


def small_night(
    folder: Path, cities: dict[str, int], *, also: tuple[str, ...] = (), **changes: object
) -> Settings:
    """Write simulated cities below `folder`, and return the settings of a home beside them.

    Args:
        folder: May exist.
        cities: Name → seed of the simulation.
        also: Signals besides the targets.
        changes: Settings, in place of `SMALL` and the defaults.
    """
    (folder / "cities").mkdir(parents=True, exist_ok=True)
    for name, seed in cities.items():
        document = {
            "name": name,
            "timezone": "Europe/Berlin",
            "location": {"latitude": 50.0, "longitude": 10.0},
            "simulated": True,
            "signals": {signal: [{"source": "synthetic", "seed": seed}] for signal in (*SIGNALS, *also)},
        }
        (folder / "cities" / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return make_settings(folder / "home").model_copy(
        update={"cities_dir": folder / "cities", **SMALL, **changes}
    )
