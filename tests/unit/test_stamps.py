"""What has been examined under this code is not examined again; anything else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.champion import Champion
from serving.examination import Examiner
from serving.history import Histories
from tests.serving_fakes import NOW, FakeLake, FakeModel, city, history
from urbanwm.baseline import BaselineForecaster
from urbanwm.errors import BundleInvalid
from urbanwm.evaluation import stamps as module
from urbanwm.evaluation.stamps import STAMP_FILE, STAMPS_MAX, Stamps, code_digest


def test_a_bundle_is_stamped_for_the_next_process_too(tmp_path: Path) -> None:
    assert not Stamps(tmp_path / "new").has("abc")
    Stamps(tmp_path / "new").add("abc")
    assert Stamps(tmp_path / "new").has("abc")
    assert not Stamps(tmp_path / "new").has("abd")


def test_another_code_voids_every_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Stamps(tmp_path).add("abc")
    monkeypatch.setattr(module, "code_digest", lambda: "edited")
    assert not Stamps(tmp_path).has("abc")
    Stamps(tmp_path).add("abd")
    assert json.loads((tmp_path / STAMP_FILE).read_text()) == {"code": "edited", "passed": ["abd"]}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"code": 1}', '{"passed": 3, "code": "x"}', "\x00"])
def test_an_unreadable_file_stamps_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / STAMP_FILE).write_text(text.replace('"x"', f'"{code_digest()}"'))
    assert not Stamps(tmp_path).has("abc")


def test_the_oldest_stamps_are_forgotten(tmp_path: Path) -> None:
    for number in range(STAMPS_MAX + 2):
        Stamps(tmp_path).add(str(number))
    assert not Stamps(tmp_path).has("1")
    assert Stamps(tmp_path).has("2")


def champion(forecaster: object) -> Champion:
    return Champion(forecaster, "9", "run-9", "5", "digest-9", cities=("lahore",))  # type: ignore[arg-type]


def test_only_a_bundle_that_passed_is_spared_the_suite(tmp_path: Path) -> None:
    histories = Histories(FakeLake({"lahore": history()}), lambda: NOW)
    examine = Examiner({"lahore": city()}, histories, stamps=Stamps(tmp_path))
    absurd = FakeModel(level=-50.0)
    for _ in range(2):
        with pytest.raises(BundleInvalid):
            examine(champion(absurd))
    examine(champion(BaselineForecaster()))
    examine(champion(absurd))


def test_a_suite_cut_short_leaves_no_stamp(tmp_path: Path) -> None:
    histories = Histories(FakeLake({"lahore": history()}), lambda: NOW)
    stamps = Stamps(tmp_path)
    Examiner({"lahore": city()}, histories, time_limit_seconds=0.0, stamps=stamps)(
        champion(BaselineForecaster())
    )
    assert not stamps.has("digest-9")


def test_a_folder_that_cannot_be_written_refuses_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    histories = Histories(FakeLake({"lahore": history()}), lambda: NOW)
    Examiner({"lahore": city()}, histories, stamps=Stamps(tmp_path / "file" / "below"))(
        champion(BaselineForecaster())
    )
