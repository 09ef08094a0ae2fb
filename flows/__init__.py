"""Prefect shells over `urbanwm.pipeline`: the only place that knows the orchestrator.

A task body is a call of a plain function; what a night does is decided in `urbanwm.pipeline`, which runs as well
without any of this (`urbanwm nightly --engine local`). Nothing is persisted by Prefect: the lake, the run and the
registry are the record, and every step knows by itself what is done already.

Every module imports `flows.environment` before Prefect, because Prefect reads its home folder and its telemetry
switches once, at import.
"""
