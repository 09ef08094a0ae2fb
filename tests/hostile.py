"""Requests that nobody polite sends: raw bytes, so that no client library can repair them on the way."""

from __future__ import annotations

import gzip
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

PATIENCE_SECONDS = 20.0
"""An answer that takes longer counts as none."""
POSTS = ("/api/simulate", "/api/latent", "/api/optimize", "/api/retrain")
GETS = (
    "/api/health",
    "/api/cities",
    "/api/model",
    "/api/explain/latent_sample",
    "/openapi.json",
    "/",
    "/livez",
)
OF_THE_SERVER = ("/readyz", "/healthz", "/metrics", "/docs.json", "/schema.json", "/static_content/x.js")
METHODS = ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "get")
ODD_VALUES = (
    "null",
    "true",
    "[]",
    "{}",
    '""',
    '"\\u0000"',
    "-1",
    "0",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "1e308",
    "1" * 400,
    "9223372036854775808",
    "-0.0",
    "0.1e-400",
    '"' + "x" * 5000 + '"',
    '"9999-12-31T23:59:59Z"',
    '"0001-01-01T00:00:00Z"',
    '"2026-13-45T99:99:99Z"',
    "[[[[1]]]]",
    '{"$ref": "x"}',
    '"../../etc/passwd"',
    '"\u202e\U0001f4a5"',
    '"\\ud800"',
    "[1,2,3]",
)
FIELDS = (
    "city",
    "start_time",
    "horizon_hours",
    "policy",
    "initial_state",
    "uncertainty_samples",
    "seed",
    "assumptions",
    "scenarios",
    "weights",
    "pm25_target",
    "eval_budget",
    "__class__",
    "\u00e9\U0001f600",
    "",
    "a" * 300,
)
PATHS = (
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/static/../../serving/api.py",
    "/static/%00",
    "//api//simulate",
    "/api/simulate/",
    "/API/SIMULATE",
    "/api/simulate;x=1",
    "/" + "a" * 8000,
    "/%ff%fe",
    "/api/explain/latent_sample?city=",
    "/api/explain/latent_sample?city=" + "z" * 4000,
    "/api/explain/latent_sample?city=a&city=b&x=%00",
    "*",
    "http://evil/api/health",
    "/static/style.css/../app.js",
    "/api/health?" + "&".join(f"a{n}=1" for n in range(500)),
    "/.env",
    "/api/cities?$where=1",
)
HEADERS = (
    "Content-Type: text/xml",
    "Content-Type: application/json; charset=utf-16",
    "Content-Type: application/vnd.bentoml+pickle",
    "Content-Type: application/x-www-form-urlencoded",
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Type:",
    "Accept: text/csv;q=zzz",
    "Accept: " + "a/b;q=0.1," * 500,
    "Accept: */*;q=nan, text/csv;q=1e400",
    'X-Request-ID: "><script>alert(1)</script>',
    "Authorization: Basic " + "A" * 3000,
    "Authorization: Bearer \u00ff\u00fe",
    "X-API-Key: " + "k" * 6000,
    "Content-Encoding: gzip",
    "Transfer-Encoding: gzip",
    "Expect: 100-continue",
    "Expect: nonsense",
    "Range: bytes=0-1,0-1",
    "Origin: https://evil.example",
    "Cookie: " + "c=1;" * 2000,
    "X-Forwarded-For: 127.0.0.1",
    "traceparent: 00-zz-zz-01",
    "Upgrade: websocket\r\nConnection: Upgrade",
)
LENGTHS = ("-1", "abc", "1e3", "99999999999999999999", "0x10", " ", "5\r\nContent-Length: 6", "3, 4")
GOOD = {"city": "demo", "horizon_hours": 2, "uncertainty_samples": 2}
TEXT = json.dumps(GOOD)
LARGE = 10 * 1024 * 1024


@dataclass(frozen=True)
class Case:
    """One hostile request.

    Attributes:
        name: What is wrong with it.
        raw: Its bytes.
        answers: How many answers are expected at most.
        hangs_up: The client closes its side when it has sent this.
    """

    name: str
    raw: bytes
    answers: int = 1
    hangs_up: bool = False


def request(method: str, path: str, *headers: str, body: bytes = b"", length: str | None = None) -> bytes:
    """Return the bytes of a request that asks for the connection to be closed."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
    if body or length is not None:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    if body and not any(header.lower().startswith("content-type") for header in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def _object(chance: random.Random) -> bytes:
    """Return a JSON object with some fields odd."""
    pairs = [(key, json.dumps(value)) for key, value in GOOD.items()]
    pairs += [(chance.choice(FIELDS), chance.choice(ODD_VALUES)) for _ in range(chance.randint(1, 3))]
    chance.shuffle(pairs)
    text = ",".join(f"{json.dumps(key)}:{value}" for key, value in pairs)
    return f"{{{text}}}".encode("utf-8", "replace")


def _broken(chance: random.Random) -> bytes:
    """Return something that is no JSON object."""
    whole = chance.choice([TEXT.encode(), _object(chance)])
    kind = chance.randrange(8)
    if kind == 0:
        return whole[: chance.randrange(len(whole))] or b"{"
    if kind == 1:
        place = chance.randrange(len(whole))
        return whole[:place] + chance.randbytes(3) + whole[place:]
    if kind == 2:
        return b"[" * chance.choice([10, 1000, 100_000])
    if kind == 3:
        return b'{"a":' * chance.choice([40, 20_000]) + b"1"
    if kind == 4:
        return chance.randbytes(chance.randrange(1, 2000))
    if kind == 5:
        return TEXT.encode(chance.choice(["utf-16", "utf-32", "utf-8-sig"]))
    if kind == 6:
        return gzip.compress(b" " * 5_000_000)
    return chance.choice([b"null", b'"x"', b"3", b"[]", b" " * 1000, b"\x00", b"{}{}"])


def _schedule(chance: random.Random) -> bytes:
    """Return a simulation whose policy is odd below the surface."""
    period = {chance.choice(["start", "end", "hours", "weekdays", "ramp_hours", "car_free_ratio"]): 0}
    text = json.dumps({**GOOD, "policy": {"schedule": [period] * chance.choice([1, 64, 65])}})
    return text.replace(": 0", f": {chance.choice(ODD_VALUES)}").encode("utf-8", "replace")


def _post(body: Callable[[random.Random], bytes]) -> Callable[[random.Random], Case]:
    return lambda chance: Case("body", request("POST", chance.choice(POSTS), body=body(chance)))


def _method(chance: random.Random) -> Case:
    return Case("method", request(chance.choice(METHODS), chance.choice(POSTS + GETS + OF_THE_SERVER)))


def _path(chance: random.Random) -> Case:
    path = chance.choice([*PATHS, f"/{chance.getrandbits(64):x}"])
    return Case("path", request(chance.choice(["GET", "POST"]), path))


def _header(chance: random.Random) -> Case:
    headers = chance.sample(HEADERS, chance.randint(1, 3))
    return Case("header", request("POST", "/api/simulate", *headers, body=TEXT.encode()))


def _length(chance: random.Random) -> Case:
    return Case("length", request("POST", "/api/simulate", body=TEXT.encode(), length=chance.choice(LENGTHS)))


def _chunks(chance: random.Random) -> Case:
    head = request("POST", "/api/simulate", "Transfer-Encoding: chunked", "Content-Type: application/json")
    tail = chance.choice(
        [b"zz\r\n", b"-5\r\nhello\r\n", b"ffffffffffffffffff\r\n", b"3\r\nabcd\r\n", b"0\r\n\r\n"]
    )
    return Case("chunks", head + tail)


def _both_lengths(_: random.Random) -> Case:
    head = request("POST", "/api/simulate", "Transfer-Encoding: chunked", body=b"x", length="4")[:-1]
    return Case("both lengths", head + b"0\r\n\r\nGET /api/retrain HTTP/1.1\r\nHost: x\r\n\r\n", answers=2)


def _pipeline(chance: random.Random) -> Case:
    one = request("POST", "/api/simulate", body=_object(chance)).replace(b"Connection: close\r\n", b"")
    return Case("pipeline", one * 3 + request("GET", "/api/health"), answers=4)


def _large(chance: random.Random) -> Case:
    return Case("large", request("POST", chance.choice(POSTS[:3]), body=b" " * LARGE))


def _noise(chance: random.Random) -> Case:
    first = chance.choice(
        [b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", chance.randbytes(200)]
    )
    return Case("noise", first + b"\r\n\r\n", answers=2)


def _half(chance: random.Random) -> Case:
    whole = request("POST", "/api/simulate", body=TEXT.encode())
    return Case("half", whole[: chance.randrange(len(whole))], hangs_up=True)


KINDS: tuple[tuple[float, Callable[[random.Random], Case]], ...] = (
    (30, _post(_object)),
    (20, _post(_broken)),
    (8, _post(_schedule)),
    (8, _method),
    (10, _path),
    (10, _header),
    (4, _length),
    (3, _chunks),
    (1, _both_lengths),
    (3, _pipeline),
    (0.2, _large),
    (2, _noise),
    (1, _half),
)


def cases(count: int, seed: int) -> Iterator[Case]:
    """Return `count` hostile requests; the same seed gives the same ones."""
    chance = random.Random(seed)
    kinds = chance.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS], k=count)
    return (kind(chance) for kind in kinds)


@dataclass(frozen=True)
class Heard:
    """One answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


def send(case: Case, host: str, port: int) -> list[Heard]:
    """Send one case on a connection of its own and return all that comes back until the server closes it."""
    received = bytearray()
    until = time.monotonic() + PATIENCE_SECONDS
    with socket.create_connection((host, port), timeout=PATIENCE_SECONDS) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(case.raw)
        if case.hangs_up:
            connection.shutdown(socket.SHUT_WR)
        try:
            while piece := connection.recv(65_536):
                received += piece
                assert time.monotonic() < until, f"no end: {case.name} {case.raw[:300]!r}"
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise AssertionError(
                f"no answer, or no end of it: {case.name} {case.raw[:600]!r} {bytes(received[:300])!r}"
            ) from None
    head_only = case.raw.startswith(b"HEAD ")
    return list(_answers(bytes(received), head_only=head_only))


def _answers(raw: bytes, *, head_only: bool) -> Iterator[Heard]:
    """Split what came back into answers."""
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        status = int(first.split(" ")[1])
        if status == 100:
            continue
        length = 0 if head_only else int(headers.get("content-length", len(raw)))
        yield Heard(status, headers, raw[:length])
        raw = raw[length:]
