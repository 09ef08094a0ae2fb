"""What the service asks without MLflow is what MLflow itself says: of a database and of a server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.registry_support import accept, make_registry, make_settings, make_template, register
from urbanwm.errors import BundleInvalid, UpstreamUnavailable
from urbanwm.registry import DirectRegistry, ModelVersion, Registry, directory_digest, promote
from urbanwm.settings import load_settings

Answer = tuple[int, bytes]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def registry(tmp_path: Path, template: Path) -> Registry:
    return make_registry(tmp_path, template)


def promoted(registry: Registry, folder: Path) -> ModelVersion:
    version = register(registry, folder, "one")
    return promote(registry, version.version, validate=accept, expected_champion=None)


def test_the_champion_read_from_the_database_is_the_one_mlflow_names(
    registry: Registry, tmp_path: Path
) -> None:
    direct = DirectRegistry(registry)
    assert direct.champion() is registry.champion() is None
    promoted(registry, tmp_path / "bundle")
    assert direct.champion() == registry.champion()


def test_the_bundle_is_copied_and_verified(registry: Registry, tmp_path: Path) -> None:
    version = promoted(registry, tmp_path / "bundle")
    fetched = DirectRegistry(registry).download(version, tmp_path / "cache" / "one")
    assert directory_digest(fetched) == version.digest
    (stored,) = (tmp_path / "mlflow" / "artifacts").rglob("weights.txt")
    stored.write_text("altered")
    with pytest.raises(BundleInvalid, match="not those that were registered"):
        DirectRegistry(registry).download(version, tmp_path / "cache" / "two")


def test_neither_question_imports_mlflow(registry: Registry, tmp_path: Path) -> None:
    version = promoted(registry, tmp_path / "bundle")
    program = f"""
import sys
from pathlib import Path
from urbanwm.registry import DirectRegistry, Registry
from urbanwm.settings import load_settings
registry = Registry(load_settings(home={str(tmp_path)!r}, tracking_uri={registry.tracking_uri!r}))
champion = DirectRegistry(registry).champion()
assert champion.version == {version.version!r}
DirectRegistry(registry).download(champion, Path({str(tmp_path / "fetched")!r}))
assert "mlflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_registry_that_is_not_there_is_said_to_be_away_and_is_not_created(tmp_path: Path) -> None:
    direct = DirectRegistry(Registry(make_settings(tmp_path)))
    with pytest.raises(UpstreamUnavailable, match="there is no model registry"):
        direct.champion()
    assert not (tmp_path / "mlflow").exists()


def test_a_database_with_other_tables_is_left_to_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(make_settings(tmp_path))
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").touch()
    monkeypatch.setattr(Registry, "champion", lambda _: "asked through MLflow")
    assert DirectRegistry(registry).champion() == "asked through MLflow"


@contextmanager
def server(answer: Callable[[str, dict[str, list[str]]], Answer]) -> Iterator[str]:
    """Serve `answer(path, query)` on a loopback address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, body = answer(parts.path, parse_qs(parts.query))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def behind(tmp_path: Path, address: str) -> DirectRegistry:
    return DirectRegistry(Registry(load_settings(home=tmp_path, tracking_uri=address)))


def test_a_server_is_asked_over_its_interface_and_hands_out_the_files(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name in ("bundle.json", "weights.safetensors"):
        (bundle / name).write_text(name)
    version = {
        "version": "3",
        "run_id": "abc",
        "creation_timestamp": "1760000000000",
        "source": "mlflow-artifacts:/1/abc/artifacts/bundle",
        "aliases": ["champion"],
        "tags": [{"key": "bundle_digest", "value": directory_digest(bundle)}],
    }

    def answer(path: str, query: dict[str, list[str]]) -> Answer:
        if path == "/api/2.0/mlflow/registered-models/alias":
            assert query == {"name": ["urban-world-model"], "alias": ["champion"]}
            return 200, json.dumps({"model_version": version}).encode()
        if query == {"path": ["1/abc/artifacts/bundle"]}:
            files = [{"path": file.name, "is_dir": False} for file in bundle.iterdir()]
            return 200, json.dumps({"files": files}).encode()
        return 200, (bundle / Path(path).name).read_bytes()

    with server(answer) as address:
        direct = behind(tmp_path, address)
        champion = direct.champion()
        assert champion is not None
        assert (champion.version, champion.run_id, champion.aliases) == ("3", "abc", ("champion",))
        fetched = direct.download(champion, tmp_path / "cache" / "three")
    assert directory_digest(fetched) == champion.digest


def test_a_server_without_a_champion_names_none(tmp_path: Path) -> None:
    with server(lambda *_: (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}')) as address:
        assert behind(tmp_path, address).champion() is None


@pytest.mark.parametrize("refusal", [(401, b"log in"), (404, b"<html>"), (200, b"<html>"), (200, b"{}")])
def test_a_server_that_wants_something_else_is_left_to_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Answer
) -> None:
    monkeypatch.setattr(Registry, "champion", lambda _: "asked through MLflow")
    with server(lambda *_: refusal) as address:
        assert behind(tmp_path, address).champion() == "asked through MLflow"


def test_a_server_that_is_down_is_away(tmp_path: Path) -> None:
    with pytest.raises(UpstreamUnavailable, match="does not answer"):
        behind(tmp_path, "http://127.0.0.1:9").champion()


def test_a_file_name_that_leads_elsewhere_is_never_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = json.dumps({"files": [{"path": "../../escape", "is_dir": False}]}).encode()
    monkeypatch.setattr(Registry, "download", lambda *_: "through MLflow")
    from datetime import UTC, datetime

    version = ModelVersion("1", "abc", datetime(2026, 1, 1, tzinfo=UTC), "mlflow-artifacts:/1/bundle")
    with server(lambda *_: (200, listing)) as address:
        assert behind(tmp_path, address).download(version, tmp_path / "x" / "y") == "through MLflow"
    assert not list(tmp_path.rglob("escape"))
