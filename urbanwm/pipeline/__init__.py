"""The batch side as plain functions: ingest, train, judge, promote, a whole night; no orchestrator needed.

Every function takes plain arguments and can be called from a REPL::

    settings = load_settings()
    apply_environment(settings)
    report = run_nightly(settings, ["demo"])
"""

from urbanwm.pipeline.intake import CityIngest, city_ingest, ingest_one, run_ingest
from urbanwm.pipeline.judge import run_backtest
from urbanwm.pipeline.night import Steps, run_nightly
from urbanwm.pipeline.night_report import NightReport
from urbanwm.pipeline.outcome import TrainOutcome
from urbanwm.pipeline.plan import plan_training
from urbanwm.pipeline.promote import PromotionOutcome, list_models, run_promote, run_rollback
from urbanwm.pipeline.replay import replay_settings, run_replay
from urbanwm.pipeline.reproduce import reproduce
from urbanwm.pipeline.train import run_train

__all__ = [
    "CityIngest",
    "NightReport",
    "PromotionOutcome",
    "Steps",
    "TrainOutcome",
    "city_ingest",
    "ingest_one",
    "list_models",
    "plan_training",
    "replay_settings",
    "reproduce",
    "run_backtest",
    "run_ingest",
    "run_nightly",
    "run_promote",
    "run_replay",
    "run_rollback",
    "run_train",
]
