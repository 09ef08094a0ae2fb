"""What the documents promise is there: verbs, variables, links, and requests that run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from urbanwm.contracts.scenario import Scenario, parse_strict
from urbanwm.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = DOCUMENTS[0].read_text("utf-8")
VERBS = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def names_by_setting() -> dict[str, set[str]]:
    names = {}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names[name] = {str(one) for one in getattr(alias, "choices", [alias or f"URBANWM_{name.upper()}"])}
    return names


def environment_names() -> set[str]:
    return set().union(*names_by_setting().values())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_verb_variable_and_link_of_a_document_exists(path):
    text = path.read_text("utf-8")
    verbs = {
        verb
        for pair in re.findall(r"^make ([a-z]+)|`make ([a-z]+)", text, re.MULTILINE)
        for verb in pair
        if verb
    }
    assert verbs <= VERBS
    assert set(re.findall(r"\bURBANWM_[A-Z_]+", text)) <= environment_names()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (path.parent / link).exists(), link


def test_the_readme_s_request_is_valid():
    body = re.search(r"-d '\s*(\{.*?\})'", README, re.DOTALL)
    assert body is not None
    assert parse_strict(Scenario, json.loads(body[1])).policy.car_free_ratio == 0.3


def test_the_example_file_lists_every_setting_and_nothing_that_is_not_read():
    named = set(
        re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE)
    )
    compose = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "docker-compose.yml").read_text("utf-8")))
    credentials = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert named <= environment_names() | compose | credentials
    assert [setting for setting, names in names_by_setting().items() if not names & named] == []


def test_the_compose_file_names_no_secret_and_every_service_can_start():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    services = compose["services"]
    assert {"postgres", "minio", "mlflow", "prefect", "nightly", "service"} <= set(services)
    for name, service in services.items():
        assert "image" in service, name
        assert set(service.get("depends_on", {})) <= set(services), name
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|TOKEN", variable):
                assert str(value).startswith("${"), f"{name}: {variable} is written out"
