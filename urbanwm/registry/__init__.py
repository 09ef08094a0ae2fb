"""Runs, model versions and aliases in MLflow, and the local cache of the model in service.

Importing this package does not import MLflow (2.8 s, 180 MB): `Registry` connects at its first question, so a
service with a warm `ChampionCache` answers before it has asked the registry anything.
"""

from urbanwm.registry.cache import CachedChampion, ChampionCache
from urbanwm.registry.direct import DirectRegistry
from urbanwm.registry.promotion import REFUSED, ROLLED_BACK, predecessor, promote, rollback
from urbanwm.registry.runs import FINISHED, FoundRun, find_runs, read_run, reopen
from urbanwm.registry.store import Registry
from urbanwm.registry.tracking import RunLog
from urbanwm.registry.versions import (
    CHALLENGER,
    CHAMPION,
    DATASET_TAG,
    DECISION_TAG,
    MODEL_NAME,
    NIGHT_TAG,
    PREVIOUS,
    START_TAG,
    ModelVersion,
    directory_digest,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "DATASET_TAG",
    "DECISION_TAG",
    "FINISHED",
    "MODEL_NAME",
    "NIGHT_TAG",
    "PREVIOUS",
    "REFUSED",
    "ROLLED_BACK",
    "START_TAG",
    "CachedChampion",
    "ChampionCache",
    "DirectRegistry",
    "FoundRun",
    "ModelVersion",
    "Registry",
    "RunLog",
    "directory_digest",
    "find_runs",
    "predecessor",
    "promote",
    "read_run",
    "reopen",
    "rollback",
]
