"""Prefect shells over `urbanwm.pipeline`: the only place that knows the orchestrator.

A task body is a call of a plain function; what a night does is decided in `urbanwm.pipeline`, which runs as
well without any of this (`urbanwm nightly --engine local`). Prefect persists no results: the lake, the runs
and the registry are the record, and every step knows by itself what is done already.

After a `kill -9` of `python -m flows.nightly` two things stay behind: the flow run says "Running" for ever,
and the ephemeral API server of that process lives on until it is stopped. Neither blocks the next night: the
lease is a file lock, which dies with its process. Runs under `make schedule` are marked "Crashed" by their
runner.
"""

from urbanwm.settings import apply_environment, load_settings

# Prefect reads its home folder and its telemetry switches once, at import: this package comes first.
apply_environment(load_settings())
