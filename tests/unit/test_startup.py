"""What an answer imports: every second that a start takes came from a module that nobody needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from holidays import list_supported_countries

from urbanwm.cities import load_city
from urbanwm.errors import BadInput
from urbanwm.settings import load_settings
from urbanwm.zones import country_of

ROOT = Path(__file__).resolve().parents[2]
NOT_NEEDED = (
    "torch",
    "mlflow",
    "sqlalchemy",
    "prefect",
    "bentoml",
    "pandera",
    "requests",
    "matplotlib",
    "scipy",
)


def _imported(code: str, home: Path) -> set[str]:
    """Run code in a fresh process; return the modules it has loaded."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    environment = {**os.environ, "URBANWM_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def test_an_answer_imports_nothing_that_it_does_not_need(tmp_path):
    code = "import urbanwm.answer, urbanwm.settings as s; urbanwm.answer.load_city('demo', s.load_settings())"
    loaded = _imported(code, tmp_path)
    assert loaded.isdisjoint(NOT_NEEDED)
    calendars = {name for name in loaded if name.startswith("holidays.countries.")}
    assert len(calendars) <= 2, "one city needs one country's calendar"


def test_importing_the_service_imports_neither_torch_nor_the_registry(tmp_path):
    loaded = _imported("import serving.service", tmp_path)
    assert loaded.isdisjoint({"torch", "mlflow", "sqlalchemy", "pandera", "matplotlib", "scipy"})


def test_a_forecast_of_a_city_that_was_trained_on_needs_no_scipy(tmp_path):
    assert "scipy" not in _imported("import urbanwm.forecaster", tmp_path)


def test_the_countries_are_those_that_have_a_calendar():
    assert country_of("Europe/Madrid") == "ES"
    assert country_of("Etc/GMT+5") is None
    assert "ES" in list_supported_countries(include_aliases=False)


def test_a_city_is_read_beside_a_broken_file_of_another(tmp_path):
    demo = load_settings().cities_dir / "demo.yaml"
    (tmp_path / "demo.yaml").write_bytes(demo.read_bytes())
    (tmp_path / "broken.yaml").write_text("name: [", encoding="utf-8")
    settings = load_settings(cities_dir=tmp_path)
    assert load_city(" Demo", settings).name == "demo"
    with pytest.raises(BadInput, match=r"broken\.yaml"):
        load_city("../demo", settings)
