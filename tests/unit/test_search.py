"""The search for better settings: what it proposes, what it keeps, and how it goes on after a kill."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from urbanwm.errors import TrainingDiverged, UrbanWMError
from urbanwm.model.config import load_experiment
from urbanwm.pipeline import search as module
from urbanwm.pipeline.search import search_candidate
from urbanwm.settings import load_settings

optuna = pytest.importorskip("optuna")


class Recorder:
    """Stands in for the registry: keeps what each trial's run was told."""

    def __init__(self):
        self.runs = []

    @contextmanager
    def start_run(self, name, tags, parent_run_id):
        run = SimpleNamespace(name=name, parent=parent_run_id, params={}, metrics={}, tags=dict(tags))
        self.runs.append(run)
        yield SimpleNamespace(
            log_params=run.params.update, log_metrics=run.metrics.update, set_tags=run.tags.update
        )


@pytest.fixture
def settings(tmp_path):
    return load_settings(home=tmp_path / "home", search_minutes=1.0)


@pytest.fixture
def searched(settings, monkeypatch, tmp_path):
    """Run a search in which trial k scores `scores[k]`, an error standing for a trial that ends with it."""
    registry = Recorder()
    monkeypatch.setattr(
        module,
        "plan_candidate",
        lambda candidate, data: SimpleNamespace(key=candidate.experiment.config_hash()),
    )

    def run(scores):
        def score(learn, plan, settings, trial, deadline):
            assert learn == "fitted once"
            (settings.runs_dir / plan.key).mkdir(parents=True)
            if trial.number == len(scores) - 1:
                trial.study.stop()
            if isinstance(scores[trial.number], Exception):
                raise scores[trial.number]
            return scores[trial.number]

        monkeypatch.setattr(module, "_trainer", lambda base, data: "fitted once")
        monkeypatch.setattr(module, "_score", score)
        return search_candidate(settings, None, registry, "night", tmp_path / "folder")

    run.runs = registry.runs
    return run


def test_the_first_trial_is_the_experiment_as_it_is(searched):
    assert searched([0.2]) is None
    training = load_experiment("urban").training
    assert searched.runs[0].params["training.learning_rate"] == pytest.approx(training.learning_rate)
    assert searched.runs[0].params["training.kl_weight"] == pytest.approx(training.kl_weight)
    assert (searched.runs[0].parent, searched.runs[0].metrics) == ("night", {"val/best_score": 0.2})


def test_settings_that_are_no_better_give_no_candidate(searched):
    assert searched([0.2, 0.3, 0.25]) is None


def test_the_best_settings_become_a_candidate_and_the_others_leave_nothing(searched, settings):
    best = searched([0.2, 0.3, 0.1])
    assert best.label == "search"
    own = searched.runs[2].params
    assert best.experiment.training.learning_rate == own["training.learning_rate"]
    assert best.experiment.model.dropout == own["model.dropout"]
    kept = {path.name for path in settings.runs_dir.iterdir()}
    assert best.experiment.config_hash() in kept
    assert len(kept) == 2


def test_a_trial_that_diverges_or_lags_behind_does_not_end_the_search(searched):
    lost = [TrainingDiverged("the loss is not finite"), optuna.TrialPruned("lags behind at step 50")]
    assert searched([0.2, *lost, 0.1]).label == "search"
    assert searched.runs[2].tags["ended_early"] == "lags behind at step 50"


def test_a_search_that_was_killed_goes_on_with_the_time_that_is_left(searched, settings, monkeypatch):
    first = searched([0.2, 0.1])
    monkeypatch.setattr(module, "SECONDS_PER_MINUTE", 0.0)
    again = searched([])
    assert len(searched.runs) == 2
    assert again == first


def test_a_proposal_lies_within_a_decade_of_what_was_chosen(searched):
    searched([0.2] * 4)
    for run in searched.runs:
        assert 1e-4 <= run.params["training.learning_rate"] <= 1e-3
        assert 0.0 <= run.params["model.dropout"] <= 0.3


@pytest.mark.parametrize(("number", "deadline", "ends"), [(1, 0.0, True), (0, 0.0, False), (1, 1e12, False)])
def test_a_trial_out_of_time_ends_and_leaves_no_checkpoints(settings, monkeypatch, number, deadline, ends):
    folder = settings.runs_dir / "key"

    def learn(experiment, *, out_dir, on_metrics):
        out_dir.mkdir(parents=True)
        on_metrics(10, {"loss": 1.0})
        on_metrics(25, {"val_score": 0.3})
        return SimpleNamespace(history=[{"loss": 1.0}, {"val_score": 0.3}, {"val_score": 0.2}])

    told = []
    trial = SimpleNamespace(
        number=number, report=lambda value, step: told.append((value, step)), should_prune=lambda: False
    )
    arguments = (learn, SimpleNamespace(key="key", experiment=load_experiment("urban")), settings, trial)
    if ends:
        with pytest.raises(optuna.TrialPruned, match="out of time"):
            module._score(*arguments, deadline)
    else:
        assert module._score(*arguments, deadline) == 0.2
    assert folder.exists() is not ends
    assert told == [(0.3, 0)]


def test_what_no_proposal_changes_is_made_once_for_all_trials(monkeypatch):
    given = []
    monkeypatch.setattr("urbanwm.training.train", lambda experiment, **named: given.append(named))
    monkeypatch.setattr("urbanwm.training.direct_fit.fit_direct", lambda series, spec: "direct")
    monkeypatch.setattr(module, "training_spec", lambda plan: "spec")
    monkeypatch.setattr(module, "plan_candidate", lambda candidate, data: candidate)
    learn = module._trainer(load_experiment("urban"), SimpleNamespace(records={}))
    learn("first", out_dir=1), learn("second", out_dir=2)
    common = {"series": {}, "spec": "spec", "direct": "direct"}
    assert given == [common | {"out_dir": 1}, common | {"out_dir": 2}]


def test_without_optuna_the_extra_is_named(settings, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UrbanWMError, match=r"urbanwm\[search\]"):
        search_candidate(settings, None, Recorder(), "night", tmp_path)
