"""Traces, masked logs, and the thread that watches the lake."""

from __future__ import annotations

import logging
import threading

import pytest

from serving import tracing
from serving.tracing import NO_TRACES, annotate_span, tracing_options
from serving.watch import Watch
from urbanwm.logs import MASK, MaskSecrets


def masked(text: str, *secrets: str) -> str:
    record = logging.LogRecord("urbanwm", logging.INFO, "", 0, "%s", (text,), None)
    assert MaskSecrets(list(secrets)).filter(record)
    return record.getMessage()


def test_a_secret_is_masked_wherever_it_stands() -> None:
    assert masked("url?token=abcdef123&x=1", "abcdef123") == f"url?token={MASK}&x=1"
    assert masked("xabcdef123y", "abcdef123") == f"x{MASK}y"


def test_a_short_secret_is_masked_only_as_a_word_of_its_own() -> None:
    assert masked("a plan for lahore, key a", "a") == f"{MASK} plan for lahore, key {MASK}"
    assert masked("token=abc; abcd stays", "abc") == f"token={MASK}; abcd stays"


def test_of_two_secrets_that_overlap_the_longer_is_masked_whole() -> None:
    assert masked("abcdefghij", "abcdef", "abcdefghij") == MASK


def test_without_secrets_nothing_is_touched() -> None:
    assert masked("plain", "") == "plain"


def test_nothing_is_traced_while_no_endpoint_is_set() -> None:
    assert tracing_options(None) == tracing_options("") == NO_TRACES


def test_with_an_endpoint_every_request_but_the_probes_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EXPORTER", "json")
    options = tracing_options("http://collector:4318")
    assert (options["exporter_type"], options["sample_rate"]) == ("otlp", 1.0)
    assert "metrics" in options["excluded_urls"]


def test_an_endpoint_without_the_exporter_keeps_the_service_going(monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in ("nothing_of_this_name", "nothing.of.this.name"):
        monkeypatch.setattr(tracing, "EXPORTER", missing)
        assert tracing_options("http://collector:4318") == NO_TRACES


def test_a_request_that_is_not_traced_is_not_annotated() -> None:
    annotate_span({"model_version": "4"})


def test_a_watch_survives_failures_and_stops() -> None:
    looks: list[int] = []
    enough = threading.Event()

    def look() -> None:
        looks.append(1)
        if len(looks) >= 3:
            enough.set()
        raise OSError("the lake is away")

    watch = Watch("test", 0.001, look)
    watch.start()
    assert enough.wait(5)
    watch.stop()
    assert not watch._thread.is_alive()
