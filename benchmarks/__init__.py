"""Timings, never asserted in tests: `python -m benchmarks` and one script per part."""
