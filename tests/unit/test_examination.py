"""The behaviour suite as a condition of service."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
import pytest
import structlog
from structlog.testing import capture_logs

from serving import examination
from serving.champion import Champion
from serving.examination import Examiner
from serving.history import Histories
from tests.serving_fakes import NOW, FakeLake, FakeModel, city, history
from urbanwm.baseline import BaselineForecaster
from urbanwm.errors import BundleInvalid


def champion(forecaster: object, *cities: str) -> Champion:
    return Champion(forecaster, "9", "run-9", "5", "digest-9", cities=cities)  # type: ignore[arg-type]


def examiner(frames: dict[str, pd.DataFrame], **options: float) -> Examiner:
    cities = {name: city(name) for name in ("lahore", "zurich")}
    return Examiner(cities, Histories(FakeLake(frames), lambda: NOW), **options)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(examination, "log", structlog.get_logger())
    with capture_logs() as noted:
        yield noted


def test_a_sound_forecaster_passes() -> None:
    examiner({"lahore": history()})(champion(BaselineForecaster(), "lahore"))


def test_an_unfit_forecaster_is_refused_and_city_and_check_are_named() -> None:
    with pytest.raises(BundleInvalid, match=r"on lahore: \w+: ."):
        examiner({"lahore": history()})(champion(FakeModel(level=9e4), "lahore"))


def test_a_city_of_the_training_is_preferred_and_old_data_are_good_enough() -> None:
    frames = {"lahore": history(), "zurich": history(end=NOW - timedelta(days=300))}
    with pytest.raises(BundleInvalid, match="on zurich"):
        examiner(frames)(champion(FakeModel(level=9e4), "zurich"))


def test_without_data_nothing_can_be_tried_and_the_log_says_so(lines: list) -> None:
    for frames in ({}, {"lahore": history(days=3)}):
        examiner(frames)(champion(FakeModel(level=9e4)))
    assert [line["event"] for line in lines] == ["behaviour_not_checked"] * 2


def test_checks_beyond_the_time_limit_are_named_in_the_log(lines: list) -> None:
    examiner({"lahore": history()}, time_limit_seconds=-1.0)(champion(FakeModel(level=9e4), "lahore"))
    (line,) = lines
    assert line["event"] == "behaviour_partly_checked"
    assert "unit_preserving" in line["unchecked"]
