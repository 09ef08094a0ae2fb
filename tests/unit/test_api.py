"""The HTTP routes over fakes: what is answered, and how a wrong request is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from serving.api import Api, create_app
from serving.openapi import openapi_document
from tests.serving_fakes import World, cached, history, serving
from urbanwm.settings import load_settings

# The request bodies of the earlier implementation's web page.
EARLIER_BODY = {
    "city": "Lahore",
    "start_time": "2026-03-10T12:00:00Z",
    "horizon_hours": 48,
    "policy": {
        "car_free_ratio": 0.2,
        "renewable_mix": 0.4,
        "dynamic_pricing": True,
        "stricter_car_bans": False,
        "gdp_activity_index": 1.0,
        "commercial_load_factor": 1.0,
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("home"), champion=cached("4"), frame=history()) as made:
        yield made


def refused(world: World, status: int, **request: object) -> dict:
    response = world.client.request(**{"method": "POST", "url": "/api/simulate", **request})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert {"type", "message", "field", "allowed"} <= set(error)
    return error


def test_a_request_of_the_earlier_implementation_is_answered_with_the_fields_its_page_reads(
    world: World,
) -> None:
    answer = world.client.post("/api/simulate", json=EARLIER_BODY).json()

    assert len(answer["simulated"]) == len(answer["baseline"]) == 48
    row = answer["simulated"][0]
    wanted = {
        "hour",
        "timestamp",
        "pm25",
        "energy_mwh",
        "traffic_index",
        "pm25_std",
        "energy_std",
        "traffic_std",
    }
    assert wanted <= set(row)
    assert {"pm25_q05", "traffic_q95"} <= set(row)
    assert {"generated_at", "note", "policy_effective"} <= set(answer["meta"])
    assert answer["horizon"] == 48
    assert answer["start"].startswith("2026-03-10T12:00:00")


def test_an_answer_says_who_gave_it_and_from_what(world: World) -> None:
    meta = world.meta()

    assert meta["served_by"] == "world_model"
    assert meta["model_version"] == "4"
    assert meta["run_id"] == "run-4"
    assert meta["dataset_version"] == "7"
    assert meta["data_as_of"].startswith("2026-03-10T11:00:00")
    assert meta["degraded"] is False
    assert meta["reasons"] == []
    assert meta["assumptions"]["name"] == "literature"


def test_the_same_question_has_the_same_bytes(world: World) -> None:
    first = world.client.post("/api/simulate", json=EARLIER_BODY).content
    assert world.client.post("/api/simulate", json=EARLIER_BODY).content == first


def test_the_status_quo_has_no_effect_at_all(world: World) -> None:
    answer = world.simulate(policy={})
    assert answer["simulated"] == answer["baseline"]
    assert answer["effect"]["pm25"]["mean"] == 0.0


def test_another_policy_asks_the_model_only_once(world: World) -> None:
    world.simulate(seed=99)
    asked = world.model.asked
    world.simulate(seed=99, policy={"car_free_ratio": 0.9})
    assert world.model.asked == asked


def test_latents_have_one_row_more_than_hours(world: World) -> None:
    answer = world.client.post("/api/latent", json={"city": "lahore", "horizon_hours": 24}).json()
    assert [len(answer["z"]), len(answer["z"][0])] == [25, 128]
    assert [len(answer["h"]), len(answer["h"][0])] == [25, 256]
    assert answer["meta"]["served_by"] == "world_model"


def test_a_latent_sample_is_the_same_twice(world: World) -> None:
    first = world.client.get("/api/explain/latent_sample?city=lahore").json()
    assert first == world.client.get("/api/explain/latent_sample?city=Lahore").json()
    assert len(first["points"]) == 168
    assert set(first["points"][0]) == {"x", "y", "label", "weight"}
    assert all(0 <= point["weight"] <= 1 for point in first["points"])


def test_a_plan_names_policy_score_and_candidates(world: World) -> None:
    body = {"city": "lahore", "horizon_hours": 6, "weights": {"pm25": 1}, "eval_budget": 8}
    plan = world.client.post("/api/optimize", json=body).json()
    assert set(plan["policy"]) == {"car_free_ratio", "renewable_mix"}
    assert plan["candidates_tested"] <= 8
    assert isinstance(plan["score"], float)


def test_the_cities_say_how_fresh_they_are(world: World) -> None:
    (only,) = world.client.get("/api/cities").json()["cities"]
    assert only["name"] == "lahore"
    assert only["data_as_of"].startswith("2026-03-10T12:00:00")
    assert only["status_quo"]["renewable_mix"] == 0.3


def test_health_and_model_name_the_version_in_service(world: World) -> None:
    health = world.client.get("/api/health").json()
    assert (health["status"], health["service"], health["model_version"]) == ("ok", "urbanwm", "4")
    model = world.client.get("/api/model").json()
    assert (model["run_id"], model["confirmed_by_registry"]) == ("run-4", True)


def test_the_card_of_the_model_in_service_is_served(world: World) -> None:
    card = world.client.get("/api/model/card")
    assert card.text == "# Model card of 4\n"
    assert card.headers["content-type"].startswith("text/markdown")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"city": "lahore", "horizon_hours": 0}, "horizon_hours"),
        ({"city": "lahore", "horizon_hours": 169}, "horizon_hours"),
        ({"city": "lahore", "policy": {"car_free_ratio": 1.2}}, "policy.car_free_ratio"),
        ({"city": "lahore", "uncertainty_samples": 201}, "uncertainty_samples"),
        ({"city": "lahore", "start_time": "2026-03-10T12:00:00"}, "start_time"),
        ({"city": "lahore", "start_time": "9999-12-31T23:00:00Z"}, "start_time"),
        ({"city": "lahore", "assumptions": "../../etc/passwd.yaml"}, "assumptions"),
        ({"horizon_hours": 4}, "city"),
    ],
)
def test_an_invalid_value_names_its_field_and_what_is_allowed(world: World, body: dict, field: str) -> None:
    error = refused(world, 422, json=body)
    assert error["field"] == field
    assert error["allowed"]


def test_a_misspelt_key_names_the_nearest_valid_one(world: World) -> None:
    error = refused(world, 422, json={"city": "lahore", "policy": {"car_free_ration": 0.2}})
    assert "did you mean 'car_free_ratio'" in error["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400])
def test_a_number_that_is_not_finite_is_refused(world: World, number: str) -> None:
    content = f'{{"city": "lahore", "policy": {{"car_free_ratio": {number}}}}}'
    error = refused(world, 422, content=content, headers={"content-type": "application/json"})
    assert error["field"] == "policy.car_free_ratio"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"null",
        b'"text"',
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b'{"city": "\\ud800"}',
    ],
)
def test_a_body_that_is_no_json_object_is_refused(world: World, content: bytes) -> None:
    refused(world, 422, content=content, headers={"content-type": "application/json"})


def test_an_unknown_city_is_not_found(world: World) -> None:
    error = refused(world, 404, json={"city": "lahorre"})
    assert (error["type"], error["field"], error["allowed"]) == ("UnknownCity", "city", ["lahore"])
    assert "did you mean 'lahore'" in error["message"]


def test_an_unknown_route_is_not_found(world: World) -> None:
    assert refused(world, 404, url="/api/nothing")["type"] == "NotFound"


def test_a_wrong_method_is_refused_and_the_right_one_named(world: World) -> None:
    response = world.client.get("/api/simulate")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["type"] == "MethodNotAllowed"


@pytest.mark.parametrize("parameters", ["", "?city=", "?city=lahore&x=1"])
def test_a_latent_sample_needs_exactly_a_city(world: World, parameters: str) -> None:
    refused(world, 422, method="GET", url=f"/api/explain/latent_sample{parameters}")


def test_what_a_caller_sent_comes_back_shortened(world: World) -> None:
    error = refused(world, 404, json={"city": "x" * 60})
    assert len(json.dumps(error)) < 1000
    error = refused(world, 422, json={"city": "lahore", "y" * 100_000: 1})
    assert len(json.dumps(error)) < 2000


def test_without_a_model_the_service_is_ready_and_without_any_data_it_is_not(tmp_path: Path) -> None:
    with serving(tmp_path, champion=cached("4")) as empty:
        empty.answers.look()
        refusal = refused(empty, 503, method="GET", url="/readyz")
        assert (refusal["type"], "no city has data" in refusal["message"]) == ("Unavailable", True)
        empty.lake.frames["lahore"] = history()
        empty.lake.number += 1
        empty.poll()
        ready = empty.client.get("/readyz")
        assert (ready.status_code, ready.json()["served_by"]) == (200, "world_model")
    with serving(tmp_path, frame=history()) as modelless:
        modelless.poll()
        assert modelless.client.get("/readyz").json() == {
            "status": "ready",
            "served_by": "baseline",
            "model_version": None,
        }
        refusal = refused(modelless, 404, method="GET", url="/api/model/card")
        assert refusal["message"].startswith("there is no model card")
        modelless.lake.number = -1  # the lake goes away; what is in memory still answers
        modelless.poll()
        assert modelless.client.get("/readyz").status_code == 200


def test_a_service_is_not_ready_before_the_registry_had_its_time(world: World, monkeypatch) -> None:
    world.answers.look()
    monkeypatch.setattr(type(world.holder), "settled", False)
    refusal = refused(world, 503, method="GET", url="/readyz")
    assert "registry" in refusal["message"]


def test_the_openapi_document_is_valid_and_names_exactly_the_routes_that_exist(tmp_path: Path) -> None:
    document = openapi_document()
    validate(document)
    app = create_app(Api(load_settings(home=tmp_path)))
    routes = {(route.path, method) for route in app.routes for method in route.methods - {"HEAD"}}
    routes = {(path, method) for path, method in routes if not path.startswith("/static/")}
    described = {(path, method.upper()) for path, entry in document["paths"].items() for method in entry}
    of_the_server = {("/livez", "GET"), ("/metrics", "GET")}
    assert described == routes | of_the_server


def test_the_examples_of_the_openapi_document_run(world: World) -> None:
    for path in ("/api/simulate", "/api/latent", "/api/optimize"):
        content = openapi_document()["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            response = world.client.post(path, json={**example["value"], "city": "lahore"})
            assert response.status_code == 200, response.text


def test_the_dashboard_is_served_and_loads_nothing_from_elsewhere(world: World) -> None:
    page = world.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for path in ("/static/app.js", "/static/chart.js", "/static/style.css"):
        assert path in page.text or path == "/static/chart.js"
        assert world.client.get(path).status_code == 200
    assert "https://" not in page.text
    assert world.client.get("/static/../service.py").status_code == 404
