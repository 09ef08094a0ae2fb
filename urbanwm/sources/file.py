"""CSV and Parquet files as a source: column mapping, time zone, share of a zone, traffic volume to index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from urbanwm.contracts.signals import SIGNALS, TRAFFIC_INDEX, TRAFFIC_VOLUME
from urbanwm.contracts.tables import empty_rows
from urbanwm.errors import InternalContractBroken, MalformedPayload, NoData, RequestRefused
from urbanwm.sources.base import FetchContext, ParseContext, Parsed, RawPayload, SourceConfig, Traits
from urbanwm.sources.file_table import NAME, FileFormat, numeric, read_columns, require_column
from urbanwm.sources.file_time import HOUR, resolution_of, utc_stamps
from urbanwm.sources.http import check_status
from urbanwm.sources.rows import parsed_rows
from urbanwm.sources.usual_value import usual_values
from urbanwm.zones import ZoneName

KEY = None
TRAITS = Traits(local=True, whole_record=True)
RATIO = "hour_of_week_ratio"
SHARE_OF_HOUR_NEEDED = 0.75

__all__ = ["KEY", "NAME", "TRAITS", "Config", "fetch", "parse"]


class Config(SourceConfig):
    """One column of one file.

    Attributes:
        path: The file; beside the city file or absolute.
        column: Its column; None takes the column named like the signal.
        timestamp_column: The column of time stamps.
        timestamp_format: `strptime` format of text stamps; None is ISO 8601.
        timezone: IANA zone of stamps without an offset.
        stamp: Whether a stamp marks the start or the end of its interval.
        share: Part of the file's zone that is this city, 0 < share <= 1.
        scale: Factor from the file's unit to the signal's; 0.001 turns kWh into MWh.
        transform: `hour_of_week_ratio` divides a volume by its usual value (see `usual_value.py`).
        reference_until: Local date; the usual value is then the mean of everything before it.
        format: `auto` looks at the file.
        delimiter: Between CSV cells.
        decimal: Decimal mark of CSV numbers.
        encoding: Of a CSV file.
        city_column: Column that tells the cities of a shared file apart.
        city: The value of `city_column` to keep.
    """

    path: Annotated[str, Field(min_length=1)]
    column: str | None = None
    timestamp_column: str = "timestamp"
    timestamp_format: str | None = None
    timezone: ZoneName = "UTC"
    stamp: Literal["start", "end"] = "start"
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    transform: Literal["hour_of_week_ratio"] | None = None
    reference_until: date | None = None
    format: FileFormat = "auto"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8-sig"
    city_column: str = "city"
    city: str | None = None

    @model_validator(mode="after")
    def _reference_needs_ratio(self) -> Self:
        """Refuse an option that would have no effect."""
        if self.reference_until is not None and self.transform is None:
            raise ValueError(f"reference_until has no meaning without transform: {RATIO}")
        return self

    @property
    def label(self) -> str:
        """Provenance: file name, column, factor: `file:madrid.parquet#load*0.08`; never the folder."""
        factor = self.scale * (self.share or 1.0)
        column = f"#{self.column}" if self.column else ""
        return f"{NAME}:{Path(self.path).name}{column}" + (f"*{factor:g}" if factor != 1 else "")


def _own_config(config: SourceConfig) -> Config:
    """Return the configuration as this source's own."""
    if not isinstance(config, Config):
        raise InternalContractBroken(f"file was handed a {type(config).__name__}")
    return config


def fetch(ctx: FetchContext) -> Iterator[RawPayload]:
    """Read the whole file; what lies outside the window is left to ingest.

    Raises:
        RequestRefused: There is no such file, or it may not be read.
    """
    config = _own_config(ctx.config)
    path = Path(config.path)
    if not path.is_absolute() and (ctx.city.base_dir / path).exists():
        path = ctx.city.base_dir / path
    try:
        body = path.read_bytes()
    except OSError as failure:
        raise RequestRefused(
            f"{path.name} cannot be read: {failure.strerror}",
            source=NAME,
            field="path",
            value=config.path,
            allowed="a readable CSV or Parquet file",
        ) from failure
    yield RawPayload(
        source=NAME, url=f"file:{path.name}", status=200, headers={}, body=body, fetched_at=ctx.clock()
    )


def parse(raw: RawPayload, ctx: ParseContext) -> Parsed:
    """Turn a file into hourly rows; a value counts as known when its hour is over (`available_at`).

    Stamps finer than an hour are averaged where at least 75 % of the hour is there: right for rates (veh/h,
    MW over the hour = MWh) and concentrations; amounts per interval need `scale`. A repeated stamp keeps its
    last value. With `hour_of_week_ratio` the volume itself comes along as `traffic_volume`, and the index is
    clipped to 0-2 (flag `clipped`); hours of the warm-up carry the flag `usual_warm_up`.

    Raises:
        SourceError: `MalformedPayload`, `NoData`, or `RequestRefused` for a column that the file lacks.
    """
    config = _own_config(ctx.config)
    check_status(raw)
    name = Path(config.path).name
    columns: dict[str, str] = {}

    def choose(names: Sequence[str]) -> list[str]:
        columns.update(_columns_by_signal(config, ctx.signal, names, name))
        wanted = [require_column(config.timestamp_column, names, "timestamp_column", name), *columns.values()]
        if config.city is not None:
            wanted.append(require_column(config.city_column, names, "city_column", name))
        return list(dict.fromkeys(wanted))

    table, dropped = read_columns(
        raw.body,
        name,
        choose,
        file_format=config.format,
        delimiter=config.delimiter,
        encoding=config.encoding,
    )
    if config.city is not None:
        table = _rows_of_city(table, config, config.city, name)
    stamps, unplaced = utc_stamps(table[config.timestamp_column], config.timezone, config.timestamp_format)
    dropped.update(unplaced)
    if dropped["bad_timestamp"] == len(table):
        raise MalformedPayload(
            f"{name}: no stamp in '{config.timestamp_column}' is a time",
            source=NAME,
            field="timestamp_column",
            value=str(table[config.timestamp_column].iloc[0]),
            allowed="ISO 8601, or the layout given as timestamp_format",
        )
    notes = {"file": name}
    if config.share is not None:
        notes["share"] = f"{config.share:g}"
    parsed = Parsed(dropped=+dropped, notes=notes)
    parts = [
        _signal_rows(signal, table[column], stamps, config, ctx.timezone, parsed.dropped)
        for signal, column in columns.items()
    ]
    parts = [part for part in parts if len(part)]
    parsed.rows = pd.concat(parts, ignore_index=True) if parts else empty_rows()
    return parsed


def _columns_by_signal(config: Config, signal: str | None, names: Sequence[str], name: str) -> dict[str, str]:
    """Return which column gives which signal."""
    if config.transform is not None and signal not in (None, TRAFFIC_INDEX):
        raise RequestRefused(
            f"transform {RATIO} makes {TRAFFIC_INDEX}, not {signal}",
            source=NAME,
            field="transform",
            value=config.transform,
            allowed=f"only under {TRAFFIC_INDEX}",
        )
    wanted = TRAFFIC_INDEX if config.transform is not None else signal
    if wanted is None and config.column is None:
        return {column: column for column in names if column in SIGNALS}
    column = config.column or str(wanted)
    target = wanted or column
    if target not in SIGNALS:
        raise RequestRefused(
            f"column '{column}' is not named like a signal",
            source=NAME,
            field="column",
            value=column,
            allowed=list(SIGNALS),
        )
    return {target: require_column(column, names, "column", name)}


def _rows_of_city(table: pd.DataFrame, config: Config, city: str, name: str) -> pd.DataFrame:
    """Keep one city of a shared file."""
    found = table[config.city_column].astype(str).str.strip()
    kept = table[found == city]
    if kept.empty:
        raise NoData(
            f"{name} has no rows of city '{city}'",
            source=NAME,
            field="city",
            value=city,
            allowed=sorted(found.unique()),
        )
    return kept.reset_index(drop=True)


def _signal_rows(
    signal: str,
    column: pd.Series,
    stamps: pd.DatetimeIndex,
    config: Config,
    city_timezone: str,
    dropped: Counter[str],
) -> pd.DataFrame:
    """Return the parsed rows of one signal: one per hour that the file covers."""
    values, unusable = numeric(column, config.decimal)
    dropped.update(unusable)
    series = pd.Series(values.to_numpy() * config.scale * (config.share or 1.0), index=stamps)
    series = series[series.index.notna() & series.notna().to_numpy()]
    series, conflicting = _without_duplicates(series, dropped)
    hourly, flagged = _to_hours(series, conflicting, resolution_of(stamps), config.stamp, dropped)
    flags = pd.Series(np.where(flagged, "conflicting_duplicate", ""), index=hourly.index)
    if config.transform is None:
        return _table(signal, hourly, flags)
    hours = pd.DatetimeIndex(hourly.index)
    usual, warm_up = usual_values(hours, hourly.to_numpy(), city_timezone, config.reference_until)
    known = usual > 0
    if not known.all():
        dropped["no_usual_value"] += int((~known).sum())
    ratio = hourly[known] / usual[known]
    ceiling = SIGNALS[TRAFFIC_INDEX].maximum
    ratio_flags = _with_flag(flags[known], "usual_warm_up", warm_up[known])
    ratio_flags = _with_flag(ratio_flags, "clipped", (ratio > ceiling).to_numpy())
    index_rows = _table(signal, ratio.clip(upper=ceiling), ratio_flags)
    return pd.concat([index_rows, _table(TRAFFIC_VOLUME, hourly, flags)], ignore_index=True)


def _with_flag(flags: pd.Series, flag: str, where: np.ndarray) -> pd.Series:
    """Append a flag to the comma-separated flags of the marked rows."""
    return flags.where(~where, np.where(flags == "", flag, flags + f",{flag}"))


def _without_duplicates(series: pd.Series, dropped: Counter[str]) -> tuple[pd.Series, pd.Series]:
    """Keep the last value of each stamp; return also which kept stamps had differing values."""
    repeated = series.index.duplicated(keep="last")
    if not repeated.any():
        return series, pd.Series(False, index=series.index)
    dropped["duplicate"] += int(repeated.sum())
    by_stamp = series.groupby(level=0)
    differing = by_stamp.max() > by_stamp.min()
    kept = series[~repeated]
    return kept, differing.reindex(kept.index)


def _to_hours(
    series: pd.Series,
    flagged: pd.Series,
    resolution: pd.Timedelta,
    stamp: Literal["start", "end"],
    dropped: Counter[str],
) -> tuple[pd.Series, np.ndarray]:
    """Average to whole hours where 75 % of the hour is there; return the values and their marks."""
    starts = pd.DatetimeIndex(series.index) - (resolution if stamp == "end" else pd.Timedelta(0))
    hours = starts.floor("h")
    if resolution == HOUR and hours.is_unique:
        order = np.argsort(hours.asi8, kind="stable")
        return pd.Series(series.to_numpy()[order], index=hours[order]), flagged.to_numpy()[order]
    grouped = pd.Series(series.to_numpy(), index=hours).groupby(level=0)
    complete = grouped.size() >= SHARE_OF_HOUR_NEEDED * (HOUR / resolution)
    if not complete.all():
        dropped["incomplete_hour"] += int((~complete).sum())
    marked = pd.Series(flagged.to_numpy(), index=hours).groupby(level=0).any()
    return grouped.mean()[complete], marked[complete].to_numpy()


def _table(signal: str, values: pd.Series, flags: pd.Series) -> pd.DataFrame:
    """Return parsed rows; a value is known when its hour is over."""
    hours = pd.DatetimeIndex(values.index)
    return parsed_rows(hours, signal, values, available_at=hours + HOUR, flags=flags.tolist())
