"""What can fail during a night: sources, training, disk, tracker, database; one champion stays loadable."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from tests.night_support import small_night
from urbanwm.errors import SourceError, TrainingDiverged, UpstreamUnavailable
from urbanwm.last_night import read_last_night
from urbanwm.model.bundle import Bundle
from urbanwm.pipeline import (
    behaviour_jobs,
    decision,
    evaluation,
    fit,
    night,
    run_nightly,
    run_promote,
    training_night,
)
from urbanwm.registry import ChampionCache, Registry, RunLog
from urbanwm.registry import store as registry_store
from urbanwm.sources import synthetic
from urbanwm.training import run as training_run

pytestmark = pytest.mark.slow


ASKED_FOR = pytest.mark.usefixtures("asked_for")
FIRST = datetime(2026, 4, 20, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Leave out what takes most of a small night's time and has no part in what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "log_figure", lambda *arguments: None)
        patch.setattr(evaluation, "_log_card", lambda *arguments: None)
        patch.setattr(behaviour_jobs, "behaviour_failures", lambda *arguments: [])
        patch.setattr(night, "write_night_report", lambda settings, *rest: settings.home / "report.html")
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Return a home with one good night and a champion; each test goes on one day later."""
    folder = tmp_path_factory.mktemp("outages")
    made = small_night(
        folder,
        {"alder": 3, "birch": 4},
        history_days=45,
        training_steps=2,
        candidates=["urban"],
        nightly_cities=["alder"],
    )
    assert run_nightly(made, as_of=FIRST).status == "done"
    run_promote(made, version="1", override_by="Ada", reason="drill")
    return made


@pytest.fixture
def day(request):
    """Return a day of its own for each test, later than those before it."""
    place = request.session.items.index(request.node)
    return FIRST + timedelta(days=1 + place % 40)


def assert_one_loadable_champion(settings):
    registry = Registry(settings)
    holders = [item for item in registry.list_versions() if "champion" in item.aliases]
    assert [item.version for item in holders] == [registry.champion().version]
    Bundle.load(ChampionCache(settings.cache_dir, registry).sync().path).smoke_test()


def assert_the_next_night_heals(settings, day):
    report = run_nightly(settings, as_of=day)
    assert report.status in ("done", "nothing new"), report.errors
    assert read_last_night(settings).status == report.status
    statuses = {run.info.status for run in Registry(settings).client.search_runs(["1"])}
    assert "RUNNING" not in statuses


def failing(error):
    def fail(*arguments, **named):
        raise error

    return fail


@ASKED_FOR
def test_sources_that_are_down_all_night_leave_a_report_and_the_champion(settings, day, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "fetch", failing(UpstreamUnavailable("maintenance", source="synthetic")))
        report = run_nightly(settings, as_of=day)
    assert report.exit_code in (0, 3)
    assert all("maintenance" in " ".join(city.errors) for city in report.ingest)
    assert all(city.retryable for city in report.ingest)
    assert_one_loadable_champion(settings)
    assert_the_next_night_heals(settings, day)


@ASKED_FOR
def test_half_the_cities_missing_does_not_stop_the_others(settings, day, monkeypatch):
    original = synthetic.fetch

    def fetch(ctx):
        if ctx.city.name == "birch":
            raise SourceError("the zone is unknown", source="synthetic")
        return original(ctx)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "fetch", fetch)
        report = run_nightly(settings, ["alder", "birch"], as_of=day)
    brought = {city.city: city for city in report.ingest}
    assert brought["alder"].inserted > 0
    assert brought["birch"].errors
    assert report.status in ("done", "held")
    assert_one_loadable_champion(settings)
    assert_the_next_night_heals(settings, day)


def test_a_loss_that_is_not_finite_keeps_the_champion_and_says_so(settings, day, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            training_run.Run, "advance", failing(TrainingDiverged("the loss is not finite", field="loss"))
        )
        report = run_nightly(settings, as_of=day)
    assert (report.status, report.exit_code) == ("failed", 3)
    assert "TrainingDiverged: the loss is not finite" in report.errors[0]
    assert report.promotion is None
    assert_one_loadable_champion(settings)
    assert_the_next_night_heals(settings, day)


@ASKED_FOR
def test_one_candidate_that_diverges_leaves_the_other(settings, day, monkeypatch):
    original = fit.training_spec
    two = settings.model_copy(update={"candidates": ["urban", "urban@7"]})

    def spec(plan):
        if plan.candidate.label == "urban@7":
            raise TrainingDiverged("a gradient is not finite", field="gradient")
        return original(plan)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "training_spec", spec)
        report = run_nightly(two, as_of=day)
    assert report.status == "done"
    assert [item.label for item in report.candidates] == ["urban"]
    assert list(report.lost) == ["urban@7"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        pytest.param(decision, "open_night", id="at the start"),
        pytest.param(training_night, "finish_candidate", id="in the middle"),
        pytest.param(decision, "finish_night", id="after the promotion"),
    ],
)
def test_a_tracker_that_is_lost_is_named_and_the_next_night_goes_on(
    settings, day, monkeypatch, module, name, request
):
    if name != "finish_candidate":
        request.getfixturevalue("asked_for")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing(UpstreamUnavailable("connection refused", source="mlflow")))
        report = run_nightly(settings, as_of=day)
    assert (report.status, report.exit_code) == ("failed", 3)
    assert "connection refused" in report.errors[0]
    versions = len(Registry(settings).list_versions())
    assert_one_loadable_champion(settings)
    assert_the_next_night_heals(settings, day)
    trained_already = 0 if name == "finish_night" else 1
    assert len(Registry(settings).list_versions()) == versions + trained_already


@ASKED_FOR
def test_a_tracker_that_is_lost_at_the_promotion_promotes_nothing(settings, day, monkeypatch):
    before = Registry(settings).champion().version
    with monkeypatch.context() as patch:
        patch.setattr(
            night, "run_promote", failing(UpstreamUnavailable("connection refused", source="mlflow"))
        )
        report = run_nightly(settings, as_of=day)
    assert (report.status, report.promotion) == ("failed", None)
    assert Registry(settings).champion().version == before
    assert_the_next_night_heals(settings, day)


@ASKED_FOR
@pytest.mark.parametrize("step", ["fit", "held_out_tables"])
def test_a_full_disk_is_a_named_failure_and_the_next_night_goes_on(settings, day, monkeypatch, step):
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        if step == "fit":
            patch.setattr(training_run.Run, "save_if_due", failing(full))
        else:
            patch.setattr(training_night, "held_out_tables", failing(full))
        report = run_nightly(settings, as_of=day)
    assert (report.status, report.exit_code) == ("failed", 3)
    assert "No space left on device" in report.errors[0]
    assert_one_loadable_champion(settings)
    assert_the_next_night_heals(settings, day)


@ASKED_FOR
@pytest.mark.timeout(300)
def test_a_database_that_another_process_has_locked_is_waited_for_or_named(settings, day):
    database = settings.home / "mlflow" / "mlflow.db"
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        report = run_nightly(settings, as_of=day)
        other.rollback()
    assert (report.status, report.exit_code) == ("failed", 3)
    assert "locked" in report.errors[0]
    assert_one_loadable_champion(settings)
    assert_the_next_night_heals(settings, day)


@ASKED_FOR
def test_a_clock_that_jumps_back_changes_nothing(settings, day):
    run_nightly(settings, as_of=day)
    versions = len(Registry(settings).list_versions())
    earlier = run_nightly(settings, as_of=day - timedelta(minutes=50))
    assert earlier.status == "nothing new"
    assert len(Registry(settings).list_versions()) == versions
    assert_one_loadable_champion(settings)


def test_the_registry_waits_for_its_lock_and_names_a_holder_that_never_lets_go(settings, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(registry_store, "LOCK_TIMEOUT_S", 0.1)
    with (
        FileLock(settings.locks_dir / "promotion.lock"),
        pytest.raises(UpstreamUnavailable, match="promotion"),
        Registry(settings).locked(),
    ):
        pytest.fail("two promotions at once")
