"""The card says what the run measured: scores, rivals, splits, and what it cannot do."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from tests.forecast_support import forecasts
from tests.toy_city import END, toy_city, toy_history
from urbanwm.assumptions import load_assumptions
from urbanwm.evaluation.forecasts import check_forecasts
from urbanwm.evaluation.metrics import block_bootstrap_ratio, row_scores, summarise
from urbanwm.evaluation.verification import Verification, reference_tables, verify
from urbanwm.features import build_spec
from urbanwm.figures import reliability
from urbanwm.model_card import CityData, model_card

DAYS = 30
CITY, HISTORY = toy_city(name="testville", notes="a test"), toy_history()
OWN = check_forecasts(forecasts(DAYS), "own")
RIVAL = check_forecasts(forecasts(DAYS, factor=(2.0, 2.0, 0.5)), "rival")


@pytest.fixture(scope="module")
def verification() -> Verification:
    return verify(OWN, {"rival": RIVAL})


def card(verification: Verification, **changes: object) -> str:
    spec = build_spec("urban", {CITY.name: HISTORY}, {CITY.name: CITY}, None, 48, 48)
    fields = {
        "experiment": {"name": "urban", "model": {"hidden_dim": 256}, "training": {"steps": 250}},
        "spec": spec,
        "calibration": {"method": "band_scale", "windows": 30, "usual_errors": {}},
        "assumptions": load_assumptions().describe(),
        "provenance": {"run_id": "abc", "git_sha": "f00", "dataset_version": "3"},
        "digest": "d1gest",
    }
    data = {CITY.name: CityData.of(CITY, HISTORY.drop(columns="traffic_index"), [END])}
    return model_card(SimpleNamespace(**(fields | changes)), data, verification, behaviour_failures=[])


def test_a_verification_is_plain_json_with_every_kind_of_score(verification):
    document = json.loads(json.dumps(verification.to_dict(), allow_nan=False))
    assert set(document) == {"scores", "pit", "brier", "ratios", "references_left_out"}
    metrics = {"mae", "rmse", "bias", "crps"}
    metrics |= {f"{kind}_{level}" for kind in ("coverage", "width") for level in (50, 80, 90)}
    assert metrics <= set(document["scores"][0])
    assert {row["bucket"] for row in document["ratios"]} == {"all", "1-6", "7-24", "25-48"}


def test_the_scores_are_those_of_the_summary(verification):
    long = summarise(OWN).query("signal == 'pm25' and bucket == '25-48' and metric == 'coverage90'")
    wide = verification.scores.query("signal == 'pm25' and bucket == '25-48'")
    assert wide["coverage_90"].item() == long["value"].item()


def test_a_ratio_and_its_interval_are_those_of_the_block_bootstrap(verification):
    own, rival = (row_scores(table).query("signal == 'pm25'") for table in (OWN, RIVAL))
    expected = block_bootstrap_ratio(own, rival)
    found = verification.ratios.query("signal == 'pm25' and bucket == 'all' and metric == 'crps'").iloc[0]
    assert found[["ratio", "low", "high"]].tolist() == pytest.approx(
        [expected.ratio, expected.low, expected.high]
    )
    assert found["skill"] == pytest.approx(1 - expected.ratio)


def test_hours_that_a_rival_does_not_know_compare_nobody():
    gappy = RIVAL.copy()
    late = gappy["lead_hours"] > 24
    gappy.loc[late, ["mean", "q05", "q10", "q25", "q50", "q75", "q90", "q95"]] = float("nan")
    assert set(verify(OWN, {"rival": gappy}).ratios["bucket"]) == {"all", "1-6", "7-24"}


def test_a_reference_that_cannot_be_made_is_named():
    tables, left_out = reference_tables(CITY, HISTORY, [HISTORY.index[72].to_pydatetime()], 48)
    assert set(tables) == {"climatology"}
    assert "too little history" in left_out["persistence"]


def test_the_card_holds_data_scores_rivals_and_assumptions(verification):
    text = card(verification)
    for heading in ("Data and splits", "Scores by lead", "Against simple rules", "Calibration", "Limits"):
        assert f"## {heading}" in text
    for fact in (
        "abc",
        "f00",
        "d1gest",
        "lake version 3",
        "rival",
        "literature",
        "Karagulian",
        "a test",
        "last 28 days",
    ):
        assert fact in text
    assert END.isoformat() in text
    ratio = verification.ratios.query("signal == 'pm25' and bucket == 'all' and metric == 'crps'").iloc[0]
    assert f"{ratio['ratio']:.4g}" in text


def test_the_card_names_where_the_model_falls_short(verification):
    limits = card(verification).split("## Limits")[1]
    assert "traffic_index: no better than rival" in limits
    assert "pm25: no better than" not in limits
    assert "testville: traffic_index not observed" in limits
    narrow = OWN.copy()
    narrow["q95"] = narrow["q90"] = narrow["q75"]
    assert "the 90 % interval covered" in card(verify(narrow)).split("## Limits")[1]


def test_every_line_of_a_table_has_the_columns_of_its_head(verification):
    columns = 0
    for line in card(verification).splitlines():
        columns = line.count("|") if line.startswith("|") and columns == 0 else columns
        columns = columns if line.startswith("|") else 0
        assert line.count("|") == columns


def test_the_diagram_of_a_calibrated_forecast_is_the_diagonal():
    from urbanwm.evaluation.metrics import pit_histogram

    figure = reliability(pit_histogram(OWN))
    line = figure.axes[0].lines[1]
    assert line.get_ydata() == pytest.approx(line.get_xdata(), abs=0.06)
    assert isinstance(pit_histogram(OWN), pd.DataFrame)
