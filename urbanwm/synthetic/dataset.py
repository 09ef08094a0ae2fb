"""`SyntheticUrbanDataset`: the simulated city as hourly tables and as training sequences.

The value of an hour depends on the seed and on the hour alone, never on the window asked for: noise is drawn
by counter, and memories are filtered over fixed blocks of hours. So the city can be asked for last year, for
today and for today again, always with the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.clock import floor_hour, require_utc
from urbanwm.contracts.signals import ACTIONS, TARGETS
from urbanwm.errors import BadInput
from urbanwm.features.calendar import CityCalendar
from urbanwm.synthetic.city import simulate
from urbanwm.synthetic.noise import Fork, Seed, Stream, uniform
from urbanwm.synthetic.parameters import PROFILES, CityParameters, Intervention

Floats = NDArray[np.float32]

HOUR_SECONDS = 3600
BLOCK_HOURS = 8192
# Longer than the slowest memory: a block has forgotten that its noise began somewhere.
WARM_UP_HOURS = 1024
TRAINING_START = datetime(2019, 1, 1, tzinfo=UTC)
TRAINING_HOURS = 2 * 365 * 24
# Centre and scale of the reference inputs: fixed round numbers, fitted to no data set.
REFERENCE_CENTRE = np.array([20.0, 1200.0, 1.0])  # µg/m³, MWh, 1
REFERENCE_SCALE = np.array([15.0, 250.0, 0.3])
REFERENCE_INPUTS = (
    *TARGETS,
    *ACTIONS,
    "gdp_activity_index",
    "commercial_load_factor",
    "hour_sin",
    "hour_cos",
    "dow_sin",
    "dow_cos",
    "padding",
)


@lru_cache(maxsize=16)
def _block(
    number: int,
    seed: Seed,
    parameters: CityParameters,
    calendar: CityCalendar,
    intervention: Intervention | None,
) -> pd.DataFrame:
    """Return one block of hours; the same numbers whatever window it is part of."""
    first = number * BLOCK_HOURS
    columns = simulate(
        first - WARM_UP_HOURS, BLOCK_HOURS + WARM_UP_HOURS, seed, parameters, calendar, intervention
    )
    hours = (first + np.arange(BLOCK_HOURS)).astype("datetime64[h]").astype("datetime64[us]")
    index = pd.DatetimeIndex(hours, name="timestamp").tz_localize("UTC")
    return pd.DataFrame({name: values[WARM_UP_HOURS:] for name, values in columns.items()}, index=index)


class SyntheticUrbanDataset:
    """A seeded simulated city; indexable like a torch dataset, without needing torch.

    As a table: `hours(start, end, timezone)`. As sequences: `len(dataset)`, `dataset[i]` and, for a whole
    batch at once, `dataset.windows(indices)`; each gives float32 arrays `observations (…, time, 12)` (the
    reference inputs, signals standardised by fixed constants), `actions (…, time, 2)` and
    `targets (…, time, 3)` in physical units. Item `i` is the same in every process.
    """

    def __init__(
        self,
        seed: int = 7,
        parameters: CityParameters = PROFILES["measures"],
        *,
        sequences: int = 16_000,
        sequence_hours: int = 50,
    ) -> None:
        """Describe the data; nothing is generated before it is asked for.

        Args:
            seed: Which of the possible cities, 0 or more.
            parameters: Its structural coefficients.
            sequences: Length of the dataset; the default is 500 steps of 32.
            sequence_hours: Length of each sequence.

        Raises:
            BadInput: An argument is out of range.
        """
        for name, value, least, most in (
            ("seed", seed, 0, 2**48),
            ("sequences", sequences, 1, None),
            ("sequence_hours", sequence_hours, 1, TRAINING_HOURS),
        ):
            if value < least or (most is not None and value > most):
                raise BadInput(
                    f"{name} is out of range", field=name, value=value, allowed=f"{least} to {most or 'any'}"
                )
        self.seed = seed
        self.parameters = parameters
        self.sequences = sequences
        self.sequence_hours = sequence_hours

    def hours(
        self,
        start: datetime,
        end: datetime,
        timezone: str = "UTC",
        *,
        country: str | None = None,
        subdivision: str | None = None,
        intervention: Intervention | None = None,
        chance: Fork | None = None,
    ) -> pd.DataFrame:
        """Return the hours of `[start, end)`, one row each, float64, no gaps, indexed by `timestamp` (UTC).

        Columns: the targets, `traffic_volume`, `renewable_share`, the weather, the actions and the two
        activity factors, in the units of the vocabulary. The difference between a call with and one without
        an intervention is its true effect: everything else, noise included, is the same.

        Args:
            start: First hour, aware, a whole hour.
            end: The hour after the last.
            timezone: IANA zone in which the city lives; habits follow its clock.
            country: Whose public holidays are kept; None = weekends only.
            subdivision: Region of the country.
            intervention: Levers held from an instant on.
            chance: What else might have come, in place of this city's seed.

        Raises:
            BadInput: A time is naive or not a whole hour, or `end` is not after `start`.
        """
        start, end = require_utc(start, "start"), require_utc(end, "end")
        for field, moment in (("start", start), ("end", end)):
            if moment != floor_hour(moment):
                raise BadInput(f"{field} is not a whole hour", field=field, value=moment.isoformat())
        if end <= start:
            raise BadInput(
                "end is not after start", field="end", value=end.isoformat(), allowed=f"after {start}"
            )
        first, last = _hour_number(start), _hour_number(end) - 1
        calendar = CityCalendar(timezone, country, subdivision)
        blocks = [
            _block(number, chance or self.seed, self.parameters, calendar, intervention)
            for number in range(first // BLOCK_HOURS, last // BLOCK_HOURS + 1)
        ]
        return pd.concat(blocks).loc[start : end - timedelta(hours=1)].copy()

    def __len__(self) -> int:
        """Return the number of sequences."""
        return self.sequences

    def __getitem__(self, item: int) -> dict[str, Floats]:
        """Return one sequence, time first.

        Raises:
            IndexError: `item` is outside `0 <= item < len(self)`; this is also what ends a `for` loop.
        """
        if not 0 <= item < self.sequences:
            raise IndexError(f"sequence {item} of {self.sequences}")
        return {name: values[0] for name, values in self.windows([item]).items()}

    def windows(self, items: Sequence[int] | NDArray[np.int64]) -> dict[str, Floats]:
        """Return many sequences at once, `(batch, time, feature)`: one gather, no loop."""
        rows = self._first_rows[np.asarray(items)][:, None] + np.arange(self.sequence_hours)
        return {name: table[rows] for name, table in self._tables.items()}

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        """Where each sequence begins in the tables, `(sequences,)`."""
        choices = TRAINING_HOURS - self.sequence_hours + 1
        drawn = uniform(self.seed, Stream.SEQUENCE, 0, self.sequences)
        return np.floor(drawn * choices).astype(np.int64)

    @cached_property
    def _tables(self) -> dict[str, Floats]:
        """The training period as three float32 tables, `(hours, feature)`."""
        frame = self.hours(TRAINING_START, TRAINING_START + timedelta(hours=TRAINING_HOURS))
        index = pd.DatetimeIndex(frame.index)
        targets, actions = frame[list(TARGETS)].to_numpy(), frame[list(ACTIONS)].to_numpy()
        hour_angle = 2 * np.pi * index.hour.to_numpy() / 24
        day_angle = 2 * np.pi * index.dayofweek.to_numpy() / 7
        observations = np.column_stack(
            [
                (targets - REFERENCE_CENTRE) / REFERENCE_SCALE,
                actions,
                frame[["gdp_activity_index", "commercial_load_factor"]].to_numpy(),
                np.sin(hour_angle),
                np.cos(hour_angle),
                np.sin(day_angle),
                np.cos(day_angle),
                np.zeros(len(frame)),
            ]
        )
        tables = {"observations": observations, "actions": actions, "targets": targets}
        return {name: table.astype(np.float32) for name, table in tables.items()}


def _hour_number(moment: datetime) -> int:
    """Return the number of whole hours since 1970-01-01, UTC."""
    return int(moment.timestamp()) // HOUR_SECONDS
