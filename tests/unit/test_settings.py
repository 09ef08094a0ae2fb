from __future__ import annotations

import os
import subprocess
import sys

import pytest

from urbanwm.errors import BadInput
from urbanwm.settings import BUILT_IN_CITIES, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("URBANWM_", "MLFLOW_", "WAQI_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_default_needs_nothing_and_keeps_all_state_in_one_folder():
    settings = load_settings()
    assert settings.home.name == ".urbanwm"
    assert settings.lake_uri.startswith(str(settings.home))
    assert settings.tracking_uri == f"sqlite:///{settings.home}/mlflow/mlflow.db"
    assert settings.cities_dir == BUILT_IN_CITIES
    assert settings.port == 3000


def test_every_contract_variable_is_read(monkeypatch, tmp_path):
    for name, value in {
        "URBANWM_HOME": str(tmp_path / "state"),
        "URBANWM_CITIES": str(tmp_path / "cities"),
        "URBANWM_PORT": "3123",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "PREFECT_API_URL": "http://prefect:4200/api",
        "WAQI_TOKEN": "w",
        "EIA_API_KEY": "e",
        "ENTSOE_API_KEY": "n",
        "OPENAQ_API_KEY": "o",
        "URBANWM_API_KEY": "u",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.home == tmp_path / "state"
    assert settings.cities_dir == tmp_path / "cities"
    assert settings.port == 3123
    assert settings.tracking_uri == "http://mlflow:5000"
    assert settings.prefect_api_url == "http://prefect:4200/api"
    assert sorted(settings.secret_values()) == ["e", "n", "o", "u", "w"]


def test_the_second_name_of_the_waqi_token_works(monkeypatch):
    monkeypatch.setenv("WAQI_API_TOKEN", "second")
    token = load_settings().waqi_token
    assert token is not None
    assert token.get_secret_value() == "second"


def test_a_foreign_variable_such_as_home_is_not_ours(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere/else")
    monkeypatch.setenv("PORT", "1")
    settings = load_settings()
    assert settings.port == 3000
    assert not str(settings.home).startswith("/somewhere/else")


def test_a_secret_never_shows():
    settings = load_settings(waqi_token="very-secret", api_key="also-secret")
    shown = repr(settings) + str(settings) + settings.model_dump_json()
    assert "secret" not in shown.replace("secret_values", "")


def test_a_wrong_value_names_the_variable():
    with pytest.raises(BadInput, match="port"):
        load_settings(port=0)


def test_an_unknown_keyword_is_refused():
    with pytest.raises(BadInput, match="portt"):
        load_settings(portt=1)


def test_telemetry_is_off_before_any_framework_is_imported(tmp_path):
    code = (
        "import os; from urbanwm.settings import *; s = load_settings(home=r'%s'); apply_environment(s);"
        "print(os.environ['BENTOML_DO_NOT_TRACK'], os.environ['DO_NOT_TRACK'],"
        "os.environ['MLFLOW_DISABLE_TELEMETRY'], os.environ['PREFECT_SERVER_ANALYTICS_ENABLED'])"
    )
    done = subprocess.run([sys.executable, "-c", code % tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["true", "true", "true", "false"]
