"""The raw archive: what came in can be read again, byte for byte, in the order in which it came."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from urbanwm.errors import BadInput, InternalContractBroken
from urbanwm.ingest.raw_archive import RawArchive
from urbanwm.sources.base import RawPayload

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


def answer(body: bytes = b'{"v": 1}', at: datetime = NOON, **changes: object) -> RawPayload:
    raw = RawPayload(
        source="waqi",
        url="https://example.org/feed/@1/",
        status=200,
        headers={"content-type": "application/json"},
        body=body,
        fetched_at=at,
        request={"station": "@1"},
    )
    return replace(raw, **changes)


def bodies(root) -> list:
    return sorted(root.rglob("*.gz"))


def receipts(root) -> list:
    return sorted(root.rglob("*.json"))


def test_an_answer_comes_back_byte_for_byte(tmp_path):
    archive = RawArchive(tmp_path)
    raw = answer(b"\x00\xff not json", status=500)
    archive.put(raw, "madrid", "pm25")
    assert list(archive.iterate()) == [("madrid", "pm25", raw)]


def test_label_and_window_are_kept_beside_the_answer(tmp_path):
    archive = RawArchive(tmp_path)
    archive.put(answer(), "madrid", "pm25", "waqi:@1", (NOON, None))
    (receipt,) = archive.receipts("madrid")
    assert receipt.label == "waqi:@1"
    assert receipt.window == (NOON, None)


def test_the_body_is_compressed_under_its_digest(tmp_path):
    digest, _ = RawArchive(tmp_path).put(answer(b"abc" * 1000), "madrid", "pm25")
    (path,) = bodies(tmp_path)
    assert path.relative_to(tmp_path).as_posix() == f"waqi/madrid/2025-03/{digest}.gz"
    assert gzip.decompress(path.read_bytes()) == b"abc" * 1000
    assert path.stat().st_size < 100


def test_the_same_answer_twice_is_one_file(tmp_path):
    archive = RawArchive(tmp_path)
    for hours in (0, 1):
        archive.put(answer(at=NOON + timedelta(hours=hours)), "madrid", "pm25")
    RawArchive(tmp_path).put(answer(at=NOON + timedelta(hours=2)), "madrid", "pm25")
    assert len(bodies(tmp_path)) == len(receipts(tmp_path)) == 1


def test_an_unchanged_answer_is_remembered_however_long_nothing_else_came(tmp_path):
    for days in (0, 400):
        RawArchive(tmp_path).put(answer(at=NOON + timedelta(days=days)), "madrid", "pm25")
    assert len(receipts(tmp_path)) == 1


def test_what_an_answer_costs_does_not_grow_with_the_months_before(tmp_path, monkeypatch):
    for month in range(24):
        at = NOON + timedelta(days=31 * month)
        RawArchive(tmp_path).put(answer(str(month).encode(), at), "madrid", "pm25")
    listed: list[str] = []
    glob = Path.glob

    def noted(folder: Path, pattern: str) -> Iterator[Path]:
        found = list(glob(folder, pattern))
        listed.extend(path.name for path in found if path.suffix == ".json")
        return iter(found)

    monkeypatch.setattr(Path, "glob", noted)
    RawArchive(tmp_path).put(answer(b"new", NOON + timedelta(days=800)), "madrid", "pm25")
    assert 1 <= len(listed) <= 3


def test_one_answer_for_two_signals_is_one_body_and_two_receipts(tmp_path):
    archive = RawArchive(tmp_path)
    archive.put(answer(), "madrid", "pm25")
    archive.put(answer(), "madrid", "temperature_c")
    assert len(bodies(tmp_path)) == 1
    assert {signal for _, signal, _ in archive.iterate()} == {"pm25", "temperature_c"}


def test_an_answer_that_goes_back_to_an_earlier_one_is_remembered(tmp_path):
    archive = RawArchive(tmp_path)
    for hours, body in enumerate((b"a", b"b", b"a")):
        archive.put(answer(body, NOON + timedelta(hours=hours)), "madrid", "pm25")
    assert [raw.body for _, _, raw in archive.iterate()] == [b"a", b"b", b"a"]
    assert len(bodies(tmp_path)) == 2


def test_answers_come_in_the_order_in_which_they_were_received(tmp_path):
    archive = RawArchive(tmp_path)
    for days in (40, 0, 3):
        archive.put(answer(str(days).encode(), NOON + timedelta(days=days)), "madrid", "pm25")
    archive.put(answer(b"other", NOON + timedelta(days=1), source="eia"), "london", "energy_mwh")
    assert [raw.body for _, _, raw in archive.iterate()] == [b"0", b"other", b"3", b"40"]
    assert [raw.body for _, _, raw in archive.iterate(city="madrid")] == [b"0", b"3", b"40"]
    assert [raw.body for _, _, raw in archive.iterate(source="eia")] == [b"other"]


def test_an_altered_body_is_not_read_as_if_nothing_had_happened(tmp_path):
    archive = RawArchive(tmp_path)
    archive.put(answer(), "madrid", "pm25")
    (path,) = bodies(tmp_path)
    path.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(InternalContractBroken, match="digest"):
        list(archive.iterate())
    path.write_bytes(b"torn")
    with pytest.raises(InternalContractBroken, match="cannot be read"):
        list(archive.iterate())


def test_a_naive_time_of_receipt_is_refused(tmp_path):
    with pytest.raises(BadInput, match="fetched_at"):
        RawArchive(tmp_path).put(answer(at=NOON.replace(tzinfo=None)), "madrid", "pm25")


def test_no_partial_file_is_left_behind(tmp_path):
    RawArchive(tmp_path).put(answer(), "madrid", "pm25")
    assert not list(tmp_path.rglob("*.part"))
    assert list(RawArchive(tmp_path / "absent").iterate()) == []
