"""Alerts: every kind has its runbook entry, each is told once, and no webhook can break a night."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from urbanwm.errors import InternalContractBroken
from urbanwm.monitoring import KINDS, make_alert
from urbanwm.monitoring.alerts import blocking_reasons, by_severity
from urbanwm.monitoring.notify import STATE_FILE, Notifier, Told

RUNBOOK = Path(__file__).resolve().parents[2] / "docs" / "runbook.md"
NIGHT = datetime(2026, 4, 20, 4, 30, tzinfo=UTC)
UNIT = make_alert("unit_change", "jumped by 10", city="demo", signal="pm25")
DRIFT = make_alert("drift", "+30%", city="demo", signal="energy_mwh")


class Webhook:
    """Takes documents, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.documents: list[dict] = []

    def __call__(self, url, document) -> None:
        if self.failure is not None:
            raise self.failure
        self.documents.append(dict(document))


def notifier(folder, webhook=None, **changes):
    return Notifier(folder, "https://hooks.invalid/secret-path", post=webhook or Webhook(), **changes)


class TestKinds:
    @pytest.mark.parametrize("key", KINDS)
    def test_every_kind_has_an_entry_in_the_runbook(self, key):
        assert re.search(rf"^## {key}$", RUNBOOK.read_text("utf-8"), re.MULTILINE)

    def test_an_alert_leads_to_its_own_entry(self):
        assert UNIT.runbook == "docs/runbook.md#unit_change"

    def test_an_unknown_kind_is_our_own_defect(self):
        with pytest.raises(InternalContractBroken, match="no alert kind"):
            make_alert("something", "is odd")

    def test_what_would_be_learnt_wrongly_blocks_promotion_and_the_rest_does_not(self):
        assert {kind.key for kind in KINDS.values() if kind.blocks} == {"unit_change", "feed_frozen"}

    def test_the_gravest_comes_first_and_the_same_alert_only_once(self):
        again = make_alert("drift", "still +31%", city="demo", signal="energy_mwh")
        ordered = by_severity([DRIFT, UNIT, again])
        assert [alert.key for alert in ordered] == ["unit_change", "drift"]
        assert ordered[1].message == "+30%; still +31%"

    def test_a_reason_names_city_and_signal(self):
        assert blocking_reasons([UNIT, DRIFT]) == ["demo pm25: jumped by 10"]


class TestNotifier:
    def test_an_alert_is_told_once_while_it_lasts(self, tmp_path, caplog):
        webhook = Webhook()
        with caplog.at_level(logging.INFO, "urbanwm"):
            first = notifier(tmp_path, webhook).tell([UNIT, DRIFT], NIGHT, ["demo"])
            second = notifier(tmp_path, webhook).tell([UNIT, DRIFT], NIGHT + timedelta(days=1), ["demo"])
        assert (first, second) == (Told(new=2), Told(known=2))
        assert len(webhook.documents) == 1
        assert [record.levelname for record in caplog.records] == ["CRITICAL", "WARNING"]
        assert "docs/runbook.md#unit_change" in caplog.text

    def test_it_is_told_again_after_the_stated_days(self, tmp_path):
        told = notifier(tmp_path, repeat_days=7)
        told.tell([UNIT], NIGHT, ["demo"])
        assert told.tell([UNIT], NIGHT + timedelta(days=6), ["demo"]).new == 0
        assert told.tell([UNIT], NIGHT + timedelta(days=7), ["demo"]).new == 1

    def test_its_end_is_told_and_its_return_is_new(self, tmp_path):
        webhook = Webhook()
        told = notifier(tmp_path, webhook)
        told.tell([UNIT], NIGHT, ["demo"])
        assert told.tell([], NIGHT + timedelta(days=1), ["demo"]) == Told(cleared=1)
        assert webhook.documents[-1]["cleared"][0]["identity"] == "unit_change/demo/pm25"
        assert told.tell([UNIT], NIGHT + timedelta(days=2), ["demo"]).new == 1

    def test_a_night_of_other_cities_ends_nothing(self, tmp_path):
        told = notifier(tmp_path)
        told.tell([UNIT], NIGHT, ["demo"])
        assert told.tell([], NIGHT + timedelta(days=1), ["madrid"]).cleared == 0

    def test_between_two_nights_what_only_a_night_can_see_is_not_over(self, tmp_path):
        told = notifier(tmp_path)
        failed, silent = make_alert("night_failed", "disk full"), make_alert("feed_silent", "x", city="demo")
        told.tell([UNIT, failed, silent], NIGHT, ["demo"])
        noon = NIGHT + timedelta(hours=8)
        assert told.tell([], noon, ["demo"], between_nights=True) == Told(cleared=1)
        assert told.tell([UNIT, failed], NIGHT + timedelta(days=1), ["demo"]) == Told(known=2)

    @pytest.mark.parametrize("failure", [requests.ConnectionError("down"), requests.HTTPError("500")])
    def test_a_webhook_that_fails_is_counted_logged_and_tried_again(self, tmp_path, caplog, failure):
        first = notifier(tmp_path, Webhook(failure)).tell([UNIT], NIGHT, ["demo"])
        assert first == Told(new=1, failed=1)
        assert "webhook did not take" in caplog.text
        assert "secret-path" not in caplog.text
        webhook = Webhook()
        assert notifier(tmp_path, webhook).tell([UNIT], NIGHT + timedelta(days=1), ["demo"]).new == 1
        assert webhook.documents[0]["alerts"][0]["message"] == "jumped by 10"

    def test_an_end_that_could_not_be_posted_is_told_the_next_night(self, tmp_path):
        notifier(tmp_path).tell([UNIT], NIGHT, ["demo"])
        down = notifier(tmp_path, Webhook(requests.ConnectionError("down")))
        assert down.tell([], NIGHT + timedelta(days=1), ["demo"]) == Told(cleared=1, failed=1)
        assert notifier(tmp_path).tell([], NIGHT + timedelta(days=2), ["demo"]) == Told(cleared=1)

    def test_without_a_webhook_the_log_is_told_once(self, tmp_path, caplog):
        told = Notifier(tmp_path)
        told.tell([UNIT], NIGHT, ["demo"])
        told.tell([UNIT], NIGHT, ["demo"])
        assert len([record for record in caplog.records if "unit_change" in record.message]) == 1

    @pytest.mark.parametrize("damage", ["", "[1]", '{"unit_change/demo/pm25": {"told_at": "soon"}}'])
    def test_a_damaged_memory_tells_again_instead_of_failing(self, tmp_path, damage):
        (tmp_path / STATE_FILE).write_text(damage)
        assert notifier(tmp_path).tell([UNIT], NIGHT, ["demo"]).new == 1
        assert json.loads((tmp_path / STATE_FILE).read_text())["unit_change/demo/pm25"]

    def test_what_chat_systems_show_is_one_text(self, tmp_path):
        webhook = Webhook()
        notifier(tmp_path, webhook).tell([UNIT], NIGHT, ["demo"])
        assert "critical: unit_change demo pm25: jumped by 10" in webhook.documents[0]["text"]
