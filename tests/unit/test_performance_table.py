"""The performance table: the README shows what the committed figures say, and a missing peer says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.table import BEGIN, END, PUBLISHED, ROWS, markdown, summary
from benchmarks.timing import Rounds, median_ratio

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_shows_the_committed_figures():
    text = README.read_text(encoding="utf-8")
    shown = text.split(BEGIN, 1)[1].split(END, 1)[0]
    assert shown.strip() == markdown(json.loads(PUBLISHED.read_text(encoding="utf-8"))).strip()


def test_a_figure_goes_from_the_parts_to_its_line():
    results = {
        "machine": {"processor": "P", "cores": 2, "torch": "2", "onnxruntime": "1", "load_before": 0.5},
        "training": {
            "share_of_gemm": 0.814,
            "torchrl_over_ours": "torchrl is absent",
            "load_before": 1.5,
        },
        "growth": {"batch": {"1": 7.1, "64": 66.0}},
    }
    table = markdown(summary(results))
    assert "| training step: share of the matrix product | 81 % | ≥ 75 % |" in table
    assert "| torchrl is absent |" in table
    assert "| rows imagined for 48 h | 1: 7 | 64: 66 |" in table
    assert "load average before the parts 0.5 to 1.5" in table
    assert "service" not in table, "a part that was not run has no line"


def test_no_two_lines_show_the_same_figure():
    assert len({row.key for row in ROWS}) == len(ROWS)


def test_a_ratio_compares_within_rounds():
    """A slow round slows both, so the ratio stays what it is in every round."""
    rounds = Rounds({"peer": [2.0, 5.0, 20.0], "ours": [1.0, 2.5, 10.0]})
    assert rounds.ratio("peer", "ours") == 2.0
    assert rounds.milliseconds("ours") == pytest.approx(2500.0)
    assert median_ratio(rounds.rates("ours", 1.0), rounds.rates("peer", 1.0)) == 2.0
