"""Traces of a real service, at a collector on this machine."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.tracing import EXPORTER, EXPORTER_PACKAGE
from tests.service_process import prepare_home, running_service

pytestmark = pytest.mark.slow
ARRIVAL_SECONDS = 30.0


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Serve OTLP over HTTP and keep what comes."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", received
        finally:
            listening.shutdown()
            thread.join()


def test_a_request_is_traced_with_who_answered_and_a_probe_is_not(tmp_path: Path) -> None:
    pytest.importorskip(EXPORTER, reason=f"{EXPORTER_PACKAGE} is not installed (extra: otel)")
    prepare_home(tmp_path)
    with (
        collector() as (url, received),
        running_service(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_BSP_SCHEDULE_DELAY="200") as service,
    ):
        service.post("/api/simulate", {"city": "demo", "horizon_hours": 2})
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while not any(b"urbanwm.served_by" in body for body in received):
            assert time.monotonic() < deadline, received
            time.sleep(0.1)
    assert not any(b"readyz" in body for body in received)
