"""One polite way to ask an upstream over HTTP: timeouts, bounded retries, no key in anything that is kept."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from urbanwm import __version__
from urbanwm.clock import Clock, require_utc
from urbanwm.errors import (
    KeyRefused,
    MalformedPayload,
    RateLimited,
    RequestRefused,
    SourceError,
    UpstreamUnavailable,
)
from urbanwm.sources.base import RawPayload
from urbanwm.sources.quota import QUOTAS, Quotas

if TYPE_CHECKING:
    import requests

USER_AGENT = f"UrbanWM/{__version__}"
EXCERPT_CHARACTERS = 200
CHUNK_BYTES = 1 << 16
# Headers worth archiving: none of them can carry a session or a key.
KEPT_HEADERS = ("content-type", "date", "etag", "last-modified", "retry-after")
KEPT_HEADER_PREFIXES = ("x-ratelimit-", "ratelimit-")

# urllib3 writes the full request line, query and key included, at DEBUG.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)


def _jitter() -> float:
    """Return a random share in [0, 1): unseeded on purpose, so that many machines do not retry in step."""
    return secrets.randbelow(1 << 20) / (1 << 20)


@dataclass(frozen=True)
class Politeness:
    """How patient one request is.

    Attributes:
        attempts: Requests at most, the first one included.
        first_wait_seconds: Longest wait before the second attempt; doubles with each further one.
        longest_wait_seconds: Cap of any wait; an upstream that asks for more ends the attempts at once.
        connect_seconds: Time allowed to open the connection.
        read_seconds: Longest silence allowed while the answer arrives.
        most_bytes: Largest answer accepted.
    """

    attempts: int = 4
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    connect_seconds: float = 5.0
    read_seconds: float = 30.0
    most_bytes: int = 64 << 20

    def backoff_seconds(self, attempt: int, share: float) -> float:
        """Return the wait after failed attempt number `attempt`: between half and all of the doubled wait."""
        longest = min(self.first_wait_seconds * 2.0 ** (attempt - 1), self.longest_wait_seconds)
        return longest * (0.5 + 0.5 * share)


DEFAULT_POLITENESS = Politeness()
_PRESENT_POLITENESS: ContextVar[Politeness | None] = ContextVar("politeness", default=None)


@contextmanager
def patience(politeness: Politeness) -> Iterator[None]:
    """Make the requests of this thread or task as patient as this, unless the caller says otherwise."""
    token = _PRESENT_POLITENESS.set(politeness)
    try:
        yield
    finally:
        _PRESENT_POLITENESS.reset(token)


def get(
    url: str,
    *,
    source: str,
    clock: Clock,
    params: Mapping[str, str] | None = None,
    secret_params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    secret_headers: Mapping[str, str] | None = None,
    accept: Collection[int] = (),
    politeness: Politeness | None = None,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = _jitter,
    session: requests.Session | None = None,
    quotas: Quotas = QUOTAS,
) -> RawPayload:
    """Ask once, politely; retry only what can succeed later (429, 408, 5xx, timeouts, broken connections).

    A source whose last answer said that no request is left is waited for, or, if that would take longer than
    `politeness` allows, not asked at all. A host that could not be reached a moment ago gets one attempt.

    Args:
        url: Address without the query.
        source: Name of the source, for errors and the payload.
        clock: Gives `fetched_at`.
        params: Query parameters; they are kept in the payload's `url` and `request`.
        secret_params: Query parameters that are sent and never kept, logged or shown.
        headers: Request headers.
        secret_headers: Request headers that carry a key; never kept.
        accept: Error statuses whose body the caller wants to read itself.
        politeness: Attempts, waits, timeouts and size limit; None takes those of `patience`.
        sleep: Waits that many seconds.
        jitter: Draws the random part of a wait, in [0, 1).
        session: A session to reuse over many pages; a fresh one otherwise.
        quotas: What the sources said about their limits.

    Raises:
        SourceError: `RateLimited`, `UpstreamUnavailable`, `KeyRefused`, `RequestRefused`, `MalformedPayload`.
    """
    # Imported where it is used: reading the city files must not cost the 0.1 s of an HTTP library.
    import requests

    shown = dict(params or {})
    public_url = requests.Request("GET", url, params=shown).prepare().url or url
    sent_params = {**shown, **(secret_params or {})}
    sent_headers = {"User-Agent": USER_AGENT, **(headers or {}), **(secret_headers or {})}
    hidden = [*(secret_params or {}).values(), *(secret_headers or {}).values()]
    politeness = politeness or _PRESENT_POLITENESS.get() or DEFAULT_POLITENESS
    _await_quota(source, quotas, politeness, sleep)
    host = urlsplit(url).netloc
    attempt, attempts = 0, 1 if quotas.is_silent(host) else politeness.attempts
    with nullcontext(session) if session is not None else requests.Session() as active:
        while True:
            attempt += 1
            outcome = _attempt(active, url, sent_params, sent_headers, source, politeness)
            asked: float | None = None
            if isinstance(outcome, _Answer):
                raw = RawPayload(
                    source, public_url, outcome.status, outcome.headers, outcome.body, clock(), shown
                )
                quotas.note(source, outcome.headers, raw.fetched_at)
                quotas.note_silence(host, silent=False)
                error = None if outcome.status in accept else status_error(raw, hidden)
                if error is None:
                    return raw
                asked = retry_after_seconds(outcome.headers.get("retry-after"), raw.fetched_at)
                asked = asked if asked is not None else quotas.wait_seconds(source) or None
            else:
                error = outcome
            wait = asked if asked is not None else politeness.backoff_seconds(attempt, jitter())
            last = attempt >= attempts or wait > politeness.longest_wait_seconds
            if last or not error.retryable:
                quotas.note_silence(host, silent=isinstance(outcome, UpstreamUnavailable))
                raise error
            sleep(wait)


def _await_quota(source: str, quotas: Quotas, politeness: Politeness, sleep: Callable[[float], None]) -> None:
    """Wait until a source has requests left again.

    Raises:
        RateLimited: That would take too long.
    """
    wait = quotas.wait_seconds(source)
    if wait > politeness.longest_wait_seconds:
        raise RateLimited(f"{source}: no request is left for {wait:.0f} s", source=source)
    if wait > 0:
        sleep(wait)


@dataclass(frozen=True)
class _Answer:
    """What came back over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


def _attempt(
    session: requests.Session,
    url: str,
    params: Mapping[str, str],
    headers: Mapping[str, str],
    source: str,
    politeness: Politeness,
) -> _Answer | SourceError:
    """Send one request; a failure to get an answer is returned, named and without the address.

    The library's own exceptions hold the full address with the key, so none of them is chained.
    """
    import requests

    timeout = (politeness.connect_seconds, politeness.read_seconds)
    try:
        with session.get(url, params=params, headers=headers, timeout=timeout, stream=True) as response:
            body = bytearray()
            for chunk in response.iter_content(CHUNK_BYTES):
                body += chunk
                if len(body) > politeness.most_bytes:
                    return MalformedPayload(
                        f"{source}: the answer is larger than {politeness.most_bytes} bytes", source=source
                    )
            return _Answer(response.status_code, _kept_headers(response.headers), bytes(body))
    except requests.Timeout:
        reason = f"no answer within {politeness.connect_seconds:g} s + {politeness.read_seconds:g} s"
    except requests.RequestException as failure:
        reason = f"the connection failed ({type(failure).__name__})"
    return UpstreamUnavailable(f"{source}: {reason}", source=source)


def _kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the response headers that are archived, names in lower case."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return {
        name: value
        for name, value in lowered.items()
        if name in KEPT_HEADERS or name.startswith(KEPT_HEADER_PREFIXES)
    }


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Read a `Retry-After` header (RFC 9110 §10.2.3): seconds or a date; None when absent or unreadable."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value.strip())
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max(0.0, (require_utc(moment, "retry-after") - now).total_seconds())


def excerpt(body: bytes, hidden: Collection[str] = ()) -> str:
    """Return the start of a body as one line of text, with every secret masked."""
    text = " ".join(body.decode("utf-8", errors="replace").split())
    for secret in hidden:
        if secret:
            text = text.replace(secret, "***")
    return text if len(text) <= EXCERPT_CHARACTERS else text[:EXCERPT_CHARACTERS] + "…"


def status_error(raw: RawPayload, hidden: Collection[str] = ()) -> SourceError | None:
    """Return the named error that an HTTP status stands for; None for 2xx.

    The upstream's own words are kept in the message, shortened, with the values in `hidden` masked.
    """
    if HTTPStatus.OK <= raw.status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    kind: type[SourceError]
    if raw.status == HTTPStatus.TOO_MANY_REQUESTS:
        kind, meaning = RateLimited, "asks for fewer requests"
    elif raw.status >= HTTPStatus.INTERNAL_SERVER_ERROR or raw.status == HTTPStatus.REQUEST_TIMEOUT:
        kind, meaning = UpstreamUnavailable, "is not available"
    elif raw.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        kind, meaning = KeyRefused, "refuses the key"
    else:
        kind, meaning = RequestRefused, "refuses the request"
    words = excerpt(raw.body, hidden)
    return kind(
        f"{raw.source} {meaning} (HTTP {raw.status}){f': {words}' if words else ''}",
        source=raw.source,
        field="status",
        value=raw.status,
    )


def check_status(raw: RawPayload) -> None:
    """Raise the named error of a payload's HTTP status; for `parse`, which also sees recorded failures.

    Raises:
        SourceError: The status is not 2xx.
    """
    error = status_error(raw)
    if error is not None:
        raise error
