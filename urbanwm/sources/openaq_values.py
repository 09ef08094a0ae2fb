"""OpenAQ's values: which parameters are ours, in which units they come, and which numbers are none."""

from __future__ import annotations

from typing import NamedTuple

from urbanwm.contracts.signals import SIGNALS
from urbanwm.sources.body import read_number
from urbanwm.sources.collect import RowCollector

# Parameter, which is also the signal -> factors from its units to ours. NO2: 46.0055 g/mol at 25 °C, 1 atm.
UNIT_FACTORS: dict[str, dict[str, float]] = {
    "pm25": {"µg/m³": 1.0, "mg/m³": 1000.0},
    "no2": {"µg/m³": 1.0, "ppb": 1.8816, "ppm": 1881.6},
}
# Numbers that instruments and networks write for "no value" or "beyond my range", in the unit as sent.
SENTINELS = frozenset({-9999.0, -999.0, -99.0, 985.0, 9985.0, 9999.0, 99999.0, 100000.0, 1e6})
PM25_NOISE_MIN = -5.0  # µg/m³: near zero a sensor reads a little below it; farther below it is broken


class Converted(NamedTuple):
    """One measurement in our vocabulary and unit."""

    signal: str
    value: float
    flags: tuple[str, ...]


def convert(rows: RowCollector, parameter: object, units: object, value: object) -> Converted | None:
    """Return one measurement in our unit, or None with the reason counted in `rows.dropped`.

    PM2.5 from -5 up to 0 is noise: it becomes 0, flagged `negative_to_zero`. The range is checked here,
    before averaging, so that one broken quarter of an hour cannot spoil the hour.
    """
    if not isinstance(parameter, str) or parameter not in UNIT_FACTORS:
        rows.dropped["other_parameter"] += 1
        return None
    signal = parameter
    if not rows.wants(signal):
        return None
    number = read_number(value)
    factor = UNIT_FACTORS[signal].get(_plain_unit(units))
    if number is None or factor is None or number in SENTINELS:
        rows.dropped["missing" if number is None else "unknown_unit" if factor is None else "sentinel"] += 1
        return None
    converted = number * factor
    flags = ("converted",) if factor != 1.0 else ()
    if signal == "pm25" and PM25_NOISE_MIN <= converted < 0:
        return Converted(signal, 0.0, (*flags, "negative_to_zero"))
    if not SIGNALS[signal].minimum <= converted <= SIGNALS[signal].highest:
        rows.dropped["out_of_range"] += 1
        return None
    return Converted(signal, converted, flags)


def _plain_unit(units: object) -> str:
    """Return a unit in one spelling: Greek or Latin mu or u, superscript or plain 3."""
    text = str(units).strip().replace("μ", "µ").replace("m3", "m³")
    return f"µ{text[1:]}" if text.startswith("ug/") else text
