"""What stands around every route: request id, security headers, the error envelope, keys, one log line."""

from __future__ import annotations

import hmac
import re
import secrets
import time
import traceback
from collections.abc import Callable, Mapping

import structlog
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.envelope import (
    JSON,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    Refused,
    Unauthorised,
    Unavailable,
    error_response,
)
from serving.metrics import REFUSALS, REQUEST_SECONDS
from urbanwm.errors import InternalContractBroken, UrbanWMError

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), camera=(), microphone=()",
}
OUR_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()] + [
    (b"cache-control", b"no-store")
]
"""Added to every answer that does not have them."""
UNREAD_BYTES_MAX = 64 * 1024
"""So much of a refused body may still arrive on a connection that is kept."""
REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
UNKNOWN_ROUTE = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "other"
"""Any word can be a method, and each would be kept as a label for good."""
QUIET_ROUTES = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
"""Probes that ask every few seconds; they are counted but not logged."""
FRAMEWORK_ERROR_STATUS = 400
OUR_FAILURE = "the service failed; X-Request-ID names the log line"

log = structlog.get_logger("urbanwm.http")


def require_key(headers: Headers, key: SecretStr | None) -> None:
    """Let a request pass that carries the service's key.

    The key travels as `Authorization: Bearer KEY` or `X-API-Key: KEY` and is compared in constant time.

    Raises:
        Unauthorised: No key was sent.
        Forbidden: The key is wrong, or the service has none configured, which switches the route off.
    """
    if key is None or not key.get_secret_value():
        raise Forbidden(
            "this route is off: the service has no URBANWM_API_KEY", allowed="set URBANWM_API_KEY"
        )
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    sent = headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
    if not sent:
        raise Unauthorised(
            "this route needs the API key",
            field="Authorization",
            allowed="Authorization: Bearer KEY, or X-API-Key: KEY",
            headers={"WWW-Authenticate": 'Bearer realm="urbanwm"'},
        )
    if not hmac.compare_digest(sent.encode(), key.get_secret_value().encode()):
        raise Forbidden("the API key is wrong", field="Authorization")


class Guard:
    """ASGI middleware around the whole service, mounted routes and the server's own.

    It gives each request an id, adds the security headers, turns every error that is not ours (the router's
    plain 404 and 405, an exception nobody expected) into the envelope, measures, and writes one structured
    log line without any of the caller's input.
    """

    def __init__(
        self, app: ASGIApp, admit: Callable[[str], None], instead: Mapping[str, ASGIApp] | None = None
    ) -> None:
        """Wrap a server.

        Args:
            app: The server.
            admit: Raises `Overloaded` for a path whose queue is full, before anything is read.
            instead: Applications that answer a path in place of the server's own route.
        """
        self._app = app
        self._admit = admit
        self._instead = instead or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and watch the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            self._admit(scope["path"])
            app = self._instead.get(scope["path"], self._app)
            await app(scope, exchange.receive, exchange.send)
        except Overloaded as busy:
            await exchange.refuse(busy)
        except Exception as failure:  # noqa: BLE001 - the last line of defence: an envelope and a log line
            await exchange.fail(failure)
        finally:
            exchange.finish()


class _Exchange:
    """One request and its answer, as `Guard` sees them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = time.perf_counter()
        self._status = 0
        self._replaced = False
        self._body_read = False
        self._headers = Headers(scope=scope)
        offered = self._headers.get("x-request-id", "")
        self._request_id = offered if REQUEST_ID.fullmatch(offered) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = self._request_id

    async def receive(self) -> Message:
        """Hand over the next piece of the body, and note when it has all arrived."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._body_read = True
        return message

    async def send(self, message: Message) -> None:
        """Forward one ASGI message, with our headers, or the envelope in place of a framework's error."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
            present = {name.lower(): value for name, value in headers}
            if self._status >= FRAMEWORK_ERROR_STATUS and not present.get(b"content-type", b"").startswith(
                JSON.encode()
            ):
                await self._replace(self._status, present.get(b"allow", b"").decode() or None)
                return
            headers += [pair for pair in OUR_HEADERS if pair[0] not in present]
            headers.append((b"x-request-id", self._request_id.encode()))
            if self._leaves_body():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif self._replaced:
            return
        await self._send(message)

    def _leaves_body(self) -> bool:
        """Return whether so much of the body is unread that the connection must not be kept.

        A server would read on to the end of it, which need not exist.
        """
        if self._body_read:
            return False
        declared = self._headers.get("content-length", "0")
        chunked = "transfer-encoding" in self._headers
        return chunked or not (declared.isdigit() and int(declared) <= UNREAD_BYTES_MAX)

    async def _replace(self, status: int, allow: str | None) -> None:
        """Answer a framework's own refusal in our words; what it says after that is dropped."""
        response = error_response(_in_our_words(status, self._scope["method"], allow))
        response.status_code = status
        await response(self._scope, _no_body, self.send)
        self._replaced = True

    async def refuse(self, error: UrbanWMError) -> None:
        """Answer in place of the application."""
        state = self._scope["state"]
        state["route"], state["error_type"] = self._scope["path"], type(error).__name__
        await error_response(error)(self._scope, _no_body, self.send)

    async def fail(self, failure: Exception) -> None:
        """Report a defect: to the log by place and type, to the caller as a plain 500."""
        frame = traceback.extract_tb(failure.__traceback__)[-1]
        log.error(
            "unexpected",
            request_id=self._request_id,
            error=type(failure).__name__,
            place=f"{frame.name}:{frame.lineno}",
        )
        if self._status == 0:
            error = InternalContractBroken(OUR_FAILURE)
            await error_response(error)(self._scope, _no_body, self.send)

    def finish(self) -> None:
        """Count the request and write its log line."""
        seconds = time.perf_counter() - self._started
        state = self._scope.get("state", {})
        route = state.get("route") or (
            self._scope["path"] if self._scope["path"] in QUIET_ROUTES else UNKNOWN_ROUTE
        )
        method = self._scope["method"] if self._scope["method"] in METHODS else OTHER_METHOD
        REQUEST_SECONDS.labels(route, method, str(self._status)).observe(seconds)
        error_type = state.get("error_type")
        if error_type:
            REFUSALS.labels(error_type).inc()
        if route in QUIET_ROUTES:
            return
        log.info(
            "request",
            request_id=self._request_id,
            method=method,
            route=route,
            status=self._status,
            milliseconds=round(seconds * 1000, 1),
            **state.get("answered", {}),
            **({"error": error_type} if error_type else {}),
        )


def _in_our_words(status: int, method: str, allow: str | None) -> UrbanWMError:
    """Return the error that a framework meant by a bare status."""
    if status == NotFound.http_status:
        return NotFound("there is no such route", allowed="the routes of /openapi.json")
    if status == MethodNotAllowed.http_status and allow is not None:
        return MethodNotAllowed(f"{method} is not offered here", allowed=allow, headers={"Allow": allow})
    if status == Unavailable.http_status:
        return Unavailable("the service is not ready yet")
    if status >= InternalContractBroken.http_status:
        return InternalContractBroken(OUR_FAILURE)
    return Refused(f"refused with status {status}")


async def _no_body() -> Message:
    """Stand in for `receive` where the request's body does not matter any more."""
    return {"type": "http.disconnect"}
