"""The alert rules ask for metrics that the service has, and each has its runbook entry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra" / "prometheus"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "rules.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
SUFFIXES = ("_bucket", "_count", "_sum")


def metrics_of_the_service() -> set[str]:
    source = (ROOT / "serving" / "metrics.py").read_text("utf-8")
    return set(re.findall(r'"(urbanwm_[a-z_]+)"', source))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_a_metric_of_the_service(rule):
    asked = {
        next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)
        for name in re.findall(r"urbanwm_[a-z_]+", rule["expr"])
    }
    assert asked <= metrics_of_the_service() or rule["alert"] == "service_absent"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_has_its_entry_in_the_runbook(rule):
    anchor = rule["annotations"]["runbook"]
    assert anchor == f"docs/runbook.md#{rule['alert']}"
    runbook = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    assert re.search(rf"^## {rule['alert']}$", runbook, re.MULTILINE)
    assert rule["labels"]["severity"] in {"warning", "error", "critical"}


def test_prometheus_reads_the_rules():
    assert yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))["rule_files"] == ["rules.yml"]
