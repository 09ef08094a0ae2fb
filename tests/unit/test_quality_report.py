"""The data-quality report and its picture: what the record holds, what it lacks, where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from urbanwm.quality import RULES, daily_coverage, quality_markdown, quality_report
from urbanwm.quality.figure import DAYS_PER_CELL_MAX, coverage_heatmap, heatmap_bytes
from urbanwm.quality.report import GAPS_LISTED


def grid(hours: int = 72, start: str = "2025-03-29T00:00Z") -> pd.DataFrame:
    """Three days of which pm25 misses 30 hours in the middle and no2 everything."""
    index = pd.date_range(start, periods=hours, freq="h", name="timestamp")
    pm25 = np.arange(hours, dtype=float)
    pm25[20:50] = np.nan
    return pd.DataFrame({"pm25": pm25, "energy_mwh": 900.0, "no2": np.nan}, index=index)


def provenance(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame.rename_axis(columns="signal").stack().rename("value").reset_index()
    return rows.assign(source=np.where(rows["signal"] == "pm25", "waqi:@1", "file:a.csv"), flags="flatline")


def test_the_report_says_what_each_signal_has_and_where_it_comes_from():
    frame = grid()
    report = quality_report(frame, provenance(frame), city="porto", dropped={"waqi:@1": {"future": 2}})
    json.dumps(report, allow_nan=False)
    assert (report["hours"], report["end"]) == (72, "2025-04-01T00:00:00+00:00")
    pm25, energy, no2 = report["signals"]
    assert pm25["coverage"] == pytest.approx(42 / 72)
    assert (pm25["gaps"], pm25["longest_gap_hours"]) == (1, 30)
    assert pm25["sources"] == {"waqi:@1": 42}
    assert energy["flags"] == {"flatline": 72}
    assert (no2["values"], no2["coverage"], no2["first"], no2["sources"]) == (0, 0.0, None, {})
    assert report["gaps"][0]["start"] == "2025-03-29T20:00:00+00:00"
    assert report["dropped"] == {"waqi:@1": {"future": 2}}


def test_without_provenance_the_report_tells_of_hours_only():
    report = quality_report(grid())
    assert [line["sources"] for line in report["signals"]] == [{}, {}, {}]
    assert report["flags"] == []


def test_only_the_longest_gaps_are_listed_and_the_others_counted():
    frame = grid(hours=400)
    frame.loc[frame.index[100::4], "energy_mwh"] = np.nan
    report = quality_report(frame)
    assert len(report["gaps"]) == GAPS_LISTED
    assert report["gaps"][0]["hours"] == 30
    assert report["gaps_left_out"] == 1 + 75 - GAPS_LISTED


def test_the_markdown_holds_every_section_and_escapes_what_would_break_a_table():
    frame = grid()
    error = {"source": "eia:NYIS", "signal": "energy_mwh", "type": "RateLimited", "message": "a|b\nc"}
    report = quality_report(
        frame, provenance(frame), city="porto", dropped={"waqi:@1": {"future": 2}}, errors=[error]
    )
    text = quality_markdown(report)
    for expected in (
        "# Data quality: porto",
        "58.3%",
        "## Longest gaps",
        "## Flagged",
        "## Dropped",
        r"a\|b c",
    ):
        assert expected in text
    assert "had not begun" in text, "a rule is explained, not only named"
    assert "## Dropped" not in quality_markdown(quality_report(frame))


def test_an_empty_record_has_a_report_too():
    report = quality_report(grid(0))
    assert report["hours"] == 0
    assert "0 hours" in quality_markdown(report)


def test_coverage_counts_per_day():
    table = daily_coverage(grid())
    assert table["pm25"].round(3).tolist() == [0.833, 0.0, 0.917]
    assert table["no2"].tolist() == [0, 0, 0]


def test_the_heat_map_shows_every_signal_and_day_by_its_share():
    figure = coverage_heatmap(grid(), "porto")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pm25", "energy_mwh", "no2"]
    shares = axes.collections[0].get_array()
    assert np.asarray(shares).round(2).tolist() == [[0.83, 0.0, 0.92], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    assert axes.get_title() == "porto: share of hours with a value"


def test_a_long_record_is_drawn_by_means_of_several_days():
    figure = coverage_heatmap(grid(24 * (2 * DAYS_PER_CELL_MAX + 3)))
    assert np.asarray(figure.axes[0].collections[0].get_array()).shape == (3, 535)


@pytest.mark.parametrize(("kind", "mark"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_picture_comes_as_bytes(kind, mark):
    assert heatmap_bytes(grid(), kind=kind).startswith(mark)


def test_every_rule_is_described_in_the_documents():
    text = (Path(__file__).resolve().parents[2] / "docs" / "sources.md").read_text("utf-8")
    for rule in RULES.values():
        assert f"| `{rule.name}` | {rule.action} | {rule.meaning} |" in text
