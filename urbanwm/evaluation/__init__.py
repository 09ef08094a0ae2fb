"""Backtests, scores and the promotion gate: what a forecast was worth, and whether a model may serve."""
