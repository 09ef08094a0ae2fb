"""Runs, model versions and aliases in MLflow, and the local cache of the model in service.

Importing this package does not import MLflow (2.8 s, 180 MB): `Registry` connects at its first question, so a
service with a warm `ChampionCache` answers before it has asked the registry anything.
"""

from urbanwm.registry.cache import CachedChampion, ChampionCache
from urbanwm.registry.promotion import REFUSED, ROLLED_BACK, promote, rollback
from urbanwm.registry.store import Registry
from urbanwm.registry.tracking import RunLog
from urbanwm.registry.versions import (
    CHALLENGER,
    CHAMPION,
    DECISION_TAG,
    MODEL_NAME,
    PREVIOUS,
    ModelVersion,
    directory_digest,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "DECISION_TAG",
    "MODEL_NAME",
    "PREVIOUS",
    "REFUSED",
    "ROLLED_BACK",
    "CachedChampion",
    "ChampionCache",
    "ModelVersion",
    "Registry",
    "RunLog",
    "directory_digest",
    "promote",
    "rollback",
]
