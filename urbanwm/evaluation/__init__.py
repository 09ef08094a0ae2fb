"""Measuring forecasts: metrics, references, backtests, the promotion gate."""
