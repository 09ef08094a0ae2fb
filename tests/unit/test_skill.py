"""The skill benchmark: every forecaster gets the same hours, knows only the past, and is scored alike."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.skill import __main__ as command
from benchmarks.skill import gru as gru_peer
from benchmarks.skill.direct import lightgbm, ridge
from benchmarks.skill.inputs import FIRST_START, direct_inputs
from benchmarks.skill.nhits import nhits
from benchmarks.skill.report import markdown, scores
from benchmarks.skill.task import HORIZON_HOURS, PeerMissing, Task, read_task
from urbanwm.errors import BadInput
from urbanwm.evaluation.forecasts import check_forecasts
from urbanwm.evaluation.references import climatology, persistence
from urbanwm.synthetic import SyntheticUrbanDataset

START = datetime(2022, 1, 1, tzinfo=UTC)
SPLIT = START + timedelta(days=80, hours=-1)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    frame = SyntheticUrbanDataset(3).hours(START, START + timedelta(days=92), "Europe/Madrid", country="ES")
    frame = frame[["pm25", "energy_mwh", "traffic_volume", "wind_speed_ms", "temperature_c"]]
    path = tmp_path_factory.mktemp("skill") / "town_1.parquet"
    frame.rename(columns={"traffic_volume": "traffic"}).assign(city="town").reset_index().to_parquet(path)
    return path


@pytest.fixture(scope="module")
def task(file) -> Task:
    return read_task([file], SPLIT, "Europe/Madrid", "ES")


@pytest.fixture(scope="module")
def ridge_table(task) -> pd.DataFrame:
    return ridge(task)


def altered_after(task: Task, origin: datetime) -> Task:
    frame = task.frame.copy()
    frame.loc[frame.index >= origin] *= 3.0
    return Task(task.city, frame, task.origins, task.is_volume)


def test_origins_are_local_midnights_whose_horizon_the_record_covers(task):
    assert task.origins[0] == SPLIT
    assert len(task.origins) == 11
    assert task.is_volume
    assert task.frame.index[-1] >= task.origins[-1] + timedelta(hours=HORIZON_HOURS - 1)


def test_a_later_file_fills_what_the_first_lacks(file, tmp_path):
    half = pd.read_parquet(file)
    half.loc[half.index[:1000], "pm25"] = np.nan
    half.to_parquet(tmp_path / "a.parquet")
    read = read_task([tmp_path / "a.parquet", file], SPLIT, "Europe/Madrid", "ES")
    assert read.frame["pm25"].notna().all()
    with pytest.raises(BadInput, match="no such file"):
        read_task([tmp_path / "b.parquet"], SPLIT, "Europe/Madrid")


@pytest.mark.parametrize("signal", [0, 1, 2])
def test_inputs_of_an_origin_know_nothing_of_what_follows(task, signal):
    at = task.starts[5:6]
    inputs, similar = direct_inputs(task, at, signal)
    later, later_similar = direct_inputs(altered_after(task, task.origins[5]), at, signal)
    np.testing.assert_array_equal(inputs, later)
    np.testing.assert_array_equal(similar, later_similar)
    assert np.isfinite(inputs).mean() > 0.95


def test_training_origins_end_before_the_split(task):
    starts = task.training_starts(range(24), FIRST_START)
    assert starts.max() + HORIZON_HOURS == task.starts[0]


@pytest.mark.slow
def test_ridge_beats_climatology_and_keeps_the_contract(task, ridge_table):
    table = check_forecasts(ridge_table, "ridge")
    rule = climatology(task.city, task.frame, task.origins, HORIZON_HOURS)
    rows = scores({"ours": table, "climatology": rule})
    ratios = rows.set_index(["signal", "forecaster"])["ratio"]
    assert ratios["pm25", "climatology"] < 0.9
    assert ratios["traffic_index", "climatology"] < 0.95
    text = markdown(rows)
    assert "### traffic_index" in text
    assert "| ours |" in text


@pytest.mark.slow
def test_ridge_does_not_see_the_future(task, ridge_table):
    origin = task.origins[4]
    again = ridge(altered_after(task, origin))
    before, after = (table[table["origin"] == pd.Timestamp(origin)] for table in (ridge_table, again))
    pd.testing.assert_series_equal(before["q50"], after["q50"])


@pytest.mark.slow
def test_the_gru_runs_and_its_quantiles_do_not_cross(task, monkeypatch):
    monkeypatch.setattr(gru_peer, "STEPS", 2)
    table = check_forecasts(gru_peer.gru(task), "gru")
    columns = ["q05", "q10", "q25", "q50", "q75", "q90", "q95"]
    assert (np.diff(table[columns].to_numpy(), axis=1) >= 0.0).all()


@pytest.mark.slow
def test_a_target_that_the_record_lacks_is_left_out(file, tmp_path):
    pd.read_parquet(file).drop(columns="energy_mwh").to_parquet(tmp_path / "town.parquet")
    task = read_task([tmp_path / "town.parquet"], SPLIT, "Europe/Madrid", "ES")
    rows = scores({"ridge": ridge(task)})
    assert set(rows["signal"]) == {"pm25", "traffic_index"}


@pytest.mark.parametrize(("peer", "module"), [(lightgbm, "lightgbm"), (nhits, "neuralforecast")])
def test_a_peer_that_is_not_installed_says_how_to_get_it(task, peer, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PeerMissing, match=r"skill"):
        peer(task)


def test_tables_of_other_hours_are_not_compared(task):
    early, late = (persistence(task.city, task.frame, o, 48) for o in (task.origins[:5], task.origins[5:]))
    with pytest.raises(BadInput, match="origin"):
        scores({"a": early, "b": late})


def test_the_command_writes_forecasts_and_scores_and_leaves_missing_peers_out(
    file, tmp_path, monkeypatch, capsys
):
    def missing(_: Task) -> pd.DataFrame:
        raise PeerMissing("it is not installed")

    monkeypatch.setitem(command.PEERS, "lightgbm", missing)
    arguments = ["--data", str(file), "--split", SPLIT.isoformat(), "--timezone", "Europe/Madrid"]
    arguments += ["--country", "ES", "--peers", "lightgbm", "--experiment", "none", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["skill", *arguments])
    command.main()
    assert "lightgbm: left out, it is not installed" in capsys.readouterr().err
    written = pd.read_csv(tmp_path / "scores.csv")
    assert set(written["forecaster"]) == {
        "persistence",
        "yesterday",
        "last_week",
        "climatology",
        "similar_days",
    }
    again = [*arguments[:-1], str(tmp_path / "b"), "--add", f"stored={tmp_path / 'persistence.parquet'}"]
    monkeypatch.setattr(sys, "argv", ["skill", *again])
    command.main()
    both = pd.read_csv(tmp_path / "b" / "scores.csv").set_index(["signal", "forecaster"])["crps"]
    assert both["pm25", "stored"] == both["pm25", "persistence"]
