"""Inputs of the direct peers, ridge and LightGBM: what is known at an origin about one hour ahead of it."""

from __future__ import annotations

import numpy as np

from benchmarks.skill.task import HORIZON_HOURS, WEATHER, Float, Positions, Task
from urbanwm.features.calendar import DAY_CLASSES, HOURS_PER_DAY
from urbanwm.features.similar_day import build_table, day_table

HOURS_PER_WEEK = 168
FIRST_START = 3 * HOURS_PER_WEEK
"""Training origins before this hour of the record have no history to speak of."""
SIMILAR_COUNTS = (1, 3, 8)
LONGEST_MEAN = 2


def direct_inputs(task: Task, starts: Positions, signal: int) -> tuple[Float, Float]:
    """Return inputs `(origins, 48, features)` and the similar-day mean `(origins, 48)` of one target.

    Known at the origin: the last day hour by hour, means and deviations from similar days, the other targets'
    and the weather's last day. Known of the target hour: its calendar, the same hour yesterday and last week,
    and means of the last 1, 3 and 8 days of its kind. Missing values are NaN.
    """
    values, days = task.values[:, signal], task.days
    hours = starts[:, None] + np.arange(HORIZON_HOURS)
    table = day_table(task.values.astype(np.float32), days.day, days.hour)
    similar = build_table(table, days.day_class, DAY_CLASSES, SIMILAR_COUNTS)
    usual = similar.lookup(days.day, days.day_class[days.day], days.hour)[:, signal, LONGEST_MEAN]
    deviation = values - usual
    cutoff = np.broadcast_to(days.day[starts][:, None], hours.shape)
    ahead = similar.lookup(cutoff, days.day_class[days.day[hours]], days.hour[hours])[..., signal, :]
    last_day = starts[:, None] - 1 - np.arange(HOURS_PER_DAY)
    back = [_season_back(hours, starts, season) for season in (HOURS_PER_DAY, HOURS_PER_WEEK)]
    at_origin = [
        values[last_day],
        np.stack([_mean_before(values, starts, n) for n in (HOURS_PER_DAY, HOURS_PER_WEEK)], axis=1),
        np.stack([_mean_before(deviation, starts, n) for n in (3, 6, 24, 72)], axis=1),
        np.stack([_mean_before(task.values[:, s], starts, HOURS_PER_DAY) for s in range(3)], axis=1),
    ]
    for name in WEATHER:
        if name in task.frame:
            weather = task.frame[name].to_numpy(dtype=np.float64)
            day, before = (
                _mean_before(weather, starts - shift, HOURS_PER_DAY) for shift in (0, HOURS_PER_DAY)
            )
            at_origin.append(np.stack([weather[starts - 1], day, day - before], axis=1))
    shared = np.concatenate(at_origin, axis=1)
    calendar = days.features[hours]
    work = (calendar[..., 6] > 0)[..., None]  # the day's shape differs on workdays
    angle = 2 * np.pi * days.hour[hours] / HOURS_PER_DAY
    shape = np.stack([f(k * angle) for k in (1, 2, 3, 4) for f in (np.sin, np.cos)], axis=-1)
    of_hour = [np.stack([values[b] for b in back], axis=-1), ahead, calendar, shape * work, shape]
    repeated = np.broadcast_to(shared[:, None], (*hours.shape, shared.shape[1]))
    return np.concatenate([repeated, *of_hour], axis=-1), np.asarray(
        ahead[..., LONGEST_MEAN], dtype=np.float64
    )


def _season_back(hours: Positions, starts: Positions, season: int) -> Positions:
    """Return the position of the same hour in the last whole season before the origin."""
    return hours - season * ((hours - starts[:, None]) // season + 1)


def _mean_before(values: Float, starts: Positions, hours: int) -> Float:
    """Return the mean of the last `hours` hours before each origin, ignoring gaps; NaN without any."""
    present = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(present, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(present)])
    first = np.maximum(starts - hours, 0)
    number = count[starts] - count[first]
    return np.where(number > 0, (total[starts] - total[first]) / np.maximum(number, 1), np.nan)
