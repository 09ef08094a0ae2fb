"""The night with its parts replaced: order, failures, holds, rollback, lease, and what is remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pytest

from urbanwm.errors import BadInput, DataUnavailable, LakeConflict, UpstreamUnavailable
from urbanwm.last_night import LastNight, read_last_night, write_last_night
from urbanwm.lease import LeaseTaken, night_at_work, night_lease
from urbanwm.monitoring import MonitorReport, make_alert
from urbanwm.pipeline import CityIngest, NightReport, PromotionOutcome, Steps, TrainOutcome, run_nightly
from urbanwm.pipeline import night as night_module
from urbanwm.pipeline.decision import NightDecision
from urbanwm.pipeline.live_rollback import LiveRollback
from urbanwm.pipeline.training_night import NightTraining
from urbanwm.settings import load_settings
from urbanwm.spread import serial

NOW = datetime(2026, 4, 20, 9, 30, tzinfo=UTC)
TRAINED = TrainOutcome(
    run_id="r1",
    version="3",
    experiment="urban",
    parameters=10,
    dataset_version=7,
    metrics={"test/pm25/mae": 4.0, "test/pm25/mae_h6": 3.0},
    cities=["demo"],
    left_out={},
    label="urban",
    validation=0.25,
)
PROMOTED = PromotionOutcome("3", "3", promoted=True, reasons=["better than the baseline"])
DECIDED = NightDecision(NightTraining([TRAINED], TRAINED), PROMOTED, "n1")


@pytest.fixture
def settings(tmp_path):
    return load_settings(home=tmp_path / "home")


@pytest.fixture
def parts(monkeypatch):
    """Replace what a night calls; `seen` lists the calls in order, `answers` what they return or raise."""
    made = SimpleNamespace(seen=[], answers={}, ingested=[])
    made.answers = {
        "check": [],
        "monitor": MonitorReport(NOW, ["demo"], champion="3"),
        "rollback": None,
        "decide": DECIDED,
        "store": SimpleNamespace(alerts=[]),
    }

    def stand_in(name):
        def call(*arguments, **named):
            made.seen.append(name)
            answer = made.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments, **named) if callable(answer) else answer

        return call

    for name, function in (
        ("check", "data_checks"),
        ("monitor", "run_monitor"),
        ("rollback", "rollback_if_worse"),
        ("decide", "decide_night"),
        ("store", "store_forecasts"),
    ):
        monkeypatch.setattr(night_module, function, stand_in(name))
    monkeypatch.setattr(night_module, "read_night", lambda *arguments, **named: "data")
    monkeypatch.setattr(night_module, "live_days", lambda *arguments: [])
    monkeypatch.setattr(night_module, "maintain_lake", lambda *arguments: None)
    monkeypatch.setattr(night_module, "write_night_report", lambda settings, *rest: settings.home)
    return made


def night(settings, parts, **changes):
    def ingest(names, moment):
        parts.seen.append(("ingest", tuple(names), moment))
        if isinstance(parts.ingested, Exception):
            raise parts.ingested
        return parts.ingested

    steps = Steps(ingest, serial, lambda version: PROMOTED)
    return run_nightly(settings, ["demo"], clock=lambda: NOW, steps=steps, **changes)


class TestOrder:
    def test_the_data_are_checked_before_anything_learns_and_forecasts_are_stored_after_the_gate(
        self, settings, parts
    ):
        report = night(settings, parts)
        assert parts.seen == [
            ("ingest", ("demo",), NOW),
            "check",
            "rollback",
            "decide",
            "store",
            "monitor",
        ]
        assert (report.status, report.exit_code) == ("done", 0)

    def test_as_of_takes_the_place_of_now(self, settings, parts):
        past = NOW - timedelta(days=30)
        assert night(settings, parts, as_of=past).as_of == past
        assert parts.seen[0] == ("ingest", ("demo",), past)

    def test_an_as_of_without_a_zone_is_refused(self, settings, parts):
        with pytest.raises(BadInput, match="time zone"):
            night(settings, parts, as_of=datetime(2026, 1, 1))  # noqa: DTZ001

    def test_a_repeated_night_says_that_there_was_nothing_new(self, settings, parts):
        again = NightTraining([replace(TRAINED, reused=True)], replace(TRAINED, reused=True))
        parts.answers["decide"] = NightDecision(again, replace(PROMOTED, reused=True), "n1", reused=True)
        report = night(settings, parts)
        assert report.status == "nothing new"
        assert "already trained" in report.text()

    def test_new_rows_alone_make_it_a_night_that_did_something(self, settings, parts):
        parts.answers["decide"] = replace(DECIDED, reused=True)
        parts.ingested = [CityIngest("demo", inserted=5, version=8)]
        assert night(settings, parts).status == "done"

    def test_a_night_on_which_no_training_is_due_says_why(self, settings, parts):
        parts.answers["decide"] = NightDecision(note="the last training is 1 of 7 days old")
        report = night(settings, parts)
        assert (report.status, report.training, report.exit_code) == ("nothing new", None, 0)
        assert "1 of 7 days old" in report.text()


class TestFailures:
    def test_a_failed_training_is_reported_and_watched_all_the_same(self, settings, parts):
        parts.answers["decide"] = DataUnavailable("no city has enough data")
        report = night(settings, parts)
        assert (report.status, report.exit_code, report.promotion) == ("failed", 3, None)
        assert "DataUnavailable: no city has enough data" in report.text()
        assert parts.seen[-2:] == ["store", "monitor"]

    def test_a_failed_ingest_trains_nothing(self, settings, parts):
        parts.ingested = LakeConflict("another writer kept winning")
        report = night(settings, parts)
        assert report.status == "failed"
        assert "decide" not in parts.seen

    def test_a_lost_registry_is_reported(self, settings, parts):
        parts.answers["decide"] = UpstreamUnavailable("connection refused", source="mlflow")
        report = night(settings, parts)
        assert (report.status, report.exit_code) == ("failed", 3)

    @pytest.mark.parametrize("step", ["ingest", "check", "decide", "store"])
    def test_a_full_disk_is_a_failed_night_and_not_a_traceback(self, settings, parts, step):
        full = OSError(28, "No space left on device")
        if step == "ingest":
            parts.ingested = full
        else:
            parts.answers[step] = full
        report = night(settings, parts)
        assert (report.status, report.exit_code) == ("failed", 3)
        assert "No space left on device" in report.text()

    def test_wrong_settings_are_the_callers_to_see(self, settings, parts):
        parts.answers["decide"] = BadInput("unknown key in the experiment", field="model.kidn")
        with pytest.raises(BadInput, match="unknown key"):
            night(settings, parts)
        assert night_at_work(settings) is None

    def test_a_refused_challenger_is_a_normal_night(self, settings, parts):
        refused = PromotionOutcome("3", "2", promoted=False, reasons=["worse than the champion on pm25"])
        parts.answers["decide"] = replace(DECIDED, promotion=refused)
        report = night(settings, parts)
        assert (report.status, report.exit_code) == ("done", 0)
        assert "refused" in report.text()
        assert "worse than the champion on pm25" in report.markdown()

    def test_the_report_names_a_source_that_failed(self, settings, parts):
        parts.ingested = [CityIngest("demo", errors=["waqi for pm25: maintenance"], retryable=True)]
        report = night(settings, parts)
        assert "failed: waqi for pm25: maintenance" in report.text()
        assert "waqi for pm25: maintenance" in report.markdown()

    def test_a_lost_candidate_is_named_and_the_others_go_on(self, settings, parts):
        lost = NightTraining([TRAINED], TRAINED, {"warm": "TrainingDiverged: the loss is not finite"})
        parts.answers["decide"] = replace(DECIDED, training=lost)
        report = night(settings, parts)
        assert report.status == "done"
        assert "candidate warm was lost: TrainingDiverged" in report.text()


class TestHold:
    def test_data_that_are_wrong_are_not_learnt_from(self, settings, parts):
        parts.answers["check"] = [make_alert("unit_change", "10 times the usual", city="demo", signal="pm25")]
        report = night(settings, parts)
        assert (report.status, report.exit_code) == ("held", 3)
        assert "decide" not in parts.seen
        assert "10 times the usual" in report.text()

    def test_an_alert_that_does_not_block_lets_the_night_go_on(self, settings, parts):
        parts.answers["check"] = [make_alert("drift", "warmer than ever", city="demo", signal="pm25")]
        assert night(settings, parts).status == "done"


class TestRollback:
    def test_a_champion_taken_out_of_service_is_in_the_report_and_among_the_alerts(self, settings, parts):
        gone = LiveRollback("3", "2", 4, done=True, reason="worse than the baseline's 4 days in a row")
        parts.answers["rollback"] = gone
        alerts = []

        def watched(*arguments, checks, **named):
            alerts.extend(alert.key for alert in checks)
            return MonitorReport(NOW, ["demo"], alerts=list(checks))

        parts.answers["monitor"] = watched
        report = night(settings, parts)
        assert report.rollback["serving"] == "2"
        assert "rolled_back" in alerts
        assert "version 2 serves" in report.text()

    def test_a_champion_that_nobody_can_replace_does_not_make_a_repeated_night_new(self, settings, parts):
        parts.answers["decide"] = replace(DECIDED, reused=True)
        parts.answers["rollback"] = LiveRollback(
            "3", "3", 4, done=False, reason="no previous champion, it stays"
        )
        assert night(settings, parts).status == "nothing new"


class TestLease:
    def test_of_two_nights_at_once_the_second_leaves_with_exit_code_0(self, settings, parts):
        with night_lease(settings, NOW):
            report = night(settings, parts)
        assert (report.status, report.exit_code) == ("busy", 0)
        assert parts.seen == []
        assert "since 2026-04-20T09:30:00+00:00" in report.errors[0]

    def test_the_lease_says_who_holds_it_and_is_free_afterwards(self, settings):
        assert night_at_work(settings) is None
        with night_lease(settings, NOW):
            assert "process" in night_at_work(settings)
            with pytest.raises(LeaseTaken), night_lease(settings, NOW):
                pytest.fail("two nights at work")
        assert night_at_work(settings) is None

    def test_a_busy_night_leaves_the_record_of_the_last_one_alone(self, settings, parts):
        night(settings, parts)
        before = read_last_night(settings)
        with night_lease(settings, NOW):
            night(settings, parts)
        assert read_last_night(settings) == before


class TestMemory:
    def test_a_night_that_ended_well_is_remembered_as_a_success(self, settings, parts):
        night(settings, parts)
        last = read_last_night(settings)
        assert (last.status, last.succeeded_at, last.champion) == ("done", NOW, "3")
        assert last.cities == ["demo"]

    @pytest.mark.parametrize("ending", ["failed", "held"])
    def test_a_night_that_did_not_succeed_keeps_the_time_of_the_last_success(self, settings, parts, ending):
        night(settings, parts)
        if ending == "failed":
            parts.answers["decide"] = DataUnavailable("no city has enough data")
        else:
            parts.answers["check"] = [make_alert("feed_frozen", "one value for 30 hours")]
        later = NOW + timedelta(days=1)
        steps = Steps(lambda names, moment: [], serial, lambda version: PROMOTED)
        run_nightly(settings, ["demo"], clock=lambda: later, steps=steps)
        last = read_last_night(settings)
        assert (last.status, last.finished_at, last.succeeded_at) == (ending, later, NOW)
        assert last.champion == "3"

    def test_before_the_first_night_nothing_is_remembered(self, settings):
        assert read_last_night(settings) is None

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"as_of": 3}', '{"status": "done"}'])
    def test_a_damaged_record_counts_as_none_and_the_next_night_heals_it(self, settings, parts, content):
        settings.home.mkdir(parents=True)
        (settings.home / "last_night.json").write_text(content)
        assert read_last_night(settings) is None
        night(settings, parts)
        assert read_last_night(settings).succeeded_at == NOW

    def test_what_is_written_is_what_is_read(self, settings, parts):
        night(settings, parts)
        last = read_last_night(settings)
        write_last_night(settings, last)
        assert read_last_night(settings) == last


class TestReport:
    def test_the_report_is_plain_json(self, settings, parts):
        document = json.loads(json.dumps(night(settings, parts).to_dict()))
        assert document["training"]["version"] == "3"
        assert document["as_of"] == NOW.isoformat()

    def test_the_text_shows_whole_scores_and_leaves_lead_buckets_to_the_run(self):
        text = NightReport(NOW, "done", training=TRAINED).text()
        assert "test/pm25/mae: 4" in text
        assert "mae_h6" not in text

    def test_the_leaderboard_begins_with_the_chosen_one(self):
        other = replace(TRAINED, version="2", label="warm", validation=0.2, start="1")
        rows = NightReport(NOW, "done", candidates=[other, TRAINED], training=TRAINED).leaderboard()
        assert [(row["version"], row["chosen"], row["start"]) for row in rows] == [
            ("3", True, "random"),
            ("2", False, "version 1"),
        ]


def test_a_replayed_night_is_one_row(settings):
    from urbanwm.pipeline.replay import _row

    trained = replace(
        TRAINED,
        metrics={
            "test/pm25/mae": 4.0,
            "test/pm25/crps": 3.0,
            "champion/pm25/crps": 4.0,
            "baseline/pm25/crps": 6.0,
        },
    )
    report = NightReport(NOW, "done", training=trained, promotion=PROMOTED)
    row = _row(date(2026, 4, 20), report, "3", 1.234)
    assert (row.serving_ratio, row.promoted, row.champion) == (0.5, True, "3")
    refused = replace(report, promotion=replace(PROMOTED, promoted=False, champion="2"))
    assert _row(date(2026, 4, 20), refused, "2", 1.0).serving_ratio == pytest.approx(4 / 6)
    assert json.loads(json.dumps(row.to_dict()))["night"] == "2026-04-20"


def test_a_replayed_night_that_is_held_keeps_its_champion(settings, monkeypatch):
    from urbanwm.pipeline import replay

    nights = iter([("done", "3", []), ("held", None, ["drift", "unit_change"])])

    def night(settings, names, *, as_of, clock):
        assert clock() == as_of
        status, promoted, alerts = next(nights)
        if promoted:
            write_last_night(settings, LastNight(as_of, as_of, status, names, champion=promoted))
        return NightReport(as_of, status, alerts=[make_alert(key, "").to_dict() for key in alerts])

    monkeypatch.setattr(replay, "run_nightly", night)
    monkeypatch.setattr(replay, "apply_environment", lambda settings: None)
    told = []
    found = replay.run_replay(settings, ["demo"], date(2026, 3, 28), 2, told=told.append)
    assert told == found.nights
    assert [(row.night.day, row.status, row.champion) for row in told] == [
        (28, "done", "3"),
        (29, "held", "3"),
    ]
    assert found.to_dict()["drift_alarms"] == 1


def test_a_replay_touches_nothing_live_and_alarms_nobody(tmp_path):
    from urbanwm.pipeline.replay import replay_settings

    live = load_settings(
        home=tmp_path / "live",
        lake_uri="s3://bucket/lake",
        tracking_uri="http://mlflow:5000",
        alert_webhook_url="https://hooks.example/secret",
    )
    own = replay_settings(live, ["madrid"], date(2019, 3, 1), None)
    assert own.home == tmp_path / "live" / "replay" / "madrid-2019-03-01"
    assert own.lake_uri.startswith(str(own.home))
    assert own.tracking_uri.startswith(f"sqlite:///{own.home}")
    assert own.alert_webhook_url is None
