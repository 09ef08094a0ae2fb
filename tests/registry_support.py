"""A registry on a copied, already migrated database, and tiny bundles: milliseconds instead of seconds."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from urbanwm.errors import BundleInvalid
from urbanwm.registry import ModelVersion, Registry, directory_digest
from urbanwm.settings import Settings, load_settings

# MLflow reads these when it is imported; `apply_environment` would also point this whole session at one home.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

NOW = datetime(2026, 1, 31, 3, tzinfo=UTC)


def make_settings(home: Path) -> Settings:
    return load_settings(home=home, tracking_uri=f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")


def make_template(home: Path) -> Path:
    """Create an empty, migrated database once per session (4 s); copies cost nothing."""
    assert Registry(make_settings(home)).list_versions() == []
    return home / "mlflow" / "mlflow.db"


def make_registry(home: Path, template: Path) -> Registry:
    (home / "mlflow").mkdir(parents=True, exist_ok=True)
    shutil.copy(template, home / "mlflow" / "mlflow.db")
    return Registry(make_settings(home), clock=lambda: NOW)


def make_bundle(folder: Path, text: str = "weights") -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "bundle.json").write_text(f'{{"weights": "{text}"}}')
    (folder / "inner" / "weights.txt").write_text(text)
    return folder


def register(registry: Registry, folder: Path, text: str, **tags: object) -> ModelVersion:
    bundle = make_bundle(folder, text)
    with registry.start_run(f"train {text}", {"stage": "train"}) as run:
        run.log_folder(bundle, "bundle")
    return registry.register(
        run.run_id,
        {"bundle_digest": directory_digest(bundle), "dataset_version": 7, **tags},
        {"test/pm25/mae": 3.5},
    )


def accept(bundle: Path) -> None:
    assert (bundle / "bundle.json").is_file()


def refuse(bundle: Path) -> None:
    raise BundleInvalid("the example is answered wrongly")
