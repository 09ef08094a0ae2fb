"""What is recorded about code, packages and configuration."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from urbanwm.provenance import UNKNOWN, collect_provenance, document_hash


def _git(folder, *arguments):
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        check=True,
        capture_output=True,
    )


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    _git(tmp_path, "init")
    (tmp_path / "requirements.lock").write_text("numpy==2.4.6\n")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_a_clean_checkout_is_not_dirty(checkout):
    found = collect_provenance(checkout)
    assert len(found.git_sha) == 40
    assert found.git_dirty is False


def test_a_changed_tracked_file_makes_it_dirty_and_changes_the_lock_hash(checkout):
    before = collect_provenance(checkout)
    (checkout / "requirements.lock").write_text("numpy==2.4.7\n")
    after = collect_provenance(checkout)
    assert after.git_dirty is True
    assert after.lock_hash != before.lock_hash
    assert after.git_sha == before.git_sha


def test_outside_of_a_checkout_it_says_unknown(tmp_path):
    found = collect_provenance(tmp_path)
    assert (found.git_sha, found.git_dirty, found.lock_hash) == (UNKNOWN, None, UNKNOWN)
    assert found.tags()["git_dirty"] == UNKNOWN


def test_the_packages_that_change_results_are_named():
    packages = collect_provenance().packages
    assert packages["numpy"] != UNKNOWN
    assert packages["torch"] != UNKNOWN


def test_the_hash_of_a_configuration_ignores_key_order_and_sees_every_value():
    assert document_hash({"a": 1, "b": [1, 2]}) == document_hash({"b": [1, 2], "a": 1})
    assert document_hash({"a": 1}) != document_hash({"a": 2})
