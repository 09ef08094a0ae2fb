"""Experiment files: every key known, every key read, every refusal names the key."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import urbanwm
from urbanwm.errors import BadInput
from urbanwm.model.config import (
    ModelConfig,
    TrainingConfig,
    experiment_names,
    load_experiment,
    parse_experiment,
)

PACKAGE = Path(urbanwm.__file__).parent


def test_the_reference_experiment_is_the_designs() -> None:
    base = load_experiment("base")
    recipe = base.training
    assert (base.model.kind, base.model.dropout) == ("reference", 0.1)
    assert (recipe.steps, recipe.batch_size, recipe.context_hours + recipe.horizon_hours) == (500, 32, 50)
    assert (recipe.learning_rate, recipe.betas, recipe.weight_decay) == (3e-4, (0.9, 0.999), 1e-4)
    assert (recipe.warmup_steps, recipe.min_learning_rate, recipe.gradient_clip) == (50, 1e-6, 1.0)
    assert (recipe.reconstruction_weight, recipe.kl_weight, recipe.kl_anneal_steps) == (1.0, 0.1, 100)
    assert (recipe.patience, recipe.checkpoint_every) == (5, 100)


@pytest.mark.parametrize("name", experiment_names())
def test_every_built_in_experiment_keeps_the_latent_widths_of_the_api(name: str) -> None:
    model = load_experiment(name).model
    assert (model.hidden_dim, model.latent_dim) == (256, 128)


def test_an_unknown_key_is_refused_with_the_nearest_valid_one() -> None:
    with pytest.raises(BadInput, match="did you mean 'learning_rate'") as caught:
        load_experiment("urban", {"training.learning_rte": 1e-3})
    assert caught.value.field == "training.learning_rte"


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(BadInput, match="did you mean 'training'"):
        load_experiment("urban", {"trainin.steps": 3})


def test_an_unknown_experiment_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(BadInput, match="did you mean 'urban'"):
        load_experiment("urbn")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.steps", 0),
        ("training.learning_rate", float("nan")),
        ("training.ema_decay", 1.0),
        ("model.kind", "transformer"),
        ("training.betas", [0.9]),
        ("name", "../evil"),
    ],
)
def test_a_bad_value_is_refused_and_named(key: str, value: object) -> None:
    with pytest.raises(BadInput) as caught:
        load_experiment("urban", {key: value})
    assert caught.value.field is not None
    assert caught.value.field.startswith(key)


def test_a_recipe_without_any_loss_is_refused() -> None:
    with pytest.raises(BadInput, match="nothing to learn from"):
        load_experiment("urban", {"training.forecast_weight": 0.0, "training.reconstruction_weight": 0.0})


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "name: [unclosed", "name: urban\nmodel: 3\n"])
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(BadInput):
        load_experiment(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        load_experiment(tmp_path / "nothing.yaml")


def test_an_override_wins_over_the_file_and_changes_the_hash() -> None:
    plain, changed = load_experiment("urban"), load_experiment("urban", {"training.steps": 7})
    assert changed.training.steps == 7
    assert plain.config_hash() != changed.config_hash()
    assert plain.config_hash() == load_experiment("urban").config_hash()


def test_an_experiment_survives_json() -> None:
    urban = load_experiment("urban")
    assert parse_experiment(urban.to_dict()) == urban


def test_the_flat_parameters_fit_a_trackers_compare_page() -> None:
    flat = load_experiment("urban").flatten()
    assert len(flat) < 25
    assert all(isinstance(value, (str, int, float)) for value in flat.values())


def test_every_key_is_read_by_the_code() -> None:
    read: set[str] = set()
    for path in [*(PACKAGE / "model").glob("*.py"), *(PACKAGE / "training").glob("*.py")]:
        read |= {
            node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
        }
    assert set(ModelConfig.model_fields) | set(TrainingConfig.model_fields) <= read


def test_every_key_is_documented() -> None:
    """By reading the source: letting pydantic collect the docstrings would slow every start by 0.15 s."""
    for section in (ModelConfig, TrainingConfig):
        body = ast.parse(inspect.getsource(section)).body[0].body
        documented = {
            field.target.id
            for field, after in pairwise(body)
            if isinstance(field, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        }
        assert set(section.model_fields) - documented == set()


@pytest.mark.parametrize("module", ["urbanwm.model", "urbanwm.model.config", "urbanwm.model.bundle"])
def test_serving_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
