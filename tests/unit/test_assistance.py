"""Idle processes that help a training: whoever computes a piece of a batch, the bits are the same."""

from __future__ import annotations

import itertools
import json
import stat
import subprocess
import sys
from contextlib import contextmanager
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Client
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small_world import small_experiment, small_fit, small_series
from tests.waiting import eventually
from urbanwm.model.config import ModelDims
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training import assistance, train, validation
from urbanwm.training.assistance import Assistants, assist, open_to_assistants
from urbanwm.training.pieces import cut, loss_function, mean, slope
from urbanwm.training.sampling import split_origins
from urbanwm.training.team import SOLO
from urbanwm.training.validation import HeldOut, forecast_held_out
from urbanwm.training.warm_start import weights_digest

REPOSITORY = Path(__file__).resolve().parents[2]
HELPER = """
import pathlib, sys
from urbanwm.training.assistance import assist
print(assist(pathlib.Path(sys.argv[1])))
"""


@contextmanager
def helper_of(word, assistants):
    """Give a process that has offered to help; it is killed in the end, if it has not ended by itself."""
    command = [sys.executable, "-W", "ignore", "-c", HELPER, str(word)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as helper:
        try:
            eventually(lambda: assistants.present == 1)
            yield helper
        finally:
            if assistants.present:
                assistants.close()
            else:
                helper.kill()


@pytest.fixture(autouse=True)
def _one_thread():
    """As in a training: another number gives other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class World:
    """A small model with dropout, a batch of seven windows with gaps, and the recipe."""

    def __init__(self, kind="urban", **changes):
        dropout = {"model__dropout": 0.2} if kind == "urban" else {}
        self.experiment = small_experiment(kind, training__pieces=2, **dropout, **changes)
        self.spec, self.series = small_series(self.experiment)
        self.recipe = self.experiment.training
        torch.manual_seed(0)
        self.model = UrbanWorldModel(self.experiment.model, ModelDims.of(self.spec)).train()
        self.loss = loss_function(self.model, self.recipe)
        hours = self.recipe.context_hours, self.recipe.horizon_hours
        (city,) = self.series.values()
        self.batch = Batch.of(city.windows(list(range(800, 807)), *hours))
        self.noise = torch.randn(*self.batch.target.shape[:2], self.experiment.model.latent_dim)

    def pieces(self, count=2):
        torch.manual_seed(1)
        return cut(self.batch, self.noise, 0, count)

    def slopes(self, assistants):
        return assistants.slopes(self.loss, self.model, self.pieces(), self.recipe)

    def forecasts(self, team):
        splits = {name: split_origins(city, self.recipe) for name, city in self.series.items()}
        return forecast_held_out(self.model, HeldOut.cut(self.series, splits, self.recipe), team)

    def train(self, folder, team=SOLO):
        result = train(
            self.experiment, self.series, self.spec, folder, progress=False, direct=small_fit(), team=team
        )
        return weights_digest(dict(result.model.named_parameters()))


def assert_same_bits(found, expected):
    assert [one.loss for one in found] == [other.loss for other in expected]
    assert [one.parts for one in found] == [other.parts for other in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.gradient.keys() == other.gradient.keys()
        assert all(torch.equal(one.gradient[name], other.gradient[name]) for name in one.gradient)


class TestPieces:
    @pytest.mark.parametrize(("asked", "made"), [(1, 1), (2, 2), (3, 3), (9, 7)])
    def test_pieces_are_disjoint_and_complete_and_never_empty(self, asked, made):
        world = World()
        pieces = world.pieces(asked)
        assert len(pieces) == made
        again = torch.empty_like(world.noise)
        for first, piece in enumerate(pieces):
            again[first::made] = piece.noise
            assert len(piece.batch.target) == len(piece.noise) > 0
        assert torch.equal(again, world.noise)

    def test_a_slope_depends_on_nothing_but_its_piece_and_the_weights(self):
        world = World()
        piece = world.pieces()[1]
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first = slope(world.loss, world.model, piece, world.recipe)
        assert torch.equal(torch.get_rng_state(), state)
        slope(world.loss, world.model, world.pieces()[0], world.recipe)
        torch.rand(3)
        assert_same_bits([slope(world.loss, world.model, piece, world.recipe)], [first])

    def test_the_mean_over_pieces_of_one_size_without_gaps_is_the_whole_batchs(self):
        world = World()
        world.model.eval()  # dropout would be drawn for other rows
        rows = {name: value[:6] for name, value in vars(world.batch).items() if torch.is_tensor(value)}
        rows["target_mask"] = torch.ones_like(rows["target_mask"])
        batch = Batch(**rows, context_hours=world.batch.context_hours)
        parts = [cut(batch, world.noise[:6], 0, count) for count in (1, 3)]
        (whole,), thirds = (SOLO.slopes(world.loss, world.model, part, world.recipe) for part in parts)
        found = mean(thirds)
        assert found.loss == pytest.approx(whole.loss, rel=1e-5)
        for name, value in whole.gradient.items():
            torch.testing.assert_close(found.gradient[name], value, rtol=1e-3, atol=1e-6)


class TestAssistants:
    @pytest.mark.slow
    def test_an_assistants_piece_has_the_bits_of_ones_own(self, tmp_path):
        world = World()
        alone = world.slopes(SOLO)
        word = tmp_path / "word.json"
        with open_to_assistants(word) as assistants, helper_of(word, assistants) as helper:
            for _ in range(2):
                assert_same_bits(world.slopes(assistants), alone)
            assistants.close()
            assert helper.stdout.read() == "2\n"

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["urban", "reference"])
    def test_held_out_windows_that_an_assistant_forecasts_have_the_bits_of_ones_own(
        self, tmp_path, monkeypatch, kind
    ):
        monkeypatch.setattr(validation, "WINDOWS_PER_PASS", 16)
        world, word = World(kind), tmp_path / "word.json"
        alone = vars(world.forecasts(SOLO))
        with open_to_assistants(word) as assistants, helper_of(word, assistants) as helper:
            found = vars(world.forecasts(assistants))
            assert all(np.array_equal(found[name], alone[name]) for name in alone)
            assert world.model.training
            assistants.close()
            assert int(helper.stdout.read()) > 0

    @pytest.mark.slow
    def test_a_training_is_the_same_with_an_assistant_and_with_one_that_is_killed(self, tmp_path):
        world, word, asked = World(training__steps=30), tmp_path / "word.json", itertools.count()
        alone = world.train(tmp_path / "alone")
        with open_to_assistants(word) as assistants, helper_of(word, assistants) as helper:
            asked_for = assistants.slopes

            def slopes(*arguments):
                if next(asked) == 10:
                    helper.kill()
                return asked_for(*arguments)

            assistants.slopes = slopes
            assert world.train(tmp_path / "helped", assistants) == alone
            assert assistants.present == 0

    @pytest.mark.parametrize("fault", ["gone before the request", "gone after the request", "hangs"])
    def test_a_piece_that_does_not_come_back_is_computed_here(self, monkeypatch, request, fault):
        monkeypatch.setattr(assistance, "ANSWER_SECONDS", 0.05)
        world, assistants = World(), Assistants()
        alone = world.slopes(assistants)
        ours, theirs = Pipe()
        request.addfinalizer(theirs.close)
        assistants.welcome(ours)
        if fault == "gone before the request":
            theirs.close()
        elif fault == "gone after the request":
            monkeypatch.setattr(assistance, "_send", lambda *message: theirs.close())
        else:
            monkeypatch.setattr(assistance, "_send", lambda *message: None)
        assert_same_bits(world.slopes(assistants), alone)
        assert assistants.present == 0

    def test_who_does_not_know_the_key_is_not_let_in(self, tmp_path):
        with open_to_assistants(tmp_path / "word.json") as assistants:
            word = json.loads((tmp_path / "word.json").read_text())
            with pytest.raises(AuthenticationError):
                Client(tuple(word["address"]), authkey=b"guess")
            assert assistants.present == 0
            # The next one, who knows it, is.
            with Client(tuple(word["address"]), authkey=bytes.fromhex(word["key"])):
                eventually(lambda: assistants.present == 1)

    def test_the_word_is_for_this_user_only_and_says_in_the_end_that_it_is_over(self, tmp_path):
        word = tmp_path / "word.json"
        with pytest.raises(ZeroDivisionError), open_to_assistants(word):
            1 / (stat.S_IMODE(word.stat().st_mode) - 0o600)  # fails as a training may
        assert json.loads(word.read_text()) == {}
        assert assist(word) == 0

    @pytest.mark.parametrize("left", [None, {"address": ["127.0.0.1", 9], "key": "00"}])
    def test_a_training_that_does_not_begin_is_given_up(self, tmp_path, monkeypatch, left):
        monkeypatch.setattr(assistance, "BEGIN_SECONDS", 0.3)
        if left is not None:  # by a training that was killed
            (tmp_path / "word.json").write_text(json.dumps(left))
        assert assist(tmp_path / "word.json") == 0
