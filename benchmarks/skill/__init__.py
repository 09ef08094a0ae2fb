"""Skill side by side: seasonal rules, ridge, LightGBM, a plain GRU, NHITS and our own model on one record.

`python -m benchmarks.skill --data FILE --split TIME`; see `__main__`. Every forecaster trains on the hours
before the split, forecasts 48 h from every local midnight after it, and is scored on the same rows.
"""
