"""The HTTP service: BentoML outside, plain functions inside."""
