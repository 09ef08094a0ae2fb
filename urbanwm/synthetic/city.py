"""The simulated city's laws: how weather, habits and measures make power demand, traffic and air."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.contracts.signals import FACTOR_MAX, FACTOR_MIN, SIGNALS
from urbanwm.features.calendar import REST_DAY, SATURDAY, SPECIAL_DAY, SUNDAY, CityCalendar, local_days
from urbanwm.synthetic.noise import Seed, Stream, autocorrelated, remember, standard_noise, uniform
from urbanwm.synthetic.parameters import (
    REST_DAY_LOAD,
    REST_DAY_TRAFFIC,
    WORKDAY_LOAD,
    WORKDAY_TRAFFIC,
    CityParameters,
    Intervention,
)

Values = NDArray[np.float64]

YEAR_HOURS = 365.2425 * 24
COLDEST_HOUR_OF_YEAR = 20 * 24
WARMEST_HOUR_OF_DAY = 15
SOLAR_NOON_HOUR = 13
SPELL_HOURS = 128  # one decision about measures; a spell lasts between half and all of it
REGIME_HOURS = 1460  # two months: each target's level steps once in every such period
_REGIME_STREAMS = {
    "pm25": (Stream.PM25_REGIME, Stream.PM25_STEP),
    "energy_mwh": (Stream.ENERGY_REGIME, Stream.ENERGY_STEP),
    "traffic_index": (Stream.TRAFFIC_REGIME, Stream.TRAFFIC_STEP),
}


SATURDAY_REST_SHARE = 0.6  # a Saturday is that far on the way from a workday to a day of rest


def simulate(
    first: int,
    count: int,
    seed: Seed,
    parameters: CityParameters,
    calendar: CityCalendar,
    intervention: Intervention | None = None,
) -> dict[str, Values]:
    """Return `(count,)` of everything, from hour `first` since 1970 on; memories start empty at `first`."""
    hours = first + np.arange(count)
    index = pd.DatetimeIndex(hours.astype("datetime64[h]").astype("datetime64[us]")).tz_localize("UTC")
    clock = _clock(hours, index, calendar)
    weather = _weather(first, count, seed, clock)
    actions = _actions(first, count, seed, parameters)
    if intervention is not None:
        held = _held(intervention, index, clock)
        for name in ("car_free_ratio", "renewable_mix"):
            level = getattr(intervention, name)
            actions[name] = actions[name] if level is None else np.where(held, level, actions[name])
    economy = {
        "gdp_activity_index": _activity(seed, Stream.ECONOMY, first, count),
        "commercial_load_factor": _activity(seed, Stream.COMMERCE, first, count),
    }
    share = _renewable_share(parameters, weather, clock, actions, seed, first)
    regime = _regimes(first, count, seed, parameters)
    return {
        "pm25": _pm25(parameters, weather, clock, actions, share, regime, seed, first),
        "energy_mwh": _energy(parameters, weather, clock, economy, share, seed, first) * regime["energy_mwh"],
        **_traffic(parameters, weather, clock, actions, economy, regime, seed, first),
        "renewable_share": share,
        **weather,
        **actions,
        **economy,
    }


def _held(intervention: Intervention, index: pd.DatetimeIndex, clock: _Clock) -> NDArray[np.bool_]:
    """Return the hours in which the levers are held, `(count,)`."""
    held = np.asarray(index >= pd.Timestamp(intervention.start))
    if intervention.end is not None:
        held &= np.asarray(index < pd.Timestamp(intervention.end))
    return held & np.isin(clock.hour, intervention.hours) if intervention.hours else held


def _regimes(first: int, count: int, seed: Seed, parameters: CityParameters) -> dict[str, Values]:
    """Return the factor on each target's level, `(count,)`; it steps at a random hour of every period."""
    if parameters.regime_change == 0.0:
        return dict.fromkeys(_REGIME_STREAMS, np.ones(1))
    hours = first + np.arange(count)
    period, hour_of_period = hours // REGIME_HOURS, hours % REGIME_HOURS
    lowest = int(period[0]) - 1
    number = int(period[-1]) - lowest + 1
    factors = {}
    for name, (level_stream, step_stream) in _REGIME_STREAMS.items():
        level = standard_noise(seed, level_stream, lowest, number)
        step_hour = uniform(seed, step_stream, lowest, number) * REGIME_HOURS
        begun = hour_of_period >= step_hour[period - lowest]
        # Until a period's own step the level of the one before holds.
        regime = level[period - lowest - ~begun]
        factors[name] = np.exp(parameters.regime_change * regime)
    return factors


@dataclass(frozen=True)
class _Clock:
    """What the local clock and the sun say of each hour, `(hours,)`.

    Attributes:
        hour: Local hour of day.
        rest: 1 on a day of rest, 0.6 on a Saturday, 0 on a workday.
        usual_rest: The same, as if there were no holidays.
        special: 1 on bridge days and around New Year.
        season: -1 in the coldest, +1 in the warmest time of the year.
        sun: 0 at night to 1 at noon in high summer.
    """

    hour: NDArray[np.int64]
    rest: Values
    usual_rest: Values
    special: Values
    season: Values
    sun: Values


def _clock(hours: NDArray[np.int64], index: pd.DatetimeIndex, calendar: CityCalendar) -> _Clock:
    """Lay the hours out in local time."""
    days = local_days(index, calendar)
    weekday, day_class = days.weekday[days.day], days.day_class[days.day]
    usual_rest = np.select([weekday == SUNDAY, weekday == SATURDAY], [1.0, SATURDAY_REST_SHARE], 0.0)
    season = -np.cos(2 * np.pi * (hours - COLDEST_HOUR_OF_YEAR) / YEAR_HOURS)
    height = np.cos(2 * np.pi * (days.hour - SOLAR_NOON_HOUR) / 24) + 0.3 * season
    return _Clock(
        hour=days.hour,
        rest=np.where(day_class == REST_DAY, 1.0, usual_rest),
        usual_rest=usual_rest,
        special=(day_class == SPECIAL_DAY).astype(np.float64),
        season=season,
        sun=np.clip(height, 0.0, None) / 1.3,
    )


def _weather(first: int, count: int, seed: Seed, clock: _Clock) -> dict[str, Values]:
    """Return autocorrelated weather: spells of low pressure are windier and wetter."""

    def noise(stream: Stream, memory: float) -> Values:
        return autocorrelated(seed, stream, first, count, memory)

    pressure = noise(Stream.PRESSURE, 0.985)
    wind = 3.0 * np.exp(0.4 * noise(Stream.WIND, 0.95) - 0.15 * pressure + 0.25 * clock.sun - 0.15)
    rain = np.clip(noise(Stream.RAIN, 0.85) - 0.7 * pressure - 1.8, 0.0, None)
    day = np.cos(2 * np.pi * (clock.hour - WARMEST_HOUR_OF_DAY) / 24)
    temperature = 11.0 + 9.0 * clock.season + (2.5 + 1.5 * clock.season) * day
    temperature += 3.0 * noise(Stream.TEMPERATURE, 0.985)
    humidity = 76.0 - 11.0 * day - 6.0 * clock.season + 9.0 * noise(Stream.HUMIDITY, 0.95) + 8.0 * (rain > 0)
    mixing = (150.0 + 1100.0 * clock.sun + 70.0 * wind) * np.exp(0.25 * noise(Stream.MIXING, 0.9))
    return {
        "temperature_c": temperature,
        "wind_speed_ms": np.clip(wind, 0.2, 30.0),
        "humidity_pct": np.clip(humidity, 12.0, 100.0),
        "pressure_hpa": 1015.0 + 8.0 * pressure,
        "precipitation_mm": 1.2 * rain,
        "boundary_layer_height_m": np.clip(mixing, 80.0, 3500.0),
    }


def _activity(seed: Seed, stream: Stream, first: int, count: int) -> Values:
    """Return a slowly wandering factor around 1."""
    return np.clip(1.0 + 0.03 * autocorrelated(seed, stream, first, count, 0.99), FACTOR_MIN, FACTOR_MAX)


def _actions(first: int, count: int, seed: Seed, parameters: CityParameters) -> dict[str, Values]:
    """Return the levers: at the status quo, or held at a level for a spell of 64 to 128 hours."""
    car_free = _spells(
        (Stream.CAR_FREE_SPELL, Stream.CAR_FREE_LEVEL, Stream.CAR_FREE_START), first, count, seed, parameters
    )
    renewable = _spells(
        (Stream.RENEWABLE_SPELL, Stream.RENEWABLE_LEVEL, Stream.RENEWABLE_START),
        first,
        count,
        seed,
        parameters,
    )
    return {
        "car_free_ratio": np.nan_to_num(car_free, nan=0.0),
        "renewable_mix": np.nan_to_num(renewable, nan=parameters.renewable_status_quo),
    }


def _spells(
    streams: tuple[Stream, Stream, Stream], first: int, count: int, seed: Seed, parameters: CityParameters
) -> Values:
    """Return the level of a lever while a spell of it lasts, NaN outside, `(count,)`."""
    hours = first + np.arange(count)
    slot, hour_of_slot = hours // SPELL_HOURS, hours % SPELL_HOURS
    slots = int(slot[-1] - slot[0]) + 1
    chance, level, start = (uniform(seed, stream, int(slot[0]), slots)[slot - slot[0]] for stream in streams)
    in_force = (chance < parameters.spell_probability) & (hour_of_slot >= start * (SPELL_HOURS / 2))
    return np.where(in_force, level, np.nan)


def _renewable_share(
    parameters: CityParameters,
    weather: dict[str, Values],
    clock: _Clock,
    actions: dict[str, Values],
    seed: Seed,
    first: int,
) -> Values:
    """Return the realised share: the mix wanted, moved by wind and sun."""
    usual_wind, usual_sun = 3.0, 0.25
    moved = parameters.renewable_per_wind * (weather["wind_speed_ms"] - usual_wind)
    moved += parameters.renewable_per_sun * (clock.sun - usual_sun)
    moved += parameters.renewable_noise * autocorrelated(seed, Stream.RENEWABLES, first, len(moved), 0.97)
    return np.clip(actions["renewable_mix"] + moved, 0.0, 1.0)


def _between(workday: Values, rest_day: Values, clock_hour: NDArray[np.int64], rest: Values) -> Values:
    """Return the hour's habit, between a workday's and a day of rest's."""
    return workday[clock_hour] * (1 - rest) + rest_day[clock_hour] * rest


def _energy(
    parameters: CityParameters,
    weather: dict[str, Values],
    clock: _Clock,
    economy: dict[str, Values],
    share: Values,
    seed: Seed,
    first: int,
) -> Values:
    """Return demand, MWh in the hour."""
    # Buildings follow the temperature of the last day, not of the hour.
    felt = remember(weather["temperature_c"], 0.93)
    heating = parameters.energy_heating_per_c * np.clip(parameters.heating_below_c - felt, 0.0, None)
    cooling = parameters.energy_cooling_per_c * np.clip(felt - parameters.cooling_above_c, 0.0, None)
    habit = _between(WORKDAY_LOAD, REST_DAY_LOAD, clock.hour, np.maximum(clock.rest, 0.3 * clock.special))
    noise = parameters.energy_noise * autocorrelated(seed, Stream.ENERGY, first, len(share), 0.9)
    activity = economy["gdp_activity_index"] * np.sqrt(economy["commercial_load_factor"])
    policy = 1.0 + parameters.energy_per_renewable_share * share
    return parameters.energy_level_mwh * habit * (1.0 + heating + cooling) * activity * policy * np.exp(noise)


def _traffic(
    parameters: CityParameters,
    weather: dict[str, Values],
    clock: _Clock,
    actions: dict[str, Values],
    economy: dict[str, Values],
    regime: dict[str, Values],
    seed: Seed,
    first: int,
) -> dict[str, Values]:
    """Return the volume, veh/h, and its ratio to the usual volume of that hour of the week."""
    usual = parameters.traffic_level * _between(
        WORKDAY_TRAFFIC, REST_DAY_TRAFFIC, clock.hour, clock.usual_rest
    )
    volume = parameters.traffic_level * _between(WORKDAY_TRAFFIC, REST_DAY_TRAFFIC, clock.hour, clock.rest)
    noise = parameters.traffic_noise * autocorrelated(seed, Stream.TRAFFIC, first, len(volume), 0.8)
    volume *= np.exp(noise - parameters.traffic_per_rain_mm * weather["precipitation_mm"])
    volume *= 1.0 - parameters.traffic_summer_dip * np.clip(clock.season, 0.0, None) ** 4
    volume *= (1.0 - parameters.traffic_special_day * clock.special) * economy["gdp_activity_index"]
    volume *= regime["traffic_index"]
    volume *= np.clip(1.0 + parameters.traffic_per_car_free * actions["car_free_ratio"], 0.0, None)
    ceiling = SIGNALS["traffic_index"].maximum
    return {"traffic_volume": volume, "traffic_index": np.clip(volume / usual, 0.0, ceiling)}


def _pm25(
    parameters: CityParameters,
    weather: dict[str, Values],
    clock: _Clock,
    actions: dict[str, Values],
    share: Values,
    regime: dict[str, Values],
    seed: Seed,
    first: int,
) -> Values:
    """Return PM2.5, µg/m³: a background and what is left, hour after hour, of the local contribution."""
    usual_mixing_m, usual_wind = 700.0, 3.0
    cold = np.clip(parameters.heating_below_c - weather["temperature_c"], 0.0, None)
    habit = _between(WORKDAY_TRAFFIC, REST_DAY_TRAFFIC, clock.hour, clock.rest)
    emission = 1.0 + parameters.pm25_traffic_part * (habit - 1.0) + parameters.pm25_heating_per_c * cold
    dilution = (weather["wind_speed_ms"] / usual_wind) ** parameters.pm25_wind_exponent
    dilution *= (weather["boundary_layer_height_m"] / usual_mixing_m) ** parameters.pm25_mixing_exponent
    dilution *= np.exp(-parameters.pm25_washout_per_mm * weather["precipitation_mm"])
    noise = parameters.pm25_noise * autocorrelated(seed, Stream.PM25, first, len(share), 0.9)
    policy = 1.0 + parameters.pm25_per_renewable_share * share
    policy += parameters.pm25_per_car_free * actions["car_free_ratio"]
    tends_to = parameters.pm25_local * regime["pm25"] * emission * dilution * policy * np.exp(noise)
    return parameters.pm25_background + remember(tends_to, parameters.pm25_memory)
