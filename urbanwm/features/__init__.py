"""Observations to normalised model inputs and back: one code path for training, backtest and serving."""

from urbanwm.features.calendar import CityCalendar
from urbanwm.features.columns import with_forecasts
from urbanwm.features.scaling import CityScaler, fit_scaler
from urbanwm.features.series import CitySeries, build_series, serving_series, serving_windows
from urbanwm.features.spec import FeatureSpec, build_spec
from urbanwm.features.windows import Windows

__all__ = [
    "CityCalendar",
    "CityScaler",
    "CitySeries",
    "FeatureSpec",
    "Windows",
    "build_series",
    "build_spec",
    "fit_scaler",
    "serving_series",
    "serving_windows",
    "with_forecasts",
]
