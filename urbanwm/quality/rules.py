"""The data-quality rules: which observations are dropped, which are flagged, and why.

Rules of one value look at nothing else. Rules of a series look only backwards, at most `CONTEXT_DAYS`, so a
record gives the same flags whether it arrives at once or hour by hour. The one exception is the day/month
swap, which needs half a year of a file to be seen at all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

CONTEXT_DAYS = 30
"""Days of history before a batch that the rules of a series want to see."""
POLLUTANTS = ("pm25", "no2")


@dataclass(frozen=True)
class Rule:
    """One rule: its name in counts and flags, what it does, and what it means to a reader."""

    name: str
    action: Literal["drop", "flag", "raise"]
    meaning: str


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("naive_time", "raise", "a time without a zone; a guess would shift the record"),
        Rule("duplicate", "drop", "the same hour again in one answer; the last one counts"),
        Rule("sentinel", "drop", "a code for missing, such as -999"),
        Rule("negative", "drop", "a concentration below -5 µg/m³"),
        Rule("negative_to_zero", "flag", "a concentration from -5 to 0 µg/m³, stored as 0: zero drift"),
        Rule("out_of_range", "drop", "outside what the signal can be (contracts/signals.py)"),
        Rule(
            "extreme", "flag", "PM2.5 above 1,000 µg/m³: fire, dust, fireworks, or a fault; kept as reported"
        ),
        Rule("future", "drop", "the hour had not begun when the answer was received"),
        Rule("zero_is_missing", "drop", "no electricity at all, or no traffic at all by day"),
        Rule("flatline", "flag", "the 6th equal hour or later (24th on a coarse scale): a frozen sensor"),
        Rule("jump_suspected", "flag", "PM2.5 at more than 5 times the median of the 6 hours before"),
        Rule("unit_jump", "drop", "far from the median of the last 28 days: another unit"),
        Rule(
            "unit_jump_suspected",
            "flag",
            "6 hours at more than 10 times, or less than 1/100 of, the median of the last 28 days",
        ),
        Rule(
            "aqi_suspected", "flag", "a day of whole numbers, much higher than the fractions before: an index"
        ),
        Rule("day_month_swap", "drop", "days up to the 12th follow the weekday of the swapped date"),
    )
}


@dataclass
class Checked:
    """What is left of a batch, and the account of the rest.

    Attributes:
        rows: The rows kept, flags added; other columns untouched, in order of time and signal.
        dropped: Rows dropped per rule.
        flagged: Rows flagged per rule.
    """

    rows: pd.DataFrame
    dropped: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)

    def drop(self, rule: str, where: Mask) -> None:
        """Drop rows and count them."""
        if where.any():
            self.dropped[rule] += int(where.sum())
            self.rows = self.rows[~where]

    def flag(self, rule: str, where: Mask) -> None:
        """Flag rows and count them; a flag that is there already is not repeated."""
        if where.any():
            self.flagged[rule] += int(where.sum())
            flags = self.rows["flags"].to_numpy(dtype=object, copy=True)
            flags[where] = [_with_flag(text, rule) for text in flags[where]]
            self.rows = self.rows.assign(flags=flags)


def _with_flag(text: str, rule: str) -> str:
    return text if rule in text.split(",") else f"{text},{rule}".lstrip(",")
