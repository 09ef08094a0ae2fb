"""The command line as a person uses it: real processes, exit codes, and what lands on which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


class Shell:
    """Runs `urbanwm` with a state folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("URBANWM_")}
        environment |= {"URBANWM_HOME": str(self.home), "URBANWM_HISTORY_DAYS": "60", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "urbanwm", *arguments],
            cwd=ROOT,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Shell:
    """Return a shell whose lake holds sixty days of the demo city, and no model."""
    shell = Shell(tmp_path_factory.mktemp("home"))
    done = shell("ingest", "--city", "demo", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["inserted"] >= 59 * 24
    return shell


def test_a_second_ingest_adds_nothing(shell):
    report = json.loads(shell("ingest", "--city", "demo", "--json").stdout)
    assert (report["inserted"], report["updated"]) == (0, 0)


def test_the_lake_is_rebuilt_from_the_raw_archive_without_a_source(shell):
    report = json.loads(shell("ingest", "--city", "demo", "--from-raw", "--json").stdout)
    assert (report["inserted"], report["updated"]) == (0, 0)
    assert report["rows_by_signal"]["pm25"] >= 59 * 24


def test_without_a_model_the_baseline_answers_and_says_so(shell):
    done = shell(
        "simulate", "--city", "demo", "--horizon", "48", "--car-free", "0.3", "--renewable", "0.5", "--json"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["simulated"]) == 48
    assert answer["meta"]["served_by"] == "baseline"
    assert answer["meta"]["degraded"]
    assert any("champion" in reason for reason in answer["meta"]["reasons"])
    assert answer["meta"]["simulated_city"]


def test_the_same_question_has_the_same_bytes(shell):
    question = ("simulate", "--city", "demo", "--seed", "7", "--car-free", "0.2", "--json")
    assert shell(*question).stdout == shell(*question).stdout


def test_the_status_quo_has_no_effect_at_all(shell):
    answer = json.loads(shell("simulate", "--city", "demo", "--car-free", "0", "--json").stdout)
    assert {effect["mean"] for effect in answer["effect"].values()} == {0.0}


def test_people_get_a_table(shell):
    text = shell("simulate", "--city", "demo", "--horizon", "3").stdout
    assert "answered by baseline" in text
    assert text.count("T") >= 3


def test_the_doctor_reports_keys_without_showing_them(shell):
    done = shell("doctor", "--json", WAQI_TOKEN="a-very-secret-token")
    report = json.loads(done.stdout)
    assert report["keys"]["waqi"] is True
    assert "a-very-secret-token" not in done.stdout + done.stderr
    assert report["cities"]["demo"]["signals"]["pm25"]["age_hours"] is not None


def test_the_doctor_leaves_with_3_when_a_city_lacks_something_it_needs(shell, tmp_path):
    (tmp_path / "lost.yaml").write_text(
        "name: lost\ntimezone: UTC\nlocation: {latitude: 1, longitude: 1}\n"
        "signals:\n  pm25: [{source: file, path: nowhere.csv}]\n"
    )
    done = shell("doctor", "--city", "lost", "--json", URBANWM_CITIES=str(tmp_path))
    report = json.loads(done.stdout)
    assert done.returncode == 3
    assert report["cities"]["lost"]["unserved"] == ["pm25"]
    assert "nowhere.csv" in report["problems"][0]
    done = shell("doctor", "--city", "lost", "--offline", URBANWM_CITIES=str(tmp_path))
    assert done.returncode == 0
    assert "no data" in done.stdout


def test_ingest_tells_its_progress_on_stderr_and_the_gaps_at_the_end(shell):
    done = shell("ingest", "--city", "demo", "--from", "2026-01-01")
    assert done.returncode == 0
    assert "1/9 pm25 from synthetic:demo-7" in done.stderr
    assert "every signal has every hour" in done.stdout
    silent = shell("ingest", "--city", "demo", "--json")
    assert "pm25 from" not in silent.stderr
    record = json.loads(silent.stdout)["record"]
    assert record["gaps"] == []
    assert {line["coverage"] for line in record["signals"]} == {1.0}


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "named"),
    [
        (["simulate", "--city", "atlantis"], 2, "UnknownCity", "city"),
        (["simulate", "--city", "demo", "--horizon", "0"], 2, "BadInput", "horizon_hours"),
        (["simulate", "--city", "demo", "--horizon", "169"], 2, "BadInput", "horizon_hours"),
        (["simulate", "--city", "demo", "--car-free", "nan"], 2, "BadInput", "car_free_ratio"),
        (["simulate", "--city", "demo", "--car-free", "1.2"], 2, "BadInput", "car_free_ratio"),
        (["simulate", "--city", "demo", "--assumptions", "wishful"], 2, "BadInput", "assumptions"),
        (["simulate", "--city", "demo", "--carfree", "0.2"], 2, "BadInput", "--carfree"),
        (["ingest", "--city", "demo", "--from", "tuesday"], 2, "BadInput", "--from"),
        (["parse", "--source", "waqq", "pyproject.toml"], 2, "BadInput", "source"),
        (["parse", "--source", "waqi", "no-such-file"], 2, "BadInput", "file"),
        (["train", "--city", "demo", "--experiment", "urbann"], 2, "BadInput", "experiment"),
        (
            [
                "backtest",
                "--city",
                "demo",
                "--start",
                "2026-01-01",
                "--end",
                "2026-01-02",
                "--out",
                "x.parquet",
            ],
            3,
            "DataUnavailable",
            "",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_has_its_exit_code_one_line_and_an_envelope(shell, arguments, code, kind, named):
    done = shell(*arguments, "--json")
    assert done.returncode == code, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["type"] == kind
    assert named in str(error.get("field", "")) + error["message"]
    assert done.stderr.startswith(f"urbanwm: {kind}")
    assert "Traceback" not in done.stderr


def test_a_corrupt_file_is_an_error_of_its_source_and_writes_nothing(shell, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is not a Parquet file")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "broken.yaml").write_text(
        "name: broken\ntimezone: UTC\nlocation: {latitude: 0, longitude: 0}\nsignals:\n"
        "  pm25: [{source: file, path: broken.parquet}]\n  energy_mwh: [{source: file, path: empty.csv}]\n"
    )
    before = json.loads(shell("doctor", "--json").stdout)["lake"]["version"]
    done = shell("ingest", "--city", "broken", "--json", URBANWM_CITIES=str(tmp_path))
    assert done.returncode == 3
    message = json.loads(done.stdout)["error"]["message"]
    assert "broken.parquet" in message
    assert "empty.csv" in message
    assert json.loads(shell("doctor", "--json").stdout)["lake"]["version"] == before
