"""Forecasts by the world model: filter the past, imagine the future, read its quantiles as members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from urbanwm.baseline import HISTORY_HOURS, MINIMUM_VALUES, reference_forecast
from urbanwm.calibration import apply_calibration, usual_errors
from urbanwm.cities import City
from urbanwm.clock import floor_hour, require_utc
from urbanwm.contracts.scenario import Forecast, InitialState, ServedBy
from urbanwm.contracts.signals import HORIZON_HOURS_MAX, QUANTILE_LEVELS, TARGETS, forecast_column
from urbanwm.errors import BundleInvalid, DataUnavailable
from urbanwm.features import CitySeries, FeatureSpec, Windows, build_series, serving_series, with_forecasts
from urbanwm.features.newcomer import with_newcomer
from urbanwm.features.recent_errors import recent_factor
from urbanwm.freshness import ages_hours, freshness_reasons, is_stale, known_before
from urbanwm.members import (
    HOURS_PER_DAY,
    RANK_CORRELATION,
    couple,
    member_levels,
    quantile_function,
    scaled_around_median,
    widen_silent,
)
from urbanwm.nowcast import Nowcast, Past, Remember, WorldModel, make_anew
from urbanwm.policy import clip_to_vocabulary

Float = NDArray[np.float64]

LATENT_SAMPLES = 20
"""Latent trajectories of a point model, whose spread is the only one it has. A model with quantiles rolls out
the latent means once: that is what its calibration was fitted on, and its quantiles hold the spread."""
LATENT_STREAM = 0x5EED_0003
"""Random stream of the latents, apart from those of the ranks and the coefficients."""
MAX_DATA_AGE_HOURS = 168
"""With older data there is no state to start from: climatology is the honest answer (DESIGN §7, rung 4)."""
WINDOWS_PER_BATCH = 32
"""Backtest origins rolled out together: bounds memory, and larger batches are no faster on one core."""


class _Imagined(NamedTuple):
    """Normalised quantiles `(B, H, 3, 7)`, the first trajectory's states `(B, H + 1, ·)`, usual `(B, H)`."""

    quantiles: Float
    h: NDArray[np.float32]
    z: NDArray[np.float32]
    usual: NDArray[np.float32]


class WorldModelForecaster:
    """Answers from a bundle; same inputs and seed, same bytes."""

    served_by: ServedBy = "world_model"

    def __init__(self, bundle: WorldModel) -> None:
        self.bundle = bundle

    def forecast(
        self,
        history: pd.DataFrame | None,
        city: City,
        start: datetime,
        horizon_hours: int,
        samples: int,
        seed: int,
        initial_state: InitialState | None = None,
        *,
        remember: Remember = make_anew,
    ) -> Forecast:
        """Return members `(samples, horizon_hours, 3)` of the status quo from `start` on, with latents.

        Only rows of `history` before `start` are read. Between the last known hour and `start` the model
        imagines, as far as a rollout of 168 h in all allows; what lies before that is filtered as missing.
        `remember` may keep the nowcast, which is most of the work; its keys are meant for one history.

        Raises:
            DataUnavailable: No target has a value in the last week before `start`.
            BundleInvalid: The model's answer is not finite.
        """
        origin = floor_hour(require_utc(start, "start"))
        past = remember(
            (origin, initial_state), lambda: self._look_back(history, city, origin, initial_state)
        )
        ages, absent = past.ages, past.absent
        age = min(ages.values())
        gap = int(min(age, HORIZON_HOURS_MAX - horizon_hours))
        reasons = []
        if city.name not in self.bundle.spec.scalers:
            reasons.append(f"{city.name} was not in the model's training data")
        sampled = self.bundle.spec.kind == "reference"
        # Only sampled latents depend on the seed, and, as one draw, on the length of the rollout.
        key = (origin, gap, initial_state, *((seed, horizon_hours) if sampled else ()))
        total = gap + horizon_hours if sampled else HORIZON_HOURS_MAX
        nowcast = remember(
            key, lambda: self._nowcast(history, city, origin, initial_state, ages, gap, total, seed)
        )
        stop = gap + horizon_hours
        spec = nowcast.spec
        ahead = slice(gap, stop)
        members = self._members(
            nowcast.quantiles[:, ahead], nowcast.usual[:, ahead], spec, city.name, samples, seed
        )[0]
        reasons += freshness_reasons(ages, past.late_inputs)
        reasons += _forecast_reasons(history, self.bundle.spec, origin)
        members, notes = _without_absent(members, absent, initial_state, city, origin)
        _require_finite(members, absent)
        degraded = bool(absent) or any(is_stale(value) for value in ages.values())
        return Forecast(
            members,
            self.served_by,
            z=nowcast.z[0, gap : stop + 1],
            h=nowcast.h[0, gap : stop + 1],
            degraded=degraded,
            reasons=reasons + notes,
        )

    def _look_back(
        self, history: pd.DataFrame | None, city: City, origin: datetime, initial_state: InitialState | None
    ) -> Past:
        """Say what is known before `origin`; raises DataUnavailable where that is too little."""
        known = known_before(history, origin, HISTORY_HOURS, initial_state)
        ages = ages_hours(known, origin)
        if known is None or min(ages.values()) > MAX_DATA_AGE_HOURS:
            raise DataUnavailable(
                f"no target of {city.name} has a value in the {MAX_DATA_AGE_HOURS} h before the start"
            )
        absent = [n for n in TARGETS if np.isfinite(known[n].to_numpy()).sum() < MINIMUM_VALUES]
        return Past(ages, _inputs(known, self.bundle.spec, origin), absent)

    def _nowcast(
        self,
        history: pd.DataFrame | None,
        city: City,
        origin: datetime,
        initial_state: InitialState | None,
        ages: Mapping[str, float],
        gap: int,
        hours: int,
        seed: int,
    ) -> Nowcast:
        """Filter the past up to `gap` hours before `origin` and roll out at least `hours` from there."""
        known = known_before(history, origin, HISTORY_HOURS, initial_state)
        if known is None:
            raise DataUnavailable(f"nothing is known of {city.name} before the start")
        spec = _knowing(self.bundle.spec, city, known)
        silence = _silence(ages, gap)
        total = _longer(hours, max(silence))
        known = known if history is None else with_forecasts(known, history, origin)
        begin = origin - timedelta(hours=gap)
        series = serving_series(known, city.name, spec, begin, total)
        imagined = self._imagine(series, np.array([series.position(begin)]), total, seed)
        quantiles = widen_silent(imagined.quantiles, silence)
        return Nowcast(quantiles, imagined.h, imagined.z, spec, imagined.usual)

    def forecast_batch(
        self,
        frame: pd.DataFrame,
        city: City,
        origins: Sequence[datetime],
        horizon_hours: int,
        samples: int,
        seed: int,
    ) -> Float:
        """Return members `(origins, samples, horizon_hours, 3)`; each origin sees only hours before it."""
        quantiles, usual, spec = self._batch(frame, city, origins, horizon_hours, seed)
        members = self._members(quantiles, usual, spec, city.name, samples, seed)
        absent = [i for i, name in enumerate(TARGETS) if name not in frame or not frame[name].notna().any()]
        members[..., absent] = np.nan
        return members

    def _batch(
        self,
        frame: pd.DataFrame,
        city: City,
        origins: Sequence[datetime],
        horizon_hours: int,
        seed: int,
    ) -> tuple[Float, NDArray[np.float32], FeatureSpec]:
        """Roll out many origins over one series, some at a time; return quantiles, usual levels, spec."""
        first, last = min(origins), max(origins)
        past = frame[frame.index >= first - timedelta(hours=HISTORY_HOURS)]
        spec = _knowing(self.bundle.spec, city, past[past.index < first])
        context = spec.context_hours
        begin = min(past.index[0], pd.Timestamp(first) - timedelta(hours=context))
        silences = [_silence(ages_hours(past, origin), 0) for origin in origins]
        total = _longer(horizon_hours, max(max(silence) for silence in silences))
        series = build_series(past, city.name, spec, start=begin, end=last + timedelta(hours=total))
        positions = np.array([series.position(origin) for origin in origins], dtype=np.int64)
        parts = [
            self._imagine(series, positions[i : i + WINDOWS_PER_BATCH], total, seed)
            for i in range(0, len(positions), WINDOWS_PER_BATCH)
        ]
        imagined = np.concatenate([part.quantiles for part in parts])
        quantiles = np.concatenate(
            [widen_silent(one[None], silence) for one, silence in zip(imagined, silences, strict=True)]
        )
        usual = np.concatenate([part.usual for part in parts])
        return quantiles[:, :horizon_hours], usual[:, :horizon_hours], spec

    def _imagine(self, series: CitySeries, origins: NDArray[np.int64], horizon: int, seed: int) -> _Imagined:
        """Filter and roll out; return calibrated quantiles and the first trajectory's states.

        Bands are as wide as held-out hours ask for, and as the city's last weeks do.
        """
        batch, context = len(origins), series.spec.context_hours
        windows = series.windows(origins, context, horizon)
        latent_dim = int(self.bundle.experiment["model"]["latent_dim"])
        trajectories = LATENT_SAMPLES if self.bundle.spec.kind == "reference" else 1
        drawn = np.zeros((trajectories, context + horizon, latent_dim), dtype=np.float32)
        if trajectories > 1:
            generator = np.random.default_rng([seed, LATENT_STREAM])
            drawn = generator.standard_normal(drawn.shape, dtype=np.float32)
        # Every window gets the same noise: an origin's forecast does not depend on its neighbours.
        noise = np.tile(drawn, (batch, 1, 1))
        many = _repeat(windows, trajectories)
        h, z = self.bundle.filter(many, noise[:, :context])
        ahead = slice(context, None)
        rollout = self.bundle.imagine(
            h, z, many.known[:, ahead], many.action[:, ahead], many.skip[:, ahead], noise[:, ahead]
        )
        output = rollout.output.astype(np.float64).reshape(batch, trajectories, *rollout.output.shape[1:])
        quantiles = apply_calibration(_quantiles(output), self.bundle.calibration)
        usual = usual_errors(self.bundle.calibration, series.city)
        if usual is not None:
            factor = recent_factor(series, origins, usual)
            quantiles = scaled_around_median(quantiles, factor[:, None, :, None])
        first = slice(None, None, trajectories)
        h_path, z_path = (
            np.concatenate([a[first, None], b[first]], axis=1) for a, b in ((h, rollout.h), (z, rollout.z))
        )
        return _Imagined(quantiles, h_path, z_path, windows.usual[:, ahead])

    def _members(
        self,
        quantiles: Float,
        usual: NDArray[np.float32],
        spec: FeatureSpec,
        city: str,
        samples: int,
        seed: int,
    ) -> Float:
        """Return members `(B, samples, H, 3)` in physical units from normalised quantiles `(B, H, 3, 7)`."""
        grid = quantile_function(quantiles, QUANTILE_LEVELS, member_levels(samples))
        physical = clip_to_vocabulary(spec.denormalise(city, grid, usual))
        fitted = self.bundle.calibration.get("ar1", {})
        # 0 stands for "too few hours to fit one".
        correlation = [fitted.get(name) or RANK_CORRELATION for name in TARGETS]
        return couple(np.moveaxis(physical, 0, 1), seed, correlation)


def _knowing(spec: FeatureSpec, city: City, known: pd.DataFrame) -> FeatureSpec:
    """Return a spec that knows the city: one never trained on by what is known of it."""
    if city.name in spec.scalers:
        return spec
    return with_newcomer(spec.with_city(city, known), city.name, known)


def _inputs(known: pd.DataFrame, spec: FeatureSpec, origin: datetime) -> dict[str, float]:
    """Return the ages (h) of the model's other inputs that this city has."""
    names = [name for name in spec.observed_names if name in known and name not in TARGETS]
    return ages_hours(known, origin, names)


def _silence(ages: Mapping[str, float], gap: int) -> list[float]:
    """Return how long each target had been silent `gap` hours before the origin; 0 for one never observed."""
    return [age - gap if np.isfinite(age) else 0.0 for age in ages.values()]


def _longer(hours: int, silence_hours: float) -> int:
    """Return the hours to imagine so that a silent signal's later hours can tell its width."""
    days_later = int(np.ceil(silence_hours / HOURS_PER_DAY))
    return min(hours + days_later * HOURS_PER_DAY, HORIZON_HOURS_MAX)


def _forecast_reasons(history: pd.DataFrame | None, spec: FeatureSpec, origin: datetime) -> list[str]:
    """Name the weather whose forecast the model knows how to use and does not have."""
    columns = {name: forecast_column(name, 1) for name in spec.forecast_signals}
    if history is None or not columns:
        return []
    day = history[(history.index >= origin) & (history.index < origin + timedelta(hours=HOURS_PER_DAY))]
    absent = [name for name, column in columns.items() if column not in day or day[column].isna().all()]
    return [f"{name}: no forecast of the coming day" for name in absent]


def _repeat(windows: Windows, times: int) -> Windows:
    """Return every window `times` times in a row."""
    return windows.each(lambda array: np.repeat(array, times, axis=0))


def _quantiles(output: Float) -> Float:
    """Return quantiles `(B, H, 3, 7)` of trajectories `(B, K, H, 3, Q)`: a point model's are their spread."""
    if output.shape[-1] == len(QUANTILE_LEVELS):
        return np.asarray(output[:, 0], dtype=np.float64)
    spread = np.quantile(output[..., 0], QUANTILE_LEVELS, axis=1, method="hazen")
    return np.moveaxis(spread, 0, -1)


def _without_absent(
    members: Float, absent: Sequence[str], initial_state: InitialState | None, city: City, origin: datetime
) -> tuple[Float, list[str]]:
    """Blank signals that the city does not observe (or take them from `initial_state`), and say so."""
    notes = []
    for name in absent:
        position = TARGETS.index(name)
        if initial_state is None:
            members[..., position] = np.nan
            notes.append(f"{name}: no observations; not answered")
        else:
            stand_in = reference_forecast(initial_state, city, origin, members.shape[1], members.shape[0])
            members[..., position] = clip_to_vocabulary(stand_in.members)[..., position]
            notes.append(
                f"{name}: no observations; initial_state with an illustrative shape of the day, no spread"
            )
    return members, notes


def _require_finite(members: Float, absent: Sequence[str]) -> None:
    """Refuse an answer with holes where there must be none."""
    answered = [i for i, name in enumerate(TARGETS) if name not in absent]
    if not np.isfinite(members[..., answered]).all():
        raise BundleInvalid("the world model's forecast is not finite")
