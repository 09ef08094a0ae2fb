"""Prefect shells over `urbanwm.pipeline`: the only place that knows the orchestrator."""
