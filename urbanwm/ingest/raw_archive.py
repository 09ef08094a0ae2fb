"""The raw archive: every upstream answer as received, so that the lake can be rebuilt without the network.

Layout, per month of receipt:

    <root>/<source>/<city>/<YYYY-MM>/<sha256>.gz                        the body, once however often it came
    <root>/<source>/<city>/<YYYY-MM>/<time>-<request>-<sha256[:16]>.json   one receipt: what was asked, when

The body is written before its receipt, each by an atomic rename, so a crash leaves at most a body without a
receipt. An answer that repeats the previous answer to the same request leaves no new receipt, as long as that
one is among the receipts of the newest two months: to look further back would cost more every night.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from urbanwm.clock import require_utc
from urbanwm.errors import InternalContractBroken
from urbanwm.sources.base import RawPayload

RECEIPT_TIME = "%Y%m%dT%H%M%S%f"
DIGEST_IN_NAME = 16
REQUEST_IN_NAME = 12
MONTHS_LOOKED_AT = 2

Bounds = tuple[datetime | None, datetime | None]


@dataclass(frozen=True)
class Receipt:
    """One archived answer.

    Attributes:
        city: City it was fetched for.
        signal: Signal it was fetched for.
        label: Provenance label of the source entry that asked; "" when unknown.
        raw: The answer, byte for byte.
        window: The hours that were wanted of it, `[start, end)`; None leaves a side open.
    """

    city: str
    signal: str
    label: str
    raw: RawPayload
    window: Bounds = (None, None)


class Kept(NamedTuple):
    """What the archive holds: the SHA-256 of the body, and when this answer was received first, UTC."""

    digest: str
    received_at: datetime


class RawArchive:
    """Compressed, content-addressed store of raw answers.

    Args:
        root: Folder of the archive; made when the first answer is kept.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._latest: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}

    def put(
        self, raw: RawPayload, city: str, signal: str, label: str = "", window: Bounds = (None, None)
    ) -> Kept:
        """Keep an answer durably before it is parsed; say under which digest, and since when it is known.

        The caller must have removed every secret from `url`, `headers` and `request`.
        """
        digest = hashlib.sha256(raw.body).hexdigest()
        hours = [None if moment is None else moment.isoformat() for moment in window]
        request = _request_key(raw, signal, label, hours)
        latest = self._latest_of(raw.source, city)
        fetched_at = require_utc(raw.fetched_at, "fetched_at")
        received, known = latest.get(request, ("", ""))
        if known == digest[:DIGEST_IN_NAME]:
            return Kept(digest, datetime.strptime(received, RECEIPT_TIME).replace(tzinfo=UTC))
        folder = self.root / raw.source / city / fetched_at.strftime("%Y-%m")
        folder.mkdir(parents=True, exist_ok=True)
        body = folder / f"{digest}.gz"
        if not body.exists():
            # mtime=0: equal bodies give equal files.
            _write_atomically(body, gzip.compress(raw.body, mtime=0))
        receipt = {
            "city": city,
            "signal": signal,
            "label": label,
            "source": raw.source,
            "url": raw.url,
            "status": raw.status,
            "headers": raw.headers,
            "request": raw.request,
            "fetched_at": fetched_at.isoformat(),
            "window": hours,
            "sha256": digest,
        }
        name = f"{fetched_at.strftime(RECEIPT_TIME)}-{request}-{digest[:DIGEST_IN_NAME]}.json"
        _write_atomically(folder / name, json.dumps(receipt, sort_keys=True).encode())
        latest[request] = (fetched_at.strftime(RECEIPT_TIME), digest[:DIGEST_IN_NAME])
        return Kept(digest, fetched_at)

    def iterate(
        self, city: str | None = None, source: str | None = None
    ) -> Iterator[tuple[str, str, RawPayload]]:
        """Yield (city, signal, answer) in the order in which the answers were received."""
        for receipt in self.receipts(city, source):
            yield receipt.city, receipt.signal, receipt.raw

    def receipts(self, city: str | None = None, source: str | None = None) -> Iterator[Receipt]:
        """Yield the archived answers in the order in which they were received; one body in memory at a time.

        Raises:
            InternalContractBroken: A body is missing or its bytes do not match their digest.
        """
        paths = self.root.glob(f"{source or '*'}/{city or '*'}/*/*.json")
        for path in sorted(paths, key=lambda path: (path.name, path.parent)):
            yield _read(path)

    def _latest_of(self, source: str, city: str) -> dict[str, tuple[str, str]]:
        """Return time and digest of the last answer per request; read once, from the newest receipts' names.

        Only months with receipts count, so a yearly file that never changes is still kept once.
        """
        known = self._latest.get((source, city))
        if known is None:
            newest = sorted((self.root / source / city).glob("*"))[-MONTHS_LOOKED_AT:]
            names = sorted(path.stem for month in newest for path in month.glob("*.json"))
            parts = (name.split("-") for name in names)
            known = {request: (received, digest) for received, request, digest in parts}
            self._latest[source, city] = known
        return known


def _request_key(raw: RawPayload, signal: str, label: str, hours: Sequence[str | None]) -> str:
    """Return a short digest of what was asked; two entries that ask the same for two signals differ."""
    asked = json.dumps([signal, label, raw.url, raw.request, raw.status, hours], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:REQUEST_IN_NAME]


def _write_atomically(path: Path, content: bytes) -> None:
    """Write so that the file is either absent or complete, also after a power cut."""
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as part:
        try:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(path)
        except BaseException:
            # An interrupt too must leave no part behind.
            Path(part.name).unlink(missing_ok=True)
            raise


def _read(path: Path) -> Receipt:
    """Read one receipt and its body."""
    receipt = json.loads(path.read_bytes())
    body_path = path.parent / f"{receipt['sha256']}.gz"
    try:
        body = gzip.decompress(body_path.read_bytes())
    except (OSError, EOFError) as error:
        raise InternalContractBroken(f"raw archive: {body_path.name} cannot be read: {error}") from error
    if hashlib.sha256(body).hexdigest() != receipt["sha256"]:
        raise InternalContractBroken(f"raw archive: {body_path.name} does not match its digest")
    raw = RawPayload(
        source=receipt["source"],
        url=receipt["url"],
        status=receipt["status"],
        headers=receipt["headers"],
        body=body,
        fetched_at=datetime.fromisoformat(receipt["fetched_at"]).astimezone(UTC),
        request=receipt["request"],
    )
    start, end = (None if moment is None else datetime.fromisoformat(moment) for moment in receipt["window"])
    return Receipt(receipt["city"], receipt["signal"], receipt["label"], raw, (start, end))
