"""Reading a request body: bounded while it streams in, JSON and nothing else, finite numbers only."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from serving.envelope import JSON, BodyTooLarge, BodyTooSlow, ClientGone, NotJson
from urbanwm.errors import BadInput

BODY_LIMIT_BYTES = 256 * 1024
"""A scenario with 64 schedule periods and its own assumptions takes about 20 KiB."""
BODY_DEADLINE_SECONDS = 10.0
DEPTH_LIMIT = 32
"""Nesting of a body; the deepest valid one has 6 levels."""


async def read_json_object(request: Request) -> dict[str, Any]:
    """Return the body as a mapping.

    Raises:
        NotJson: The content type is not `application/json`; this also keeps HTML forms of other sites out.
        BodyTooLarge: More than `BODY_LIMIT_BYTES`, as declared or as counted.
        BodyTooSlow: The body was not complete within `BODY_DEADLINE_SECONDS`.
        BadInput: Not JSON, not an object, a number that is not finite, or nested too deeply.
    """
    media_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if media_type != JSON:
        raise NotJson("the body must be sent as application/json", field="content-type", allowed=JSON)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > BODY_LIMIT_BYTES:
        raise _too_large()
    return parse_object(await _read(request))


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse JSON bytes into a mapping; strict where the standard library is lenient.

    `orjson` refuses NaN, Infinity, numbers that overflow (1e999), lone surrogates and invalid UTF-8.

    Raises:
        BadInput: Not JSON, not an object, or nested deeper than `DEPTH_LIMIT`.
    """
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        found = _not_finite(raw)
        if found is not None:
            name, value = found
            raise BadInput(
                f"{name} is not a finite number", field=name, value=value, allowed="a finite number"
            ) from None
        raise BadInput(
            f"the body is not JSON: {error}", field="body", allowed="a JSON object, finite numbers only"
        ) from None
    if not isinstance(document, dict):
        raise BadInput("the body must be a JSON object", field="body", allowed="a JSON object")
    if raw.count(b"[") + raw.count(b"{") > DEPTH_LIMIT and _depth(document) > DEPTH_LIMIT:
        raise BadInput("the body is nested too deeply", field="body", allowed=f"{DEPTH_LIMIT} levels")
    return document


def _not_finite(raw: bytes) -> tuple[str, float] | None:
    """Return path and value of a number that is not finite (NaN, 1e999), where that is what is wrong."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    waiting: list[tuple[str, object]] = [("", document)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, (int, float)) and not abs(node) <= sys.float_info.max:
            # An integer of 400 digits is as good as infinite, and nobody wants it echoed.
            return path or "body", node if isinstance(node, float) else math.inf if node > 0 else -math.inf
        children = (
            node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        )
        waiting += [(f"{path}.{key}" if path else str(key), child) for key, child in children]
    return None


async def _read(request: Request) -> bytes:
    """Collect the streamed body and stop at the limit, whatever length was declared."""
    received = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE_SECONDS):
            async for chunk in request.stream():
                received += chunk
                if len(received) > BODY_LIMIT_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise BodyTooSlow("the body did not arrive in time", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ClientGone("the client went away before the body was complete") from None
    return bytes(received)


def _too_large() -> BodyTooLarge:
    """Return the refusal; the rest of the body is never read, so the connection closes."""
    return BodyTooLarge(
        "the body is too large",
        field="body",
        allowed=f"at most {BODY_LIMIT_BYTES} bytes",
        headers={"Connection": "close"},
    )


def _depth(document: object) -> int:
    """Return the nesting of a parsed document, level by level and without recursion."""
    depth, level = 0, [document]
    while level:
        depth += 1
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, (dict, list))
        ]
    return depth
