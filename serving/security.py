"""What stands around every route: request id, security headers, the error envelope, keys, one log line."""

from __future__ import annotations

import hmac
import re
import secrets
import time
import traceback
from collections.abc import Mapping

import structlog
from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.envelope import (
    JSON,
    Forbidden,
    MethodNotAllowed,
    NotFound,
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
REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
UNKNOWN_ROUTE = "unmatched"
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

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and watch the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        try:
            await self._app(scope, receive, exchange.send)
        except Exception as failure:  # noqa: BLE001 - the last line of defence: an envelope and a log line
            await exchange.fail(failure, receive)
        finally:
            exchange.finish()


class _Exchange:
    """One request and its answer, as `Guard` sees them."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()
        self._status = 0
        self._replaced = False
        offered = Headers(scope=scope).get("x-request-id", "")
        self._request_id = offered if REQUEST_ID.fullmatch(offered) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = self._request_id

    async def send(self, message: Message) -> None:
        """Forward one ASGI message, with our headers, or the envelope in place of a framework's error."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            own = headers.get("content-type", "").startswith(JSON)
            if self._status >= FRAMEWORK_ERROR_STATUS and not own:
                await self._replace(self._status, headers.get("allow"))
                return
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-ID"] = self._request_id
            headers.setdefault("Cache-Control", "no-store")
        elif self._replaced:
            return
        await self._send(message)

    async def _replace(self, status: int, allow: str | None) -> None:
        """Answer a framework's own refusal in our words; what it says after that is dropped."""
        response = error_response(_in_our_words(status, self._scope["method"], allow))
        response.status_code = status
        await response(self._scope, _no_body, self.send)
        self._replaced = True

    async def fail(self, failure: Exception, receive: Receive) -> None:
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
            await error_response(error)(self._scope, receive, self.send)

    def finish(self) -> None:
        """Count the request and write its log line."""
        seconds = time.perf_counter() - self._started
        state = self._scope.get("state", {})
        route = state.get("route") or (
            self._scope["path"] if self._scope["path"] in QUIET_ROUTES else UNKNOWN_ROUTE
        )
        REQUEST_SECONDS.labels(route, self._scope["method"], str(self._status)).observe(seconds)
        error_type = state.get("error_type")
        if error_type:
            REFUSALS.labels(error_type).inc()
        if route in QUIET_ROUTES:
            return
        log.info(
            "request",
            request_id=self._request_id,
            method=self._scope["method"],
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
