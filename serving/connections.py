"""What happens below HTTP: bytes that are no request, requests that never get complete, and upgrades."""

from __future__ import annotations

import asyncio

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from serving.envelope import Refused, error_response
from serving.metrics import REFUSALS
from serving.security import OUR_HEADERS

HEAD_SECONDS = 10.0
"""A request line and its headers must be complete by then; the body has a deadline of its own."""


class NotHttp(Refused):
    """What arrived cannot be read as an HTTP request."""


# uvicorn chooses the class when it is imported, which a type checker cannot follow.
class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's connection, with a deadline for the head of a request and our envelope for what is none.

    uvicorn itself waits for ever for the rest of a head, and answers in plain text.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; once they make a request, its deadline is over."""
        super().data_received(data)
        if self._is_answering():
            self._stop_waiting()
        elif self._timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, in the one shape of every refusal."""
        error = NotHttp("this is not a valid HTTP request")
        REFUSALS.labels(type(error).__name__).inc()
        response = error_response(error)
        headers = [*response.raw_headers, *OUR_HEADERS, (b"connection", b"close")]
        lines = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in headers)]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()

    def _is_answering(self) -> bool:
        """Return whether a request is being answered, or the next one has not begun to arrive."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """Close a connection that has not become a request."""
        self._timer = None
        if not self._is_answering():
            self.transport.close()


def install() -> None:
    """Let uvicorn use `Connection`, and no websockets; BentoML has no setting for either.

    The service has no websocket. With a library for them installed, uvicorn hands every "upgrade" to it, and
    a POST that asks for one is never answered.
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"
    uvicorn.config.WS_PROTOCOLS["auto"] = uvicorn.config.WS_PROTOCOLS["none"]
