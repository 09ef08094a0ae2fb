"""The Prefect shells on a real (temporary) server: retries, reports, failures, overlap."""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

from tests.recorded_cities import HOURS, NAMES, NOW, assert_same_lakes, write_cities
from urbanwm.errors import BadInput, DataUnavailable, SourceError, UpstreamUnavailable
from urbanwm.ingest import Gathered, IngestReport
from urbanwm.monitoring import MonitorReport
from urbanwm.pipeline import CityIngest, PromotionOutcome, TrainOutcome, run_ingest
from urbanwm.pipeline.decision import NightDecision
from urbanwm.pipeline.stored_forecasts import StoredForecasts
from urbanwm.pipeline.training_night import NightTraining
from urbanwm.settings import load_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("prefect"),
    # Prefect, its server and SQLAlchemy warn about each other's versions; none of it is ours to change.
    pytest.mark.filterwarnings("ignore"),
]

REPOSITORY = Path(__file__).resolve().parents[2]
AS_OF = "2026-04-20T09:30:00+00:00"
TRAINED = TrainOutcome("r1", "3", "urban", 10, 7, {"test/pm25/mae": 4.0}, ["demo"], {})
PROMOTED = PromotionOutcome("3", "3", promoted=True, reasons=["better than the baseline"])


def double(number):
    if number < 0:
        raise DataUnavailable(f"{number} is negative")
    return 2 * number


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """Start one Prefect server for this module; the environment is put back afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("flows")
        patch.setenv("URBANWM_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
        patch.setenv("PREFECT_HOME", str(home / "prefect"))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "true")
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=300):
            yield


@pytest.fixture
def pipeline(harness, monkeypatch):
    """Replace the pipeline below the tasks; return what they were asked, and what they will answer."""
    from flows import ingest, promote
    from urbanwm.pipeline import night

    made = SimpleNamespace(
        asked=[], ingests=[CityIngest("demo", inserted=5, version=8)], trained=TRAINED, promoted=PROMOTED
    )

    def gather_city(city, settings, clock):
        made.asked.append(("ingest", city.name, clock()))
        outcome = made.ingests.pop(0) if len(made.ingests) > 1 else made.ingests[0]
        report = IngestReport(city.name, clock(), version=outcome.version or 8, inserted=outcome.inserted)
        for text in outcome.errors:
            error = SourceError(text.partition(": ")[2])
            error.retryable = outcome.retryable
            report.failed("waqi", "pm25", error)
        return Gathered(city, report)

    def run_promote(settings, version):
        made.asked.append(("promote", version))
        return made.promoted

    def decide_night(settings, data, moment, *, spread, promote, say):
        made.asked.append(("train", data))
        if isinstance(made.trained, Exception):
            raise made.trained
        say("training")
        made.spread = spread("double", double, [1, -1, 3])
        training = NightTraining([made.trained], made.trained)
        return NightDecision(training, promote(made.trained.version), "n1")

    monkeypatch.setattr(ingest, "gather_city", gather_city)
    monkeypatch.setattr(ingest, "merge_cities", lambda found, *rest: [one.report for one in found])
    monkeypatch.setattr(promote, "run_promote", run_promote)
    for name, stand_in in {
        "decide_night": decide_night,
        "read_night": lambda names, *rest, **named: list(names),
        "data_checks": lambda *rest, **named: [],
        "run_monitor": lambda *rest, **named: MonitorReport(NOW, ["demo"]),
        "store_forecasts": lambda *rest: StoredForecasts(),
        "maintain_lake": lambda *rest: None,
        "write_night_report": lambda settings, *rest: settings.home / "report.html",
    }.items():
        monkeypatch.setattr(night, name, stand_in)
    monkeypatch.setattr(
        ingest, "gather_city_task", ingest.gather_city_task.with_options(retry_delay_seconds=0)
    )
    return made


def test_a_night_runs_its_steps_and_leaves_a_report(pipeline):
    from prefect.artifacts import Artifact

    from flows.nightly import nightly

    report = nightly(["demo"], AS_OF)
    assert report.status == "done"
    moment = datetime.fromisoformat(AS_OF).astimezone(UTC)
    assert pipeline.asked == [("ingest", "demo", moment), ("train", ["demo"]), ("promote", "3")]
    text = Artifact.get("night-report").data
    assert "better than the baseline" in text
    assert json.loads(Artifact.get("scores").data)[0] == {"score": "test/pm25/mae", "value": 4.0}
    assert json.loads(Artifact.get("leaderboard").data)[0]["version"] == "3"
    assert "promoted" in Artifact.get("gate-decision").data
    assert json.loads(Artifact.get("data").data)[0]["new"] == 5
    assert Artifact.get("night-progress").data == 100.0
    assert "report.html" in Artifact.get("written-report").data


@pytest.mark.parametrize("workers", [1, 2])
def test_a_piece_that_fails_takes_no_other_with_it(pipeline, monkeypatch, workers):
    from flows.nightly import nightly

    monkeypatch.setenv("URBANWM_NIGHT_WORKERS", str(workers))
    assert nightly(["demo"], AS_OF).status == "done"
    assert (pipeline.spread[0], pipeline.spread[2]) == (2, 6)
    assert isinstance(pipeline.spread[1], DataUnavailable)


def there_at_last(path):
    """Stand for a store that is away at first: each try is noted, the second finds it."""
    with path.open("a") as tries:
        tries.write("tried\n")
    if path.read_text() == "tried\n":
        raise UpstreamUnavailable("away for a minute")
    return "there"


def test_a_step_is_one_task_and_tries_only_the_pieces_again_that_can_succeed(harness, monkeypatch, tmp_path):
    from prefect import flow, get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.context import FlowRunContext

    from flows import spread as module

    monkeypatch.setattr(module, "step", module.step.with_options(retry_delay_seconds=0))
    settings = load_settings(night_workers=2)

    @flow
    def night():
        with module.flow_spread(settings, None) as spread:
            found = spread("ask", there_at_last, [tmp_path / "first", tmp_path / "second"])
            return found, spread("double", double, [-1]), FlowRunContext.get().flow_run.id

    found, (refused,), run = night()
    assert found == ["there", "there"]
    assert isinstance(refused, DataUnavailable)
    assert (tmp_path / "first").read_text() == "tried\n" * 2
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
    assert {item.name: item.run_count for item in runs} == {"ask": 2, "double": 1}


def test_only_what_can_succeed_later_is_tried_again(pipeline):
    from flows.nightly import nightly

    passing = CityIngest("demo", errors=["waqi for pm25: maintenance"], retryable=True)
    lasting = replace(passing, errors=["waqi for pm25: the key is refused"], retryable=False)
    pipeline.ingests = [passing, passing, CityIngest("demo", inserted=5)]
    assert nightly(["demo"], AS_OF).ingest[0].inserted == 5
    assert [kind for kind, *_ in pipeline.asked].count("ingest") == 3
    pipeline.asked.clear()
    pipeline.ingests = [lasting]
    assert nightly(["demo"], AS_OF).ingest[0].errors == lasting.errors
    assert [kind for kind, *_ in pipeline.asked].count("ingest") == 1


def test_a_source_that_stays_down_does_not_stop_the_night(pipeline):
    from flows.nightly import nightly

    pipeline.ingests = [CityIngest("demo", inserted=2, errors=["waqi for pm25: maintenance"], retryable=True)]
    report = nightly(["demo"], AS_OF)
    assert (report.status, report.ingest[0].inserted) == ("done", 2)
    assert [kind for kind, *_ in pipeline.asked] == ["ingest"] * 3 + ["train", "promote"]


def test_a_failed_night_is_a_failed_run_with_its_exit_code_and_report(pipeline, capsys):
    from flows.nightly import main, nightly

    pipeline.trained = DataUnavailable("no city has enough data")
    state = nightly(["demo"], AS_OF, return_state=True)
    assert state.is_failed()
    assert "no city has enough data" in state.message
    assert main(["--city", "demo", "--as-of", AS_OF, "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "failed"


def test_bad_input_is_one_readable_line_and_exit_code_2(pipeline, capsys):
    from flows.nightly import main

    assert main(["--city", "atlantis", "--json"]) == 2
    printed = capsys.readouterr()
    assert "unknown city 'atlantis'" in printed.err
    assert json.loads(printed.out)["error"]["type"] == "UnknownCity"
    assert main(["--city", "demo", "--as-of", "yesterday"]) == 2
    assert "as_of is not a time" in capsys.readouterr().err


def test_a_night_that_finds_another_at_work_leaves_cleanly(pipeline):
    from flows.nightly import nightly

    settings = load_settings()
    with FileLock(settings.locks_dir / "nightly.lock"):
        assert nightly(["demo"], AS_OF).status == "busy"
    assert pipeline.asked == []


def test_night_and_monitoring_run_in_the_citys_time_zone_and_never_twice_at_once(harness):
    from flows.deployments import MONITOR_CRON, NIGHTLY_CRON, deployments

    served = deployments(load_settings())
    assert [item.full_name for item in served] == ["nightly/nightly", "monitor/monitor"]
    for deployment, cron in zip(served, (NIGHTLY_CRON, MONITOR_CRON), strict=True):
        (schedule,) = deployment.schedules
        assert (schedule.schedule.cron, schedule.schedule.timezone) == (cron, "Europe/Berlin")
        assert deployment.concurrency_limit == 1
        assert deployment.concurrency_options.collision_strategy.value == "CANCEL_NEW"


def test_cities_gathered_on_two_dask_workers_give_the_same_lake(harness, monkeypatch, tmp_path):
    pytest.importorskip("prefect_dask")
    from flows.ingest import ingest

    there = tmp_path / "there"
    values = {"HOME": there, "CITIES": write_cities(tmp_path / "cities"), "WORKERS": 2, "TASK_RUNNER": "dask"}
    here = load_settings(home=tmp_path / "here", cities_dir=values["CITIES"])
    expected = run_ingest(NAMES, here, lambda: NOW)
    for name, value in values.items():
        monkeypatch.setenv(f"URBANWM_{name}", str(value))
    assert ingest(NAMES, NOW.isoformat()) == expected
    assert [outcome.inserted for outcome in expected] == [HOURS, HOURS, HOURS, 0]
    assert_same_lakes(here, load_settings())


def test_a_task_runner_that_is_not_installed_is_named(monkeypatch):
    from flows.ingest import task_runner

    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with pytest.raises(BadInput, match=r"urbanwm\[dask\]"):
        task_runner(load_settings(task_runner="dask"))


@pytest.mark.parametrize(
    ("scheduler", "told"), [(None, True), ("tcp://127.0.0.1:9", True), ("tcp://far:9", False)]
)
def test_workers_on_this_machine_are_told_where_a_temporary_server_is(harness, scheduler, told):
    from prefect import flow
    from prefect.context import FlowRunContext
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.ingest import started_runner

    @flow
    def probe():
        with started_runner(load_settings(task_runner="dask", dask_scheduler=scheduler)):
            return PREFECT_API_URL.value(), str(FlowRunContext.get().client.api_url)

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        found, its = probe()
    assert found == (its if told else None)


def faults_of_a_large_array(_):
    """Return the page faults of making one, when others like it were made and freed before."""
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_pieces_on_a_dask_cluster_fail_alone_and_keep_the_memory_that_they_free(harness, monkeypatch):
    pytest.importorskip("prefect_dask")
    from prefect import flow

    from flows.ingest import started_runner
    from flows.spread import flow_spread
    from urbanwm.memory import keep_freed_memory

    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # where the workers find the functions of this module
    settings = load_settings(task_runner="dask", workers=1)

    @flow
    def night():
        with started_runner(settings) as runner, flow_spread(settings, runner) as spread:
            return spread("double", double, [1, -1, 3]), spread("faults", faults_of_a_large_array, [None])

    (first, failed, last), (faults,) = night()
    assert (first, last) == (2, 6)
    assert isinstance(failed, DataUnavailable)
    if keep_freed_memory():  # left to its nanny, a worker has one for each of the 2,048 pages
        assert faults < 100
