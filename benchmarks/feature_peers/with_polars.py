"""Feature building as polars does it: one lazy query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.feature_peers.task import (
    CLOCK,
    LEVEL_STAND_IN,
    LONGER,
    MEANS,
    PARTITIONS,
    STAND_INS,
    Run,
    Task,
)
from urbanwm.contracts.signals import TARGETS
from urbanwm.features.history import SMALLEST_ERROR
from urbanwm.features.names import (
    CHANGE_HOURS,
    CHANGE_SUFFIX,
    DEGREES_OF,
    LOG_SIGNALS,
    RECENT,
    SIMILAR_DAYS,
    SPREAD,
    USUAL_WEATHER_HOURS,
)


def load_polars() -> Callable[[Task], Run]:
    """Return polars' side."""
    import polars as pl

    def prepare(task: Task) -> Run:
        hours = pl.from_pandas(task.frame.reset_index()).with_columns(pl.col(*task.signals).fill_nan(None))
        days = pl.from_pandas(task.days()).with_columns(pl.col("date").dt.date())
        clock = pl.from_pandas(CLOCK)

        def work() -> Any:  # noqa: ANN401 - polars may be absent, so its types cannot be named
            return _polars(pl, task, hours.lazy(), days.lazy(), clock.lazy()).collect()

        return Run(work, lambda table: {name: table[name].to_numpy() for name in table.columns})

    return prepare


def _polars_state(pl: Any, task: Task, signal: str, of: str, span: int) -> Any:  # noqa: ANN401 - see load_polars
    """Return one column of the weather state."""

    def before(values: Any, hours: int) -> Any:  # noqa: ANN401
        return values.shift(1).rolling_mean(hours, min_samples=1).fill_null(0.0)

    values = pl.col(signal)
    if signal in task.degrees:
        limit, side = task.degrees[signal]
        values = (side * (pl.col(DEGREES_OF) - limit)).clip(0.0)
    if of == "anomaly":
        values = values - before(values, USUAL_WEATHER_HOURS)
    elif of == "change":
        values = values.diff(CHANGE_HOURS)
    return before(values, span)


def _polars(pl: Any, task: Task, hours: Any, days: Any, clock: Any) -> Any:  # noqa: ANN401 - see load_polars
    """Do the work as one lazy query."""
    local = pl.col("timestamp").dt.convert_time_zone(task.zone)
    z = [
        (((pl.col(n).log1p() if n in LOG_SIGNALS else pl.col(n)) - task.mean[n]) / task.std[n]).alias(n)
        for n in task.signals
    ]
    changes = [
        pl.col(n.removesuffix(CHANGE_SUFFIX)).diff(CHANGE_HOURS).alias(n)
        for n in task.observed
        if n.endswith(CHANGE_SUFFIX)
    ]
    keys = [local.dt.date().alias("date"), local.dt.hour().cast(pl.Int32).alias("hour")]
    hourly = hours.with_columns(*z, *keys).with_columns(*changes).with_row_index("row")
    seen = hourly.select("date", "hour", *TARGETS).unique(["date", "hour"], keep="last")
    grid = (
        days.select("date", "day_class", "weekday_class")
        .join(clock.select("hour"), how="cross")
        .join(seen, on=["date", "hour"], how="left")
        .sort("date", "hour")
    )
    means = [
        pl.col(target)
        .shift(1)
        .rolling_mean(count, min_samples=1)
        .over(PARTITIONS[part])
        .alias(f"{target}_{name}")
        for target in TARGETS
        for name, part, count in SIMILAR_DAYS
    ]
    week = [
        pl.when(pl.col("day_class").shift(7).over("hour") == pl.col("day_class"))
        .then(pl.col(target).shift(7).over("hour"))
        .alias(f"{target}_last_week")
        for target in TARGETS
    ]
    grid = grid.with_columns(*means, *week)
    fills = [(n, LONGER[n]) for n, _, _ in reversed(SIMILAR_DAYS) if n in LONGER]
    for name, stand_in in (*fills, *STAND_INS, ("last_week", "similar_1")):
        filled = [
            pl.coalesce(f"{target}_{name}", f"{target}_{stand_in}").alias(f"{target}_{name}")
            for target in TARGETS
        ]
        grid = grid.with_columns(filled)
    grid = grid.select("date", "hour", *(f"{target}_{name}" for target in TARGETS for name in MEANS))
    table = (
        hourly.join(grid, on=["date", "hour"], how="left")
        .join(days.drop("day_class", "weekday_class"), on="date", how="left")
        .join(clock, on="hour", how="left")
        .sort("row")
    )
    out = [pl.col(n).fill_null(0.0).alias(f"obs_{n}") for n in task.observed]
    out += [pl.col(n).is_not_null().alias(f"mask_{n}") for n in task.observed]
    out += [
        pl.col(c)
        for c in (*CLOCK.columns[1:], *(c for c in task.daily if c not in ("date", "day_class", "weekday")))
    ]
    for target in TARGETS:
        out += [pl.col(f"{target}_last_week").is_null().alias(f"{target}_missing")]
        out += [pl.col(f"{target}_{name}").fill_null(0.0) for name in MEANS]
        for name, compared, span, _ in RECENT:
            value, expected = pl.col(target), pl.col(f"{target}_{compared or LEVEL_STAND_IN}")
            value = value.fill_null(expected) if compared is None else value - expected
            out.append(
                value.shift(1).rolling_mean(span, min_samples=1).fill_null(0.0).alias(f"{target}_{name}")
            )
        size = (pl.col(target) - pl.col(f"{target}_similar_8")).abs().shift(1)
        out += [
            (size.rolling_mean(span, min_samples=1) + SMALLEST_ERROR)
            .log()
            .fill_null(0.0)
            .alias(f"{target}_{name}")
            for name, span in SPREAD
        ]
    out += [_polars_state(pl, task, *feature).alias(name) for name, feature in task.state.items()]
    return table.select(expression.cast(pl.Float32) for expression in out)
