"""Feature building as duckdb does it: one SQL query."""

from __future__ import annotations

from collections.abc import Callable

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


def load_duckdb() -> Callable[[Task], Run]:
    """Return duckdb's side."""
    import duckdb

    def prepare(task: Task) -> Run:
        base = duckdb.connect(config={"threads": 1})
        # NaN is a number to SQL: missing values come as NULL.
        hours, days = task.frame.reset_index(), task.days()
        for name, source in (("source_hours", hours), ("days", days), ("clock", CLOCK)):
            base.register(f"{name}_frame", source)
            base.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_frame")
        nulls = ", ".join(f"CASE WHEN isnan({n}) THEN NULL ELSE {n} END AS {n}" for n in task.signals)
        base.execute(f"CREATE TABLE hours AS SELECT timestamp, {nulls} FROM source_hours ORDER BY timestamp")
        query = _sql(task)
        return Run(
            lambda: base.sql(query).to_arrow_table(),
            lambda table: {c: table[c].to_numpy() for c in table.column_names},
        )

    return prepare


def _sql(task: Task) -> str:
    """Return the work as one SQL query."""
    z = ", ".join(
        f"(({f'ln(1 + {n})' if n in LOG_SIGNALS else n}) - {task.mean[n]!r}) / {task.std[n]!r} AS {n}"
        for n in task.signals
    )
    changes = ", ".join(
        f"{b} - lag({b}, {CHANGE_HOURS}) OVER (ORDER BY timestamp) AS {n}"
        for n in task.observed
        if n.endswith(CHANGE_SUFFIX)
        for b in [n.removesuffix(CHANGE_SUFFIX)]
    )
    zone = f"(timestamp AT TIME ZONE '{task.zone}')"
    means = [
        f"avg({t}) OVER (PARTITION BY {', '.join(PARTITIONS[part])} ORDER BY date "
        f"ROWS BETWEEN {count} PRECEDING AND 1 PRECEDING) AS {t}_{name}"
        for t in TARGETS
        for name, part, count in SIMILAR_DAYS
    ]
    week = [
        f"CASE WHEN lag(day_class, 7) OVER (PARTITION BY hour ORDER BY date) = day_class "
        f"THEN lag({t}, 7) OVER (PARTITION BY hour ORDER BY date) END AS {t}_last_week"
        for t in TARGETS
    ]
    steps, last = [], "g0"
    fills = [(n, LONGER[n]) for n, _, _ in reversed(SIMILAR_DAYS) if n in LONGER]
    for number, (name, stand_in) in enumerate((*fills, *STAND_INS, ("last_week", "similar_1")), 1):
        replaced = ", ".join(f"coalesce({t}_{name}, {t}_{stand_in}) AS {t}_{name}" for t in TARGETS)
        steps.append(f"g{number} AS (SELECT * REPLACE ({replaced}) FROM {last})")
        last = f"g{number}"
    return f"""
    WITH z AS (SELECT timestamp, {z}, {zone}::DATE AS date, hour({zone})::INTEGER AS hour FROM hours),
    hourly AS (SELECT *, {changes} FROM z),
    seen AS (SELECT date, hour, {", ".join(f"last({t} ORDER BY timestamp) AS {t}" for t in TARGETS)}
             FROM hourly GROUP BY date, hour),
    grid AS (SELECT d.date::DATE AS date, c.hour, day_class, weekday_class, {", ".join(TARGETS)}
             FROM days d CROSS JOIN clock c LEFT JOIN seen s ON s.date = d.date::DATE AND s.hour = c.hour),
    g0 AS (SELECT date, hour, {", ".join([*means, *week])} FROM grid),
    {", ".join(steps)},
    joined AS (SELECT * FROM hourly JOIN {last} USING (date, hour)
               JOIN (SELECT * REPLACE (date::DATE AS date) FROM days) USING (date) JOIN clock USING (hour)),
    degreed AS (SELECT *, {_sql_degrees(task)} FROM joined),
    weathered AS (SELECT *, {_sql_weather(task)} FROM degreed)
    SELECT {", ".join(_sql_columns(task))} FROM weathered ORDER BY timestamp"""


def _before(value: str, span: int) -> str:
    return f"avg({value}) OVER (ORDER BY timestamp ROWS BETWEEN {span} PRECEDING AND 1 PRECEDING)"


def _sql_degrees(task: Task) -> str:
    """Return what calls for heating and cooling; `greatest` of a missing value would be the other one."""
    seen = f"CASE WHEN {DEGREES_OF} IS NOT NULL THEN"
    return ", ".join(
        f"{seen} greatest({side} * ({DEGREES_OF} - {limit!r}), 0) END AS {name}"
        for name, (limit, side) in task.degrees.items()
    )


def _sql_weather(task: Task) -> str:
    """Return the anomaly, the change or the value itself of the weather, hour by hour."""
    kinds = {
        "anomaly": lambda n: f"{n} - coalesce({_before(n, USUAL_WEATHER_HOURS)}, 0)",
        "change": lambda n: f"{n} - lag({n}, {CHANGE_HOURS}) OVER (ORDER BY timestamp)",
        "mean": lambda n: n,
    }
    wanted = sorted({(signal, of) for signal, of, _ in task.state.values()})
    return ", ".join(f"{kinds[of](signal)} AS weather_{signal}_{of}" for signal, of in wanted)


def _sql_columns(task: Task) -> list[str]:
    """Return the expressions of the last step."""
    out = {f"obs_{n}": f"coalesce({n}, 0)" for n in task.observed}
    out |= {f"mask_{n}": f"{n} IS NOT NULL" for n in task.observed}
    daily = (c for c in task.daily if c not in ("date", "day_class", "weekday"))
    out |= {c: c for c in (*CLOCK.columns[1:], *daily)}
    for t in TARGETS:
        out[f"{t}_missing"] = f"{t}_last_week IS NULL"
        out |= {f"{t}_{name}": f"coalesce({t}_{name}, 0)" for name in MEANS}
        for name, compared, span, _ in RECENT:
            expected = f"{t}_{compared or LEVEL_STAND_IN}"
            value = f"coalesce({t}, {expected})" if compared is None else f"{t} - {expected}"
            out[f"{t}_{name}"] = f"coalesce({_before(value, span)}, 0)"
        for name, span in SPREAD:
            size = _before(f"abs({t} - {t}_similar_8)", span)
            out[f"{t}_{name}"] = f"coalesce(ln({size} + {SMALLEST_ERROR}), 0)"
    out |= {
        column: f"coalesce({_before(f'weather_{signal}_{of}', span)}, 0)"
        for column, (signal, of, span) in task.state.items()
    }
    return [f"({value})::FLOAT AS {name}" for name, value in out.items()]
