"""What every source does with a body first: decode it, and tell a broken or foreign one by its right name."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, tzinfo
from http import HTTPStatus
from typing import Any, TypeVar

from urbanwm.errors import (
    InternalContractBroken,
    KeyMissing,
    MalformedPayload,
    NoData,
    SourceError,
    UpstreamUnavailable,
)
from urbanwm.settings import Settings
from urbanwm.sources.base import RawPayload, SourceConfig
from urbanwm.sources.http import check_status, excerpt

ConfigT = TypeVar("ConfigT", bound=SourceConfig)

HTML_MARKS = ("<!doctype html", "<html", "<head>", "<body", "<h1", "<center")
HTML_LOOKAHEAD = 512  # characters: room for an XML declaration and a comment before the first tag
# A stamp outside these years is damage, and arithmetic on it can overflow.
FIRST_YEAR, LAST_YEAR = 1900, 2200


def own_config(config: SourceConfig, kind: type[ConfigT]) -> ConfigT:
    """Return the configuration as the source's own type.

    Raises:
        InternalContractBroken: A caller paired a source with another source's configuration.
    """
    if not isinstance(config, kind):
        raise InternalContractBroken(
            f"{kind.__module__} was handed a {type(config).__module__} configuration"
        )
    return config


def required_key(settings: Settings, field: str, *, source: str, hint: str) -> str:
    """Return a source's key in clear, to be sent and never kept.

    Raises:
        KeyMissing: None is configured; the message names the environment variable.
    """
    secret = getattr(settings, field)
    if secret is None or not secret.get_secret_value():
        variable = field.upper()
        raise KeyMissing(f"{source} needs {variable}", source=source, field=variable, allowed=hint)
    return str(secret.get_secret_value())


def decode_text(raw: RawPayload) -> str:
    """Return the body as text (UTF-8, with or without a byte order mark).

    Raises:
        SourceError: The status's own error, else `MalformedPayload`.
    """
    try:
        return raw.body.decode("utf-8-sig")
    except UnicodeDecodeError:
        check_status(raw)
        raise _unreadable(raw, "is not UTF-8 text") from None


def is_html(text: str) -> bool:
    """Return whether a text is a web page: a gateway or a maintenance notice, never an answer of ours."""
    head = text.lstrip()[:HTML_LOOKAHEAD].lower()
    return head.startswith("<") and any(mark in head for mark in HTML_MARKS)


def reject_web_page(raw: RawPayload, text: str) -> None:
    """Raise for a web page in place of an answer.

    Raises:
        SourceError: The status's own error, else `UpstreamUnavailable`: pages come with status 200 as well.
    """
    if is_html(text):
        check_status(raw)
        raise UpstreamUnavailable(
            f"{raw.source} answered with a web page: {excerpt(raw.body)}", source=raw.source, field="body"
        )


def read_json(raw: RawPayload) -> Any:  # noqa: ANN401 - the document's shape is the source's business
    """Return the JSON document of a body whatever its status, so that a source can read its own error shapes.

    Raises:
        UpstreamUnavailable: A web page came instead.
        NoData: Status 204.
        MalformedPayload: Not JSON; retryable.
        SourceError: Not JSON, and the status already says why.
    """
    if raw.status == HTTPStatus.NO_CONTENT:
        raise NoData(f"{raw.source} has nothing for this question", source=raw.source)
    text = decode_text(raw)
    reject_web_page(raw, text)
    try:
        return json.loads(text)
    except json.JSONDecodeError as failure:
        check_status(raw)
        raise _unreadable(raw, f"is not JSON ({failure.msg} at {failure.pos})") from None
    except RecursionError:
        check_status(raw)
        raise _unreadable(raw, "is nested too deeply") from None


def malformed(source: str, what: str, field: str, value: object = None) -> MalformedPayload:
    """Return the error for a document that lacks what the format promises."""
    return MalformedPayload(f"{source}: {what}", source=source, field=field, value=value)


def _unreadable(raw: RawPayload, what: str) -> SourceError:
    """Return the error for a body that is no document at all.

    A retry can help: the transfer broke off, or a proxy spoke. A format that changed would still be JSON.
    """
    error = malformed(raw.source, f"the body {what}", "body", excerpt(raw.body) or "(empty)")
    error.retryable = True
    return error


def read_number(value: object) -> float | None:
    """Return a finite number, also from numeric text; None for null, "", "-", NaN and booleans."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_utc(value: object, naive_is: tzinfo | None = None) -> datetime | None:
    """Return an ISO 8601 text as a UTC time; None for anything else.

    A time without an offset is read in `naive_is`, or not at all.
    """
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=naive_is)
    if moment.tzinfo is None or not FIRST_YEAR <= moment.year <= LAST_YEAR:
        return None
    return moment.astimezone(UTC)


def read_epoch(value: object) -> datetime | None:
    """Return seconds since 1970 (UTC) as a time; None for anything else."""
    seconds = read_number(value)
    if seconds is None:
        return None
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment if FIRST_YEAR <= moment.year <= LAST_YEAR else None
