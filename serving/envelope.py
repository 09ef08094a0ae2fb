"""The one shape of every refusal: `{"error": {"type", "message", "field", "allowed"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson
from starlette.responses import Response

from urbanwm.errors import UrbanWMError

JSON = "application/json"
ECHO_LIMIT = 200
"""Characters of a caller's own text that an error may carry back."""


class Refused(UrbanWMError):
    """A request that HTTP itself turns down, before or beside the domain.

    Attributes:
        headers: What the status demands beside the body, such as `Retry-After`.
    """

    http_status: ClassVar[int] = 400

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        allowed: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the sentence and the headers that go with it."""
        super().__init__(message, field=field, allowed=allowed)
        self.headers = dict(headers or {})


class Unauthorised(Refused):
    """No key was sent where one is needed."""

    http_status = 401


class Forbidden(Refused):
    """The key is wrong, or the route is switched off."""

    http_status = 403


class NotFound(Refused):
    """There is no such route."""

    http_status = 404


class MethodNotAllowed(Refused):
    """The route exists, the method does not."""

    http_status = 405


class BodyTooSlow(Refused):
    """The body did not arrive in time."""

    http_status = 408


class AlreadyRunning(Refused):
    """A run of the same kind has not finished yet."""

    http_status = 409


class BodyTooLarge(Refused):
    """The body passes the limit, counted as it streams in."""

    http_status = 413


class NotJson(Refused):
    """The body is not declared as `application/json`."""

    http_status = 415


class Overloaded(Refused):
    """The queue is full; `Retry-After` says when to come back."""

    http_status = 429


class ClientGone(Refused):
    """The caller hung up; nobody reads this, but the log and the metrics do."""

    http_status = 499


class Unavailable(Refused):
    """Something that the answer needs is not there now; the sentence says what."""

    http_status = 503


class DeadlineExceeded(Refused):
    """The answer would have come too late."""

    http_status = 504


def _shortened(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Cut a caller's text to `ECHO_LIMIT`, so that an error is never larger than its cause."""
    if isinstance(value, str) and len(value) > ECHO_LIMIT:
        return value[:ECHO_LIMIT] + "…"
    return value


def envelope(error: UrbanWMError) -> dict[str, Any]:
    """Return the JSON document of an error, always with the four agreed keys."""
    told = error.envelope()["error"]
    document = {"field": None, "allowed": None, **{key: _shortened(value) for key, value in told.items()}}
    return {"error": document}


def error_response(error: UrbanWMError) -> Response:
    """Return an error as an HTTP response with its status and headers."""
    headers = dict(getattr(error, "headers", {}))
    if error.retryable and error.http_status == Unavailable.http_status:
        headers.setdefault("Retry-After", "5")
    return json_response(envelope(error), status=error.http_status, headers=headers)


def json_response(
    document: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return any JSON-ready document, numpy arrays and aware datetimes included."""
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)
    return Response(body, status_code=status, media_type=JSON, headers=dict(headers or {}))
