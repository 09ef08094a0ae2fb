"""Which models a night trains, and which of them meets the champion."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from urbanwm.errors import BadInput, TrainingDiverged
from urbanwm.model.config import load_experiment
from urbanwm.pipeline import candidates as module
from urbanwm.pipeline.candidates import (
    candidate_identities,
    candidate_names,
    choose,
    configured_candidates,
    losses,
)
from urbanwm.pipeline.outcome import Trained, TrainOutcome
from urbanwm.pipeline.plan import Candidate
from urbanwm.provenance import document_hash
from urbanwm.registry import ModelVersion
from urbanwm.settings import load_settings

DIGESTS = {"demo": "abc"}
DATA = SimpleNamespace(digests=DIGESTS)
CHAMPION = ModelVersion(
    version="4",
    run_id="r4",
    created_at=datetime(2026, 4, 1, tzinfo=UTC),
    source="here",
    tags={"bundle_digest": "d4", "data_digest": "older"},
)


@pytest.fixture
def settings(tmp_path):
    return load_settings(home=tmp_path / "home")


@pytest.fixture
def trained_as(monkeypatch):
    """Say with which experiment the champion was trained."""

    def install(experiment):
        monkeypatch.setattr(module, "_experiment_of", lambda registry, version: experiment)

    install(load_experiment("urban"))
    return install


def registry(champion=CHAMPION):
    return SimpleNamespace(exists=True, champion=lambda: champion)


def labels(settings, champion=CHAMPION):
    return [item.label for item in configured_candidates(settings, DATA, registry(champion))]


def outcome(label, validation, start=None):
    return TrainOutcome(
        "r", label, "urban", 1, 1, {}, [], {}, label=label, validation=validation, start=start
    )


class TestConfigured:
    def test_without_a_setting_the_experiment_and_a_warm_start_are_trained(self, settings, trained_as):
        assert candidate_names(settings) == ["urban", "warm"]
        assert labels(settings) == ["urban", "warm"]

    def test_on_the_first_night_there_is_nothing_to_start_from(self, settings):
        assert labels(settings, champion=None) == ["urban"]

    def test_a_warm_start_alone_becomes_a_cold_one_on_the_first_night(self, settings):
        assert labels(settings.model_copy(update={"candidates": ["warm"]}), champion=None) == ["urban"]

    def test_a_champion_that_learnt_from_these_very_data_is_not_trained_on(self, settings, trained_as):
        same = replace(CHAMPION, tags={"data_digest": document_hash(DIGESTS)})
        assert "warm" not in labels(settings, same)

    def test_a_champion_of_another_shape_is_not_trained_on(self, settings, trained_as):
        trained_as(load_experiment("urban", {"model.hidden_dim": 32}))
        assert "warm" not in labels(settings)

    def test_a_champion_whose_configuration_this_code_cannot_read_is_not_trained_on(
        self, settings, trained_as
    ):
        trained_as(None)
        assert "warm" not in labels(settings)

    def test_a_warm_start_takes_fewer_and_smaller_steps_from_the_champions_weights(
        self, settings, trained_as
    ):
        warm = configured_candidates(settings, DATA, registry())[-1]
        recipe, base = warm.experiment.training, load_experiment("urban").training
        assert (warm.start, warm.start_digest) == ("4", "d4")
        assert recipe.steps == settings.warm_start_steps < base.steps
        assert recipe.learning_rate == pytest.approx(base.learning_rate / 3)

    def test_seeds_and_experiments_can_be_listed(self, settings):
        asked = settings.model_copy(update={"candidates": ["urban", "urban@7", "base"], "training_steps": 5})
        found = configured_candidates(asked, DATA, registry(None))
        assert [item.label for item in found] == ["urban", "urban@7", found[2].experiment.name]
        assert found[1].experiment.training.seed == 7
        assert {item.experiment.training.steps for item in found} == {5}
        assert len({item.experiment.config_hash() for item in found}) == 3

    @pytest.mark.parametrize("name", ["urban@seven", "urban@-1", "urbane"])
    def test_a_name_that_means_nothing_is_refused(self, settings, name):
        with pytest.raises(BadInput):
            configured_candidates(settings.model_copy(update={"candidates": [name]}), DATA, registry(None))

    def test_the_list_is_read_from_a_comma_separated_variable(self, monkeypatch, tmp_path):
        monkeypatch.setenv("URBANWM_CANDIDATES", "urban, urban@2,warm")
        assert load_settings(home=tmp_path).candidates == ["urban", "urban@2", "warm"]

    @pytest.mark.parametrize(
        "change",
        [{"training_steps": 5}, {"warm_start_steps": 5}, {"candidates": ["urban"]}, {"experiment": "base"}],
    )
    def test_what_decides_the_training_is_part_of_the_nights_identity(self, settings, change):
        assert candidate_identities(settings.model_copy(update=change)) != candidate_identities(settings)


class TestChoice:
    def test_the_best_on_validation_meets_the_champion(self):
        assert choose([outcome("a", 0.30), outcome("b", 0.25), outcome("c", 0.28)]).label == "b"

    def test_a_tie_goes_to_the_first(self):
        assert choose([outcome("a", 0.25), outcome("b", 0.25)]).label == "a"

    def test_a_warm_start_must_be_clearly_better(self):
        assert choose([outcome("cold", 0.2500), outcome("warm", 0.2490, "4")]).label == "cold"
        assert choose([outcome("cold", 0.2500), outcome("warm", 0.2400, "4")]).label == "warm"

    def test_a_candidate_without_a_validation_score_comes_last(self):
        assert choose([outcome("a", None), outcome("b", 0.9)]).label == "b"

    def test_a_lost_candidate_is_named_with_its_reason(self):
        config = load_experiment("urban")
        results = [outcome("a", 0.3), TrainingDiverged("the loss is not finite", field="loss")]
        found = losses(results, [Candidate("a", config), Candidate("b", config)])
        assert found == {"b": "TrainingDiverged: the loss is not finite"}


def test_a_finished_training_is_known_by_its_record(tmp_path):
    trained = Trained("urban", "urban", "k", "r", tmp_path, 10, 0.25, None, {"train": 1.0})
    assert Trained.load(tmp_path) is None
    trained.save()
    assert Trained.load(tmp_path) == trained
    assert trained.bundle == tmp_path / "bundle"
