"""What was known ahead: forecasts as they were issued, kept apart from the observations.

One long row per (city, hour, signal, source, time of issue), partitioned by month of the hour. A forecast is
never corrected: the next run of the model is another row. Hindsight (reanalyses, and past forecasts stitched
together after the fact) is not known ahead and stays with the observations, labelled as a model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable

from urbanwm.clock import floor_hour, require_utc
from urbanwm.contracts.tables import BATCH_COLUMNS, FORECAST_KEY, UTC_MICROSECONDS
from urbanwm.errors import BadInput
from urbanwm.lake.layout import PROVENANCE_COLUMNS, TABLE_CONFIGURATION
from urbanwm.lake.offers import Offers
from urbanwm.lake.query import named_cities, quoted, select, time_literal
from urbanwm.lake.reader import checked_signals
from urbanwm.lake.row_flags import plain_text
from urbanwm.lake.stored import read_selected
from urbanwm.lake.table import Commit
from urbanwm.lake.upkeep import KeptTable
from urbanwm.lake.winners import MICROSECOND_TIME, RowCounts

MONTHS_PER_YEAR = 12
HOUR = timedelta(hours=1)
SCHEMA = pa.schema(
    [
        pa.field("city", pa.string(), nullable=False),
        pa.field("timestamp", MICROSECOND_TIME, nullable=False),
        pa.field("month", pa.int32(), nullable=False),
        pa.field("signal", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("available_at", MICROSECOND_TIME, nullable=False),
        pa.field("flags", pa.string()),
    ]
)
CONFIGURATION = TABLE_CONFIGURATION | {"delta.dataSkippingStatsColumns": "city,timestamp,available_at"}
TEXTS = ("city", "signal", "source", "flags")


class Forecasts(KeptTable):
    """The forecasts table: who said what about which hour, and when it was available."""

    PARTITION = "month"

    def add(self, batch: pd.DataFrame) -> Commit:
        """Merge issued forecasts; repeating or re-ordering the calls gives the same table.

        Of two values under one key the larger (value, flags) stays: an arbitrary rule, and independent of
        order. A batch that is there already leaves the version as it is.

        Args:
            batch: Columns of `contracts.tables.BATCH`; `available_at` is when the forecast was issued to us.

        Raises:
            InternalContractBroken: A column or type of the batch is wrong.
            LakeConflict: Other writers kept winning for two minutes.
        """
        if len(Offers.of(batch)) == 0:
            return Commit(self.version())
        best = batch.sort_values([*FORECAST_KEY, "value", "flags"], kind="stable")
        best = best.drop_duplicates(list(FORECAST_KEY), keep="last")
        return self._winning(partial(self._add_once, best.loc[:, list(BATCH_COLUMNS)]))

    def issued(
        self,
        city: str,
        *,
        start: datetime,
        end: datetime,
        known_at: datetime | None = None,
        signals: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pd.DataFrame:
        """Read every forecast about the hours `[start, end)` that was available at `known_at`.

        Returns:
            One row per forecast: timestamp, signal, value, source, available_at, flags (comma-separated);
            no rows where there are none, or no table.

        Raises:
            BadInput: An unknown signal, or a time without a zone.
            DataUnavailable: That version is not there, or no longer.
        """
        start, end = require_utc(start, "start"), require_utc(end, "end")
        names = checked_signals(signals)
        if version is None and self._open() is None:
            return _typed(pd.DataFrame(columns=list(PROVENANCE_COLUMNS)))
        where = [
            f"city = {quoted(city)}",
            *_months(pd.Timestamp(start), pd.Timestamp(end)),
            f"timestamp >= {time_literal(start)}",
            f"timestamp < {time_literal(end)}",
        ]
        if known_at is not None:
            where.append(f"available_at <= {time_literal(require_utc(known_at, 'known_at'))}")
        if signals is not None:
            where.append(f"signal IN ({', '.join(quoted(name) for name in names)})")
        rows = read_selected(self._readable(version), list(PROVENANCE_COLUMNS), " AND ".join(where))
        return _frame(rows).sort_values(
            ["timestamp", "signal", "source", "available_at"], kind="stable", ignore_index=True
        )

    def read_known_ahead(
        self,
        city: str,
        origin: datetime,
        horizon_hours: int,
        *,
        signals: Sequence[str] | None = None,
        preference: Mapping[str, Sequence[str]] | None = None,
        version: int | None = None,
    ) -> pd.DataFrame:
        """Read, for each hour from an origin on, the latest forecast that was available at the origin.

        Where a value comes from is told by `issued` with `known_at=origin`, reduced by `latest`.

        Args:
            city: City name.
            origin: Whole hour, UTC; nothing that became available later is seen.
            horizon_hours: Hours `[origin, origin + horizon_hours)`.
            signals: Signals wanted; None is every one that has a forecast.
            preference: Source labels per signal, most trusted first: a more trusted source wins over a later
                run of another. Without it the latest run wins.
            version: Version of the forecasts table; None is the newest.

        Returns:
            A grid `(horizon_hours, signals)` over a UTC `DatetimeIndex` named "timestamp"; NaN = no forecast.

        Raises:
            BadInput: The origin is naive or not a whole hour, the horizon is not positive, an unknown signal.
        """
        origin = require_utc(origin, "origin")
        if origin != floor_hour(origin):
            raise BadInput("origin is not a whole hour", field="origin", value=origin.isoformat())
        if horizon_hours < 1:
            raise BadInput(
                "the horizon is empty", field="horizon_hours", value=horizon_hours, allowed="1 or more"
            )
        end = origin + horizon_hours * HOUR
        said = self.issued(city, start=origin, end=end, known_at=origin, signals=signals, version=version)
        grid = latest(said, preference).pivot(index="timestamp", columns="signal", values="value")
        start = pd.Timestamp(origin).as_unit("us")
        index = pd.date_range(start, periods=horizon_hours, freq="h", name="timestamp", unit="us")
        names = sorted(grid.columns) if signals is None else list(signals)
        return grid.reindex(index=index, columns=names).astype(float).rename_axis(columns=None)

    def _add_once(self, batch: pd.DataFrame) -> Commit:
        """Insert what is new against the newest version."""
        table = self._open() or self._created(SCHEMA, self.PARTITION, CONFIGURATION)
        stored = _frame(select(table, list(BATCH_COLUMNS), " AND ".join(_bounds(batch))))
        key = list(FORECAST_KEY)
        known = batch[key].merge(stored, on=key, how="left")
        value, flags = known["value"].to_numpy(), known["flags"].fillna("").to_numpy()
        old = known["value"].notna().to_numpy()
        larger = (batch["value"].to_numpy() > value) | (
            (batch["value"].to_numpy() == value) & (batch["flags"].to_numpy() > flags)
        )
        kept = ~old | larger
        if not kept.any():
            return Commit(table.version())
        counts = {
            str(city): RowCounts(int((~part).sum()), int(part.sum()))
            for city, part in pd.Series(old[kept]).groupby(batch["city"].to_numpy()[kept])
        }
        self._merge(table, batch[kept])
        return Commit.of(table.version(), [counts])

    def _merge(self, table: DeltaTable, rows: pd.DataFrame) -> None:
        """Commit rows; a concurrent writer of the same partitions makes this fail, and be tried again."""
        month = rows["timestamp"].dt.year * 100 + rows["timestamp"].dt.month
        source = pa.Table.from_pandas(
            rows.assign(month=month.astype("int32")), schema=SCHEMA, preserve_index=False
        )
        same = [f"t.{name} = s.{name}" for name in FORECAST_KEY]
        (
            table.merge(
                source,
                predicate=" AND ".join([*_bounds(rows, alias="t."), *same]),
                source_alias="s",
                target_alias="t",
            )
            .when_matched_update({"value": "s.value", "flags": "s.flags"})
            .when_not_matched_insert({name: f"s.{name}" for name in SCHEMA.names})
            .execute()
        )


def latest(said: pd.DataFrame, preference: Mapping[str, Sequence[str]] | None = None) -> pd.DataFrame:
    """Reduce forecasts to one per (timestamp, signal): the most trusted source's, then the latest run's."""
    return last_words(least_trusted_first(said, preference))


def least_trusted_first(
    said: pd.DataFrame, preference: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """Sort forecasts so that of those about one hour the one to believe comes last; every part keeps that."""
    order = ["timestamp", "signal", "available_at", "value", "source"]
    if not preference:
        return said.sort_values(order, kind="stable")
    ranks = {
        (signal, label): len(labels) - place
        for signal, labels in preference.items()
        for place, label in enumerate(labels)
    }
    rank = [ranks.get(pair, 0) for pair in zip(said["signal"], said["source"], strict=True)]
    ranked = said.assign(rank=rank).sort_values([*order[:2], "rank", *order[2:]], kind="stable")
    return ranked.drop(columns="rank")


def last_words(ordered: pd.DataFrame) -> pd.DataFrame:
    """Return the last forecast of each (timestamp, signal), as `least_trusted_first` sorts them."""
    return ordered.drop_duplicates(["timestamp", "signal"], keep="last").reset_index(drop=True)


def _months(first: pd.Timestamp, last: pd.Timestamp, alias: str = "") -> list[str]:
    """Return a literal bound of the partition column."""
    count = (last.year - first.year) * MONTHS_PER_YEAR + last.month - first.month + 1
    months = (
        divmod(first.year * MONTHS_PER_YEAR + first.month - 1 + step, MONTHS_PER_YEAR)
        for step in range(count)
    )
    return [f"{alias}month IN ({', '.join(str(year * 100 + month + 1) for year, month in months)})"]


def _bounds(rows: pd.DataFrame, alias: str = "") -> list[str]:
    """Return literal bounds of month, hour, issue and city: a merge then reads the last files only."""
    first, last = rows["timestamp"].min(), rows["timestamp"].max()
    issued = rows["available_at"]
    return [
        *_months(first, last, alias),
        f"{alias}timestamp >= {time_literal(first)}",
        f"{alias}timestamp <= {time_literal(last)}",
        f"{alias}available_at >= {time_literal(issued.min())}",
        f"{alias}available_at <= {time_literal(issued.max())}",
        *named_cities(sorted(rows["city"].unique()), alias),
    ]


def _frame(rows: pa.Table) -> pd.DataFrame:
    """Return rows with plain texts and the contract's times."""
    for name in (name for name in TEXTS if name in rows.column_names):
        rows = rows.set_column(rows.column_names.index(name), name, plain_text(rows[name]))
    return _typed(rows.to_pandas())


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the time and value columns their types, also where there are no rows."""
    types = {"timestamp": UTC_MICROSECONDS, "available_at": UTC_MICROSECONDS, "value": float}
    return frame.astype({name: kind for name, kind in types.items() if name in frame.columns})
