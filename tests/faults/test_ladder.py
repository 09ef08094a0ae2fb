"""The ladder of degradation: one fault per rung, and what the answer then says about itself."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import numpy as np

from serving.metrics import DATA_AGE_HOURS
from tests.serving_fakes import NOW, FakeModel, cached, city, history, serving
from urbanwm.errors import BundleInvalid, DataUnavailable
from urbanwm.sources.base import SourceConfig

STATE = {"pm25": 80.0, "energy_mwh": 900.0, "traffic_index": 1.0}


def late(hours: int, *signals: str):
    """Return a history in which some targets stop early."""
    frame = history()
    for name in signals:
        frame.iloc[-hours:, frame.columns.get_loc(name)] = np.nan
    return frame


def said(meta: dict) -> tuple:
    return meta["rung"], meta["served_by"], meta["model_version"], meta["degraded"]


def test_rung_0_everything_is_fresh(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history()) as world:
        meta = world.meta()
    assert said(meta) == (0, "world_model", "4", False)
    assert meta["reasons"] == []


def test_rung_1_a_late_feed_is_named_and_the_champion_answers(tmp_path: Path) -> None:
    sentence = "pm25: last value is 10 h old (late)"
    with serving(tmp_path, champion=cached("4"), frame=late(10, "pm25")) as world:
        world.loader.model.reasons = (sentence,)
        meta = world.meta()
    assert said(meta) == (1, "world_model", "4", False)
    assert meta["reasons"] == [sentence]


def test_rung_2_the_registry_is_down_and_the_cached_champion_answers(tmp_path: Path) -> None:
    stale = cached("4", stale=True, reason="the model registry does not answer")
    with serving(tmp_path, champion=stale, frame=history()) as world:
        meta = world.meta()
    assert said(meta) == (2, "world_model", "4", True)
    assert meta["reasons"] == ["the model registry does not answer"]


def test_rung_2_registry_and_cache_vanish_and_the_champion_answers_from_memory(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history()) as world:
        world.meta()
        world.cache.now = None
        world.poll()
        meta = world.meta()
    assert said(meta) == (2, "world_model", "4", True)
    assert "version 4 serves from memory" in meta["reasons"][0]


def test_rung_2_the_lake_vanishes_and_its_rows_in_memory_are_used(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history()) as world:
        before = world.simulate()
        for failure, number, words in ((OSError("gone"), 7, "out of reach"), (None, -1, "the lake is gone")):
            world.lake.failure, world.lake.number = failure, number
            world.poll()
            after = world.simulate()
            assert said(after["meta"]) == (2, "world_model", "4", True)
            assert words in after["meta"]["reasons"][0]
            assert after["simulated"] == before["simulated"]


def test_rung_3_a_refused_champion_leaves_the_previous_one_in_service(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history()) as world:
        world.loader.bad = {"5"}
        world.cache.now = cached("5")
        world.poll()
        meta = world.meta()
    assert said(meta) == (3, "world_model", "4", True)
    assert "version 5 was refused" in meta["reasons"][0]


def test_rung_3_without_any_champion_the_baseline_answers(tmp_path: Path) -> None:
    with serving(tmp_path, frame=history()) as world:
        meta = world.meta()
    assert said(meta) == (3, "baseline", None, True)
    assert any("there is no champion" in reason for reason in meta["reasons"])
    assert meta["run_id"] is None


def test_rung_3_an_implausible_champion_hands_over_to_the_baseline(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history()) as world:
        world.model.failure = BundleInvalid("the world model's forecast is not finite")
        answer = world.simulate()
    assert said(answer["meta"]) == (3, "baseline", None, True)
    assert any("not finite" in reason for reason in answer["meta"]["reasons"])
    assert all(np.isfinite(row["pm25"]) for row in answer["simulated"])


def test_rung_4_old_data_are_answered_by_climatology(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history(end=NOW - timedelta(days=20))) as world:
        meta = world.meta()
    assert said(meta) == (4, "baseline", None, True)
    assert any("recent enough" in reason for reason in meta["reasons"])


def test_rung_4_without_data_the_callers_state_is_used(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4")) as world:
        answer = world.simulate(initial_state=STATE)
    assert said(answer["meta"]) == (4, "baseline", None, True)
    assert any("initial_state" in reason for reason in answer["meta"]["reasons"])


def test_rung_4_a_champion_that_lacks_data_declines(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history()) as world:
        world.model.failure = DataUnavailable("too short a history")
        meta = world.meta()
    assert said(meta) == (4, "baseline", None, True)


def test_rung_5_with_nothing_left_there_is_no_answer_but_a_reason(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4")) as world:
        response = world.client.post("/api/simulate", json={"city": "lahore"})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["field"]) == (503, "DataUnavailable", "initial_state")


def test_rung_5_an_earlier_clients_request_for_a_city_without_data_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    body = {
        "city": "Lahore",
        "start_time": NOW.isoformat(),
        "horizon_hours": 48,
        "policy": {"car_free_ratio": 0.2, "renewable_mix": 0.4, "dynamic_pricing": True},
    }
    with serving(tmp_path, champion=cached("4")) as world:
        for path in ("/api/simulate", "/api/optimize"):
            asked = body if path == "/api/simulate" else {"city": "Lahore"}
            response = world.client.post(path, json=asked)
            error = response.json()["error"]
            assert (response.status_code, error["type"]) == (503, "DataUnavailable")
            assert "no recent data" in error["message"]
            assert "simulated" not in response.json()


def test_latents_are_never_invented_by_the_baseline(tmp_path: Path) -> None:
    with serving(tmp_path, frame=history()) as world:
        for response in (
            world.client.post("/api/latent", json={"city": "lahore"}),
            world.client.get("/api/explain/latent_sample?city=lahore"),
        ):
            error = response.json()["error"]
            assert (response.status_code, error["type"]) == (503, "Unavailable")
            assert "no world model" in error["message"]


def test_recorded_and_simulated_cities_are_always_up_to_date(tmp_path: Path) -> None:
    old = history(end=NOW - timedelta(days=500))
    cities = (city("recorded", replay=True), city("generated", simulated=True))
    with serving(tmp_path, champion=cached("4"), frame=old, cities=cities) as world:
        for name in ("recorded", "generated"):
            answer = world.simulate(city=name)
            assert said(answer["meta"]) == (0, "world_model", "4", False)
            assert answer["start"] == (NOW - timedelta(days=500)).isoformat()


def test_the_service_comes_back_when_the_fault_is_over(tmp_path: Path) -> None:
    with serving(tmp_path, frame=history()) as world:
        assert world.meta()["rung"] == 3
        world.cache.now = cached("4")
        world.poll()
        assert world.meta()["rung"] == 0


def test_new_rows_in_the_lake_are_used_at_the_next_check(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history(end=NOW - timedelta(hours=2))) as world:
        assert world.meta()["data_as_of"].startswith("2026-03-10T09")
        world.meta()
        assert world.lake.reads == 1
        world.lake.frames["lahore"], world.lake.number = history(), 8
        world.poll()
        meta = world.meta()
    assert (meta["dataset_version"], world.lake.reads) == ("8", 2)
    assert meta["data_as_of"].startswith("2026-03-10T11")


def test_the_age_of_the_data_is_published_without_anybody_asking(tmp_path: Path) -> None:
    named = city("dated", signals={"pm25": [SourceConfig(source="waqi")]})
    frame = history(end=NOW - timedelta(hours=5))
    with serving(tmp_path, frame=frame, cities=(named,)) as world:
        world.answers.look()
        assert DATA_AGE_HOURS.labels("dated", "pm25")._value.get() == 5.0


def test_a_lake_that_hangs_delays_no_answer_about_a_known_city(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4"), frame=history()) as world:
        world.meta()
        release, asked = threading.Event(), threading.Event()

        def hang() -> int:
            asked.set()
            release.wait(10)
            return 7

        world.lake.version = hang
        looking = threading.Thread(target=world.answers.look)
        looking.start()
        assert asked.wait(5)
        assert world.meta()["rung"] == 0
        assert looking.is_alive()
        release.set()
        looking.join()


def test_a_swap_under_way_never_mixes_two_models_in_one_answer(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("1"), frame=history()) as world:
        for number in range(2, 12):
            model = FakeModel(level=10.0 * number)
            world.loader.model = model
            world.cache.now = cached(str(number))
            world.poll()
            answer = world.simulate(policy={})
            assert answer["meta"]["model_version"] == str(number)
            assert 10.0 * number <= answer["baseline"][0]["pm25"] <= 11.0 * number
