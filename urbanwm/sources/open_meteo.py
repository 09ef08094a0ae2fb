"""Open-Meteo: modelled air quality (CAMS) and weather (archive, past forecasts, forecast); no key.

Nothing here is measured: every row is flagged `model`. Values for hours that have not begun when the answer
was fetched are forecasts and are kept apart. Data CC BY 4.0, to be credited to Open-Meteo and Copernicus.
Facts and traps (local times, preceding hours, units, limits): docs/sources.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from urbanwm.clock import floor_hour
from urbanwm.errors import (
    BadInput,
    NoData,
    RateLimited,
    RequestRefused,
    SourceError,
    UpstreamUnavailable,
)
from urbanwm.sources.base import (
    FetchContext,
    ParseContext,
    Parsed,
    RawPayload,
    SourceConfig,
    Traits,
    Window,
)
from urbanwm.sources.body import malformed, own_config, read_json, read_number
from urbanwm.sources.collect import HOUR, RowCollector, chunks
from urbanwm.sources.geo import read_place, require_near
from urbanwm.sources.http import check_status, get
from urbanwm.sources.open_meteo_time import read_moments

NAME = "open_meteo"
KEY: str | None = None
TRAITS = Traits()

Product = Literal["air_quality", "forecast", "historical_forecast", "archive"]
ENDPOINTS: dict[str, str] = {
    "air_quality": "https://air-quality-api.open-meteo.com/v1/air-quality",
    "forecast": "https://api.open-meteo.com/v1/forecast",
    "historical_forecast": "https://historical-forecast-api.open-meteo.com/v1/forecast",
    "archive": "https://archive-api.open-meteo.com/v1/archive",
}
PAST_DAYS_MAX = 92  # how far back the forecast service reaches
LONGEST_REQUEST = timedelta(days=366)  # one variable over a year counts as 3 of 10,000 calls a day
ARCHIVE_LATENCY = timedelta(days=5)  # ERA5
MODEL_RUN_LATENCY = timedelta(hours=6)  # a model run is published some hours after its start
GRID_CELL_KM_MAX = 60.0  # the coarsest grid has cells of 45 km; what is farther away is another place
ATTRIBUTION = "Open-Meteo.com (CC BY 4.0); Copernicus (ERA5, CAMS)"


class _Variable(NamedTuple):
    """One upstream variable: our signal, its unit when none is stated, and what its stamp means."""

    signal: str
    default_unit: str
    preceding_hour: bool = False


# Of two variables for one signal the one that stands first here counts.
VARIABLES: dict[str, _Variable] = {
    "pm2_5": _Variable("pm25", "µg/m³"),
    "nitrogen_dioxide": _Variable("no2", "µg/m³"),
    "temperature_2m": _Variable("temperature_c", "°C"),
    "wind_speed_10m": _Variable("wind_speed_ms", "km/h"),
    "windspeed_10m": _Variable("wind_speed_ms", "km/h"),
    "relative_humidity_2m": _Variable("humidity_pct", "%"),
    "relativehumidity_2m": _Variable("humidity_pct", "%"),
    "surface_pressure": _Variable("pressure_hpa", "hPa"),
    "pressure_msl": _Variable("pressure_hpa", "hPa"),
    "precipitation": _Variable("precipitation_mm", "mm", preceding_hour=True),
    "boundary_layer_height": _Variable("boundary_layer_height_m", "m"),
}
AIR_QUALITY_SIGNALS = ("pm25", "no2")

# Upstream unit -> (factor, offset) to ours: ours = factor · theirs + offset.
UNITS: dict[str, dict[str, tuple[float, float]]] = {
    "pm25": {"µg/m³": (1.0, 0.0)},
    "no2": {"µg/m³": (1.0, 0.0)},
    "temperature_c": {"°C": (1.0, 0.0), "°F": (5 / 9, -160 / 9)},
    "wind_speed_ms": {
        "m/s": (1.0, 0.0),
        "km/h": (1 / 3.6, 0.0),
        "mp/h": (0.44704, 0.0),
        "mph": (0.44704, 0.0),
        "kn": (1852 / 3600, 0.0),
    },
    "humidity_pct": {"%": (1.0, 0.0)},
    "pressure_hpa": {"hPa": (1.0, 0.0)},
    "precipitation_mm": {"mm": (1.0, 0.0), "inch": (25.4, 0.0)},
    "boundary_layer_height_m": {"m": (1.0, 0.0), "ft": (0.3048, 0.0)},
}


class Config(SourceConfig):
    """What to ask Open-Meteo for, at the city's coordinates.

    Attributes:
        product: Which service; None takes air quality for pollutants, and for weather the forecast service's
            past hours with the archive before them.
        domain: CAMS domain of the air-quality service; the two do not join smoothly.
        forecast_days: Days to ask for beyond a window that ends now, 0 to 16 (air quality: to 7); they are
            kept apart from observations.
    """

    product: Product | None = None
    domain: Literal["auto", "cams_europe", "cams_global"] = "auto"
    forecast_days: Annotated[int, Field(ge=0, le=16)] = 0

    @property
    def label(self) -> str:
        """Provenance that says that it is a model: `open_meteo:cams_europe`, `open_meteo:archive`."""
        if self.product == "air_quality":
            return f"{NAME}:{'cams' if self.domain == 'auto' else self.domain}"
        return f"{NAME}:{self.product or 'model'}"


def fetch(ctx: FetchContext) -> Iterator[RawPayload]:
    """Ask for one signal in pieces of at most a year, in GMT and in our units.

    Raises:
        BadInput: Open-Meteo does not offer the signal.
        SourceError: A request failed; see `urbanwm.sources.http.get`.
    """
    config = own_config(ctx.config, Config)
    variable = next((name for name, known in VARIABLES.items() if known.signal == ctx.signal), None)
    if variable is None:
        raise BadInput(
            f"open_meteo has no {ctx.signal}",
            field="signal",
            value=ctx.signal,
            allowed=sorted({known.signal for known in VARIABLES.values()}),
        )
    place = ctx.city.location
    for product, window in _plan(config, ctx):
        params = {
            "latitude": f"{place.latitude:g}",
            "longitude": f"{place.longitude:g}",
            "hourly": variable,
            "timezone": "GMT",
            "wind_speed_unit": "ms",
            "start_date": window.start.date().isoformat(),
            # The sum of the last hour is stamped with its end, which may be the next midnight.
            "end_date": window.end.date().isoformat(),
        }
        if product == "air_quality":
            params["domains"] = config.domain
        yield get(ENDPOINTS[product], source=NAME, clock=ctx.clock, params=params)


def _plan(config: Config, ctx: FetchContext) -> Iterator[tuple[Product, Window]]:
    """Yield which service answers for which part of the window."""
    ahead = timedelta(days=config.forecast_days if ctx.window.end >= floor_hour(ctx.clock()) else 0)
    window = Window(ctx.window.start, ctx.window.end + ahead)
    if config.product is not None or ctx.signal in AIR_QUALITY_SIGNALS:
        for piece in chunks(window, LONGEST_REQUEST):
            yield config.product or "air_quality", piece
        return
    reach = floor_hour(ctx.clock()) - timedelta(days=PAST_DAYS_MAX - 1)
    for piece in chunks(Window(window.start, min(window.end, reach)), LONGEST_REQUEST):
        yield "archive", piece
    for piece in chunks(Window(max(window.start, reach), window.end), LONGEST_REQUEST):
        yield "forecast", piece


def parse(raw: RawPayload, ctx: ParseContext) -> Parsed:
    """Turn one answer into hourly rows, flagged `model`; hours to come go to `forecast_rows`.

    Sums of the preceding hour are moved to the hour they fall in. Units are read from `hourly_units`.

    Raises:
        SourceError: `RateLimited`, `RequestRefused`, `NoData`, `StationTooFar` (an answer about another
            place), `MalformedPayload` or the status's own error.
    """
    own_config(ctx.config, Config)
    document = read_json(raw)
    if not isinstance(document, dict):
        check_status(raw)
        raise malformed(NAME, "the answer is not about one place", "body", type(document).__name__)
    _raise_reported_error(raw, document)
    check_status(raw)
    hourly = document.get("hourly")
    if not isinstance(hourly, dict) or not isinstance(hourly.get("time"), list):
        raise malformed(NAME, "the answer has no hourly block", "hourly")
    cell = read_place(read_number(document.get("latitude")), read_number(document.get("longitude")))
    require_near(NAME, ctx, cell, max_distance_km=GRID_CELL_KM_MAX, field="latitude")
    latency = ARCHIVE_LATENCY if raw.url.startswith(ENDPOINTS["archive"]) else MODEL_RUN_LATENCY
    rows = RowCollector(raw, ctx, latency, keep_future=True)
    rows.notes = {"method": "model", "attribution": ATTRIBUTION}
    moments = read_moments(document, hourly["time"])
    units = document.get("hourly_units")
    read: dict[str, str] = {}
    for name, variable in VARIABLES.items():
        if name in hourly and rows.wants(variable.signal) and variable.signal not in read:
            _add_variable(rows, name, moments, hourly[name], units if isinstance(units, dict) else {})
            read[variable.signal] = name
    ignored = sorted(set(hourly) - set(read.values()) - {"time"})
    if ignored and not read:
        raise _of_something_else(ignored)
    if ignored:
        rows.notes["ignored"] = ",".join(ignored)
    return rows.parsed()


def _of_something_else(variables: list[str]) -> NoData:
    """Return the error for an answer that holds other variables only; a retry brings the same."""
    nothing = NoData(
        f"{NAME}: the answer holds none of our variables",
        source=NAME,
        field="hourly",
        value=",".join(variables),
        allowed=sorted(VARIABLES),
    )
    nothing.retryable = False
    return nothing


def _raise_reported_error(raw: RawPayload, document: dict[str, Any]) -> None:
    """Raise the error of an `{"error": true, "reason": …}` body, with whatever status it came."""
    if not document.get("error"):
        return
    if raw.status >= 500 or raw.status == 429:
        check_status(raw)
    reason = str(document.get("reason", "no reason given"))
    kind: type[SourceError] = RequestRefused
    if "limit exceeded" in reason.lower():
        kind = RateLimited
    elif "no data is available" in reason.lower():
        kind = NoData
    elif "timeout" in reason.lower() or "temporar" in reason.lower():
        kind = UpstreamUnavailable
    raise kind(f"open_meteo: {reason}", source=NAME, field="reason", value=reason)


def _add_variable(
    rows: RowCollector, name: str, moments: list[datetime], values: object, units: dict[str, Any]
) -> None:
    """Convert one variable and hand its values over, each in the hour it belongs to."""
    variable = VARIABLES[name]
    if not isinstance(values, list) or len(values) != len(moments):
        raise malformed(NAME, f"{name} has not one value per stamp", f"hourly.{name}")
    unit = str(units.get(name, variable.default_unit)).replace("μ", "µ")  # Greek mu, as the service writes it
    if unit not in UNITS[variable.signal]:
        rows.dropped["unknown_unit"] += len(values)
        return
    factor, offset = UNITS[variable.signal][unit]
    flags = ("model",) if name in units else ("model", "unit_assumed")
    for moment, value in zip(moments, values, strict=True):
        number = read_number(value)
        if number is None:
            rows.dropped["missing"] += 1
            continue
        hour = floor_hour(moment - HOUR if variable.preceding_hour else moment)
        rows.add(hour, variable.signal, factor * number + offset, *flags, valid_at=moment)
