"""The batch side as plain functions: ingest, train, judge, promote, a whole night; no orchestrator needed.

Every function takes plain arguments and can be called from a REPL::

    settings = load_settings()
    apply_environment(settings)
    report = run_nightly(settings, ["demo"])
"""

from urbanwm.pipeline.judge import run_backtest
from urbanwm.pipeline.night import CityIngest, NightReport, Steps, ingest_one, run_ingest, run_nightly
from urbanwm.pipeline.plan import plan_training
from urbanwm.pipeline.promote import PromotionOutcome, list_models, run_promote, run_rollback
from urbanwm.pipeline.train import TrainOutcome, run_train

__all__ = [
    "CityIngest",
    "NightReport",
    "PromotionOutcome",
    "Steps",
    "TrainOutcome",
    "ingest_one",
    "list_models",
    "plan_training",
    "run_backtest",
    "run_ingest",
    "run_nightly",
    "run_promote",
    "run_rollback",
    "run_train",
]
