"""Feature building as pandas does it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

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


def load_pandas() -> Callable[[Task], Run]:
    """Return pandas' side."""
    return lambda task: Run(lambda: _pandas(task), lambda table: {c: table[c].to_numpy() for c in table})


def _pandas(task: Task) -> pd.DataFrame:
    """Do the work in pandas."""
    frame = task.frame
    raw = frame.assign(**{name: np.log1p(frame[name]) for name in task.signals if name in LOG_SIGNALS})
    z = pd.DataFrame({name: (raw[name] - task.mean[name]) / task.std[name] for name in task.signals})
    for name in task.observed:
        if name.endswith(CHANGE_SUFFIX):
            z[name] = z[name.removesuffix(CHANGE_SUFFIX)].diff(CHANGE_HOURS)
    out = {f"obs_{name}": z[name].fillna(0.0) for name in task.observed}
    out |= {f"mask_{name}": z[name].notna() for name in task.observed}
    local = pd.DatetimeIndex(frame.index).tz_convert(task.zone).tz_localize(None)
    keys = pd.DataFrame({"date": local.normalize(), "hour": local.hour.astype(np.int32)})
    calendar = keys.merge(task.days(), on="date", how="left").merge(CLOCK, on="hour", how="left")
    names = [c for c in calendar if c not in ("date", "hour", "day_class", "weekday_class")]
    out |= {name: calendar[name].set_axis(frame.index) for name in names}
    table = _pandas_means(task, z, keys)
    means = keys.merge(table, on=["date", "hour"], how="left").set_axis(frame.index)
    for target in TARGETS:
        missing = means[f"{target}_last_week"].isna()
        out[f"{target}_missing"] = missing
        out |= {f"{target}_{name}": means[f"{target}_{name}"].where(~missing, 0.0) for name in MEANS}
        for name, compared, span, _ in RECENT:
            expected = means[f"{target}_{compared or LEVEL_STAND_IN}"].where(~missing)
            deviation = z[target].fillna(expected) if compared is None else z[target] - expected
            deviation = deviation.shift(1)
            out[f"{target}_{name}"] = deviation.rolling(span, min_periods=1).mean().fillna(0.0)
        size = (z[target] - means[f"{target}_similar_8"].where(~missing)).abs().shift(1)
        for name, span in SPREAD:
            spread = np.log(size.rolling(span, min_periods=1).mean() + SMALLEST_ERROR)
            out[f"{target}_{name}"] = spread.fillna(0.0)
    weather = {
        name: (side * (z[DEGREES_OF] - limit)).clip(lower=0.0) for name, (limit, side) in task.degrees.items()
    }
    for column, (signal, of, span) in task.state.items():
        values = weather.get(signal, z.get(signal))
        if of == "anomaly":
            values = values - values.shift(1).rolling(USUAL_WEATHER_HOURS, min_periods=1).mean().fillna(0.0)
        elif of == "change":
            values = values.diff(CHANGE_HOURS)
        out[column] = values.shift(1).rolling(span, min_periods=1).mean().fillna(0.0)
    return pd.DataFrame({name: column.astype(np.float32) for name, column in out.items()})


def _pandas_means(task: Task, z: pd.DataFrame, keys: pd.DataFrame) -> pd.DataFrame:
    """Return last week's value and the means of similar days, per local day and hour."""
    days = task.days()[["date", "day_class", "weekday_class"]]
    seen = z[list(TARGETS)].reset_index(drop=True).assign(date=keys["date"], hour=keys["hour"])
    seen = seen.drop_duplicates(["date", "hour"], keep="last")
    grid = days.merge(CLOCK[["hour"]], how="cross").merge(seen, on=["date", "hour"], how="left")
    by_hour = grid.groupby("hour")
    comparable = by_hour["day_class"].shift(7) == grid["day_class"]
    columns = {"date": grid["date"], "hour": grid["hour"]}
    for target in TARGETS:
        means = {}
        for partition, keys_of in PARTITIONS.items():
            before = grid.groupby(keys_of)[target].shift(1)
            groups = before.groupby([grid[key] for key in keys_of])
            for name, part, count in SIMILAR_DAYS:
                if part == partition:
                    rolled = groups.rolling(count, min_periods=1).mean()
                    means[name] = rolled.droplevel(list(range(len(keys_of)))).sort_index()
        for name in reversed([name for name, _, _ in SIMILAR_DAYS]):
            if name in LONGER:
                means[name] = means[name].fillna(means[LONGER[name]])
        for name, stand_in in STAND_INS:
            means[name] = means[name].fillna(means[stand_in])
        means["last_week"] = by_hour[target].shift(7).where(comparable).fillna(means["similar_1"])
        columns |= {f"{target}_{name}": means[name] for name in MEANS}
    return pd.DataFrame(columns)
