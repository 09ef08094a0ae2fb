"""Alert rules and dashboard ask for metrics that the service has, and name entries that the runbook has."""

from __future__ import annotations

import json
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


DASHBOARD = json.loads((ROOT / "infra" / "grafana" / "urbanwm.json").read_text("utf-8"))


def metrics_in(text: str) -> set[str]:
    """Return the metrics that an expression names, without what a histogram appends."""
    names = re.findall(r"urbanwm_[a-z_]+", text)
    return {next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name) for name in names}


def metrics_of_the_service() -> set[str]:
    source = (ROOT / "serving" / "metrics.py").read_text("utf-8")
    return set(re.findall(r'"(urbanwm_[a-z_]+)"', source))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_a_metric_of_the_service(rule):
    assert metrics_in(rule["expr"]) <= metrics_of_the_service() or rule["alert"] == "service_absent"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_has_its_entry_in_the_runbook(rule):
    anchor = rule["annotations"]["runbook"]
    assert anchor == f"docs/runbook.md#{rule['alert']}"
    runbook = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    assert re.search(rf"^## {rule['alert']}$", runbook, re.MULTILINE)
    assert rule["labels"]["severity"] in {"warning", "error", "critical"}


def test_prometheus_reads_the_rules():
    assert yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))["rule_files"] == ["rules.yml"]


def test_the_dashboard_shows_every_metric_of_the_service_and_no_other():
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert set().union(*map(metrics_in, shown)) == metrics_of_the_service()


def test_the_dashboard_names_entries_of_the_runbook():
    runbook = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    named = re.findall(r"docs/runbook\.md#(\w+)", json.dumps(DASHBOARD))
    assert named
    assert all(re.search(rf"^## {anchor}$", runbook, re.MULTILINE) for anchor in named)
