"""One framework, one home: the import rules of the house, held by reading every file's syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("urbanwm", "flows", "serving") for path in (ROOT / folder).rglob("*.py"))

HOMES = {
    "prefect": ("flows/",),
    "bentoml": ("serving/",),
    "mlflow": ("urbanwm/registry",),
    "torch": ("urbanwm/model/", "urbanwm/training"),
}
TORCH_FREE = ("urbanwm/model/__init__.py", "urbanwm/model/bundle.py", "urbanwm/model/config.py")
FORBIDDEN_MODULES = ("pickle", "joblib", "cloudpickle", "dill")
CLOCK_CALLS = {("datetime", "now"), ("datetime", "utcnow"), ("date", "today"), ("time", "time")}


def modules_imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def breaches(path: str, source: str) -> list[str]:
    tree = ast.parse(source)
    found = []
    for module in modules_imported(tree):
        top = module.split(".")[0]
        if top in HOMES and not path.startswith(HOMES[top]):
            found.append(f"{path} imports {top}")
        if top == "torch" and path in TORCH_FREE:
            found.append(f"{path} imports torch")
        if top in FORBIDDEN_MODULES:
            found.append(f"{path} imports {top}")
        if path.startswith("urbanwm/") and top in ("flows", "serving"):
            found.append(f"{path} imports {top}")
        if (path.split("/", maxsplit=1)[0], top) in {("flows", "serving"), ("serving", "flows")}:
            found.append(f"{path} imports {top}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            continue
        if (node.value.id, node.attr) in CLOCK_CALLS and path != "urbanwm/clock.py":
            found.append(f"{path}:{node.lineno} reads the wall clock")
        if node.value.id == "os" and node.attr in ("environ", "getenv") and path != "urbanwm/settings.py":
            found.append(f"{path}:{node.lineno} reads the environment")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_keeps_the_import_rules(path):
    assert breaches(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("urbanwm/pipeline.py", "from prefect import flow"),
        ("flows/train.py", "import serving.service"),
        ("serving/api.py", "import torch.nn"),
        ("urbanwm/model/bundle.py", "import torch"),
        ("urbanwm/lake/table.py", "import pickle"),
        ("urbanwm/ingest/run.py", "from datetime import datetime\nx = datetime.now()"),
        ("serving/api.py", "import os\nx = os.environ['HOME']"),
    ],
)
def test_the_rules_notice_a_breach(path, source):
    assert breaches(path, source)


@pytest.mark.parametrize("module", ["serving.api", "urbanwm.model.bundle", "urbanwm.simulator"])
def test_answering_does_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_command_line_starts_without_heavy_frameworks():
    heavy = {"torch", "mlflow", "prefect", "bentoml", "matplotlib", "onnxruntime", "deltalake", "pandas"}
    code = f"import sys, urbanwm.cli; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
