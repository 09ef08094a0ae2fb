"""What is asked of a Prefect server, and what its answers are made of."""

from __future__ import annotations

import json

import pytest
import responses

from serving.envelope import AlreadyRunning, Unavailable
from serving.retrain import Retrainer
from tests.serving_fakes import NOW
from urbanwm.lease import night_lease
from urbanwm.settings import load_settings

API = "http://prefect:4200/api"


@pytest.fixture
def retrainer(tmp_path) -> Retrainer:
    return Retrainer(load_settings(home=tmp_path, prefect_api_url=f"{API}/"), clock=lambda: NOW)


def server(*counts: int) -> None:
    """Let the server have the deployment, and so many runs under way and overdue."""
    responses.get(f"{API}/deployments/name/nightly/nightly", json={"id": "d1"})
    for count in counts:
        responses.post(f"{API}/flow_runs/count", json=count)


@responses.activate
def test_a_run_is_made_where_none_is_in_the_way(retrainer: Retrainer) -> None:
    server(0, 0)
    responses.post(f"{API}/deployments/d1/create_flow_run", json={"id": "r1"})
    job = retrainer.start()
    assert (job.job_id, job.engine, job.status) == ("r1", "prefect", "scheduled")
    running, overdue = (json.loads(call.request.body) for call in responses.calls[1:3])
    assert running["deployments"] == overdue["deployments"] == {"id": {"any_": ["d1"]}}
    assert "RUNNING" in running["flow_runs"]["state"]["type"]["any_"]
    assert overdue["flow_runs"]["expected_start_time"] == {"before_": NOW.isoformat()}


@pytest.mark.parametrize(("counts", "words"), [((1,), "under way"), ((0, 2), "has not begun")])
@responses.activate
def test_a_run_in_the_way_is_said_and_none_is_made(
    retrainer: Retrainer, counts: tuple[int, ...], words: str
) -> None:
    server(*counts)
    with pytest.raises(AlreadyRunning, match=words):
        retrainer.start()


@responses.activate
def test_a_server_without_the_deployment_is_not_able(retrainer: Retrainer) -> None:
    responses.get(f"{API}/deployments/name/nightly/nightly", status=404)
    with pytest.raises(Unavailable, match="no nightly deployment"):
        retrainer.start()


@responses.activate
def test_a_server_in_trouble_is_not_able(retrainer: Retrainer) -> None:
    responses.get(f"{API}/deployments/name/nightly/nightly", status=500)
    with pytest.raises(Unavailable, match="HTTPError"):
        retrainer.start()


def test_a_night_at_work_on_this_home_is_said_and_no_other_is_started(tmp_path) -> None:
    settings = load_settings(home=tmp_path)
    with night_lease(settings, NOW), pytest.raises(AlreadyRunning, match="at work: process"):
        Retrainer(settings, clock=lambda: NOW).start()
