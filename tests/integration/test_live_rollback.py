"""A champion that keeps losing to the baseline leaves by itself, under the lock, with the reason recorded."""

from __future__ import annotations

import json
from datetime import date, timedelta

import pytest

from tests.registry_support import accept, make_registry, make_settings, make_template, register
from urbanwm.errors import GateRefused
from urbanwm.monitoring import DayScore
from urbanwm.pipeline import promote as promote_module
from urbanwm.pipeline.live_rollback import rollback_if_worse
from urbanwm.registry import promote, rollback


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def registry(tmp_path, template, monkeypatch):
    """Return a registry in which version 2 followed version 1 as champion; any bundle passes."""
    monkeypatch.setattr(promote_module, "smoke_test", accept)
    made = make_registry(tmp_path / "home", template)
    for text in ("one", "two"):
        register(made, tmp_path / text, text)
    promote(made, "1", validate=accept, expected_champion=None)
    promote(made, "2", validate=accept, expected_champion="1")
    return made


@pytest.fixture
def settings(tmp_path, registry):
    return make_settings(tmp_path / "home")


def watched(ratios, version="2"):
    return [
        DayScore("demo", date(2026, 1, 1) + timedelta(days=number), version, ratio, {"pm25": ratio})
        for number, ratio in enumerate(ratios)
    ]


def test_after_the_set_number_of_days_the_previous_champion_returns(registry, settings):
    found = rollback_if_worse(settings, watched([0.9, 1.2, 1.1, 1.3]))
    assert (found.done, found.left, found.serving, found.days) == (True, "2", "1", 3)
    assert registry.champion().version == "1"
    decision = registry.version("2").tags["decision"]
    assert decision.startswith("rolled back: live forecasts of version 2")
    run = registry.client.get_run(registry.version("2").run_id)
    assert run.data.tags["decision"] == decision
    assert json.loads((settings.cache_dir / "champions.json").read_text())["current"]["version"] == "1"


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(watched([1.2, 1.1]), id="too few days"),
        pytest.param(watched([1.2, 1.1, 1.3, 0.99]), id="a better day in between"),
        pytest.param(watched([1.2, 1.1, 1.3], version="1"), id="days of another version"),
        pytest.param(watched([]), id="nothing scored"),
    ],
)
def test_otherwise_the_champion_stays(registry, settings, report):
    assert rollback_if_worse(settings, report) is None
    assert registry.champion().version == "2"


def test_the_rule_can_be_switched_off(registry, settings):
    off = settings.model_copy(update={"rollback_after_days": 0})
    assert rollback_if_worse(off, watched([1.5] * 30)) is None


def test_two_bad_champions_do_not_take_turns(registry, settings):
    assert rollback_if_worse(settings, watched([1.2] * 3)).done
    again = rollback_if_worse(settings, watched([1.2] * 3, version="1"))
    assert not again.done
    assert "version 2 failed before" in again.reason
    assert registry.champion().version == "1"


def test_a_first_champion_has_nobody_to_return_to(tmp_path, template, monkeypatch):
    made = make_registry(tmp_path / "first", template)
    register(made, tmp_path / "only", "only")
    promote(made, "1", validate=accept, expected_champion=None)
    found = rollback_if_worse(make_settings(tmp_path / "first"), watched([1.2] * 3, version="1"))
    assert (found.done, found.serving) == (False, "1")
    assert "no previous champion" in found.reason


def test_a_champion_that_changed_meanwhile_is_not_rolled_back(registry):
    with pytest.raises(GateRefused, match="another version serves"):
        rollback(registry, validate=accept, reason="x", expected_champion="1")
    assert registry.champion().version == "2"
