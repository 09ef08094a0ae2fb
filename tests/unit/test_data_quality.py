"""The data quality of a night's cities as pieces of work."""

from __future__ import annotations

import pickle

import pytest

from urbanwm.errors import DataUnavailable
from urbanwm.pipeline import data_quality
from urbanwm.pipeline.data_quality import QualityJob, log_data_quality
from urbanwm.spread import serial

WINDOW = {"lake_version": 3, "cities": {"bonn": {}, "ulm": {}}}


def test_every_city_is_a_piece_that_can_travel_to_another_process(settings, monkeypatch):
    travelled = []
    monkeypatch.setattr(data_quality, "log_city_quality", travelled.append)

    def spread(name, work, jobs):
        return serial(name, work, pickle.loads(pickle.dumps(jobs)))

    log_data_quality(settings, WINDOW, "night-run", spread)
    assert travelled == [QualityJob(settings, WINDOW, "night-run", city) for city in ("bonn", "ulm")]


def test_a_city_whose_data_are_gone_stops_the_night(settings, monkeypatch):
    def gone(job):
        raise DataUnavailable(f"{job.city} is gone")

    monkeypatch.setattr(data_quality, "log_city_quality", gone)
    with pytest.raises(DataUnavailable, match="bonn is gone"):
        log_data_quality(settings, WINDOW, "night-run", serial)
