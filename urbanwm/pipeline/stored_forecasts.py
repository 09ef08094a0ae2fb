"""The night's forecasts, made after the gate and kept until the hours have come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import pandas as pd

from urbanwm.baseline import BaselineForecaster
from urbanwm.cities import City, load_city
from urbanwm.clock import Clock, require_utc, utc_now
from urbanwm.contracts.scenario import Forecaster
from urbanwm.errors import UrbanWMError
from urbanwm.evaluation.backtest import forecast_table
from urbanwm.forecaster import WorldModelForecaster
from urbanwm.ingest import city_now
from urbanwm.lake import LakeReader
from urbanwm.model.bundle import Bundle
from urbanwm.monitoring import Alert, make_alert
from urbanwm.monitoring.live import BASELINE, CHAMPION
from urbanwm.monitoring.stored import ForecastStore
from urbanwm.pipeline.data import HORIZON_HOURS
from urbanwm.pipeline.judge import SAMPLES, SEED
from urbanwm.registry import CachedChampion, ChampionCache, Registry
from urbanwm.settings import Settings
from urbanwm.stores import records_of

BASELINE_VERSION: Final = "1"
"""Changes when the baseline's rule does, so that its stored forecasts do not mix."""


@dataclass(frozen=True)
class StoredForecasts:
    """What `store_forecasts` did.

    Attributes:
        champion: Version that forecast, or None.
        stored: New forecasts, as "city origin model".
        known: How many were there already.
        alerts: What could not be forecast or stored.
    """

    champion: str | None = None
    stored: list[str] = field(default_factory=list)
    known: int = 0
    alerts: list[Alert] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def store_forecasts(
    settings: Settings, names: Sequence[str], as_of: datetime, *, clock: Clock = utc_now
) -> StoredForecasts:
    """Forecast every city from the night's origin by champion and baseline, and store what they say.

    The origin is the last local midnight at or before `as_of` (or the end of a recorded city's data), so any
    number of runs on one day store one forecast per model, 48 h ahead. What cannot be done is an alert, and
    the others go on.

    Args:
        settings: Where the lake, the champion and the forecasts are.
        names: Cities.
        as_of: The time of the night.
        clock: Stamps `made_at` and nothing else.

    Raises:
        BadInput: `as_of` has no time zone.
    """
    moment = require_utc(as_of, "as_of")
    alerts: list[Alert] = []
    cached: CachedChampion | None = None
    try:
        cached = serving_champion(settings, clock)
    except (UrbanWMError, OSError) as error:
        alerts.append(make_alert("forecast_missing", f"the champion cannot be found: {error}"))
    work = _Work(settings, moment, pd.Timestamp(clock()))
    for name in names:
        try:
            work.run(name, cached)
        except (UrbanWMError, OSError) as error:
            alerts.append(make_alert("forecast_missing", str(error), city=name))
    ForecastStore(settings.forecasts_dir).prune(moment)
    return StoredForecasts(cached.version if cached else None, work.stored, work.known, alerts)


def serving_champion(settings: Settings, clock: Clock = utc_now) -> CachedChampion | None:
    """Return the bundle in service, from the local cache where the registry is away; None without any."""
    return ChampionCache(settings.cache_dir, Registry(settings, clock)).sync()


def night_origin(city: City, lake: LakeReader, moment: datetime) -> datetime:
    """Return the last local midnight that a city's data and the night have both reached, UTC."""
    return city.day_start(min(moment, city_now(city, lake, lambda: moment)))


@dataclass
class _Work:
    """The forecasts of one night: what is needed to make them, and the account."""

    settings: Settings
    moment: datetime
    made_at: pd.Timestamp
    stored: list[str] = field(default_factory=list)
    known: int = 0
    world_model: WorldModelForecaster | None = None

    def run(self, name: str, champion: CachedChampion | None) -> None:
        """Make the forecasts of one city that are not there yet."""
        city = load_city(name, self.settings)
        lake = records_of(self.settings)
        store = ForecastStore(self.settings.forecasts_dir)
        origin = night_origin(city, lake, self.moment)
        wanted = [(BASELINE, BASELINE_VERSION)]
        wanted += [(CHAMPION, champion.version)] if champion else []
        missing = [key for key in wanted if not store.path(city.name, origin, *key).is_file()]
        self.known += len(wanted) - len(missing)
        if not missing:
            return
        # To the horizon's end, for the weather forecasts: of all else, what was before the origin is seen.
        frame = lake.read(city.name, end=origin + timedelta(hours=HORIZON_HOURS))
        frame = frame.dropna(axis="columns", how="all")
        for model, version in missing:
            table = forecast_table(
                city,
                frame,
                self._forecaster(model, champion),
                [origin],
                horizon_hours=HORIZON_HOURS,
                samples=SAMPLES,
                seed=SEED,
            )
            table = table.drop(columns="observed").assign(model=model, version=version, made_at=self.made_at)
            store.put(table, city.name, origin, model, version)
            self.stored.append(f"{city.name} {origin:%Y-%m-%dT%H:%MZ} {model} {version}")

    def _forecaster(self, model: str, champion: CachedChampion | None) -> Forecaster:
        """Return who forecasts; the champion's bundle is loaded once for all cities."""
        if model == BASELINE or champion is None:
            return BaselineForecaster()
        if self.world_model is None:
            self.world_model = WorldModelForecaster(Bundle.load(champion.path))
        return self.world_model
