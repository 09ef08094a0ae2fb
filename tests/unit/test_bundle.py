"""Bundles: the same answer without torch, and nothing believed that was not verified."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from tests.small_world import bundle_folder, random_direct, random_model, small_experiment, small_series
from urbanwm.errors import BundleInvalid
from urbanwm.features import Windows
from urbanwm.model.bundle import ROWS_PER_RUN, Bundle
from urbanwm.model.bundle_files import CARD, FILES, MANIFEST, manifest_bytes
from urbanwm.model.config import load_experiment
from urbanwm.model.export import export_bundle
from urbanwm.model.world_model import Batch

KINDS = ["reference", "urban", "categorical"]
WEEK_HOURS = 168


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, bundle_folder(tmp_path_factory.mktemp("bundle"), request.param)


@pytest.fixture
def bundle(exported: tuple[str, Path], tmp_path: Path) -> Path:
    """Return a bundle of one kind that the test may damage."""
    return Path(shutil.copytree(exported[1], tmp_path / "bundle"))


def _windows(kind: str, rows: int, horizon: int) -> Windows:
    experiment = small_experiment(kind)
    _, series = small_series(experiment)
    (city,) = series.values()
    return city.windows(list(range(900, 900 + rows)), experiment.training.context_hours, horizon)


def _answer(bundle: Bundle, windows: Windows, noise: np.ndarray) -> dict[str, np.ndarray]:
    context = windows.context_hours
    h, z = bundle.filter(windows, noise[:, :context])
    ahead = slice(context, None)
    path = bundle.imagine(
        h, z, windows.known[:, ahead], windows.action[:, ahead], windows.skip[:, ahead], noise[:, ahead]
    )
    return {"h": h, "z": z, **path._asdict()}


def _noise(windows: Windows, latent_dim: int, seed: int = 0) -> np.ndarray:
    shape = (len(windows), windows.observed.shape[1], latent_dim)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("horizon", [1, 48, WEEK_HOURS])
def test_the_graphs_answer_like_the_network(exported: tuple[str, Path], rows: int, horizon: int) -> None:
    kind, folder = exported
    experiment = small_experiment(kind)
    spec, _ = small_series(experiment)
    model, windows = random_model(experiment, spec), _windows(kind, rows, horizon)
    noise = _noise(windows, model.config.latent_dim)
    with torch.no_grad():
        expected = model.forecast(Batch.of(windows), torch.from_numpy(noise))
    answer = _answer(Bundle.load(folder), windows, noise)
    for name, value in zip(("output", "h", "z"), expected, strict=True):
        scale = np.maximum(1.0, np.abs(value.numpy()))
        assert np.max(np.abs(answer[name] - value.numpy()) / scale) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_full_size_graphs_answer_like_the_network_over_a_week(kind: str, tmp_path: Path) -> None:
    small = small_experiment(kind)
    full = load_experiment("base" if kind == "reference" else kind)
    experiment = small.model_copy(update={"model": full.model})
    spec, _ = small_series(experiment)
    if kind != "reference":
        spec = replace(spec, direct=random_direct(spec))
    model, windows = random_model(experiment, spec), _windows(kind, 2, WEEK_HOURS)
    folder = export_bundle(model, experiment, spec, {}, {}, {}, tmp_path / "bundle")
    noise = _noise(windows, 128)
    with torch.no_grad():
        expected = model.forecast(Batch.of(windows), torch.from_numpy(noise))
    answer = _answer(Bundle.load(folder), windows, noise)
    assert answer["h"].shape == (2, WEEK_HOURS, 256)
    for name, value in zip(("output", "h", "z"), expected, strict=True):
        scale = np.maximum(1.0, np.abs(value.numpy()))
        assert np.max(np.abs(answer[name] - value.numpy()) / scale) <= 1e-5
    started = time.perf_counter()
    Bundle.load(folder).smoke_test()
    assert time.perf_counter() - started < 5.0


def test_thousands_of_policies_are_imagined_a_part_at_a_time(exported: tuple[str, Path]) -> None:
    """The answer is that of one row by itself, and no run of the graph sees more rows than fit the cache."""
    bundle, rows = Bundle.load(exported[1]), 2 * ROWS_PER_RUN + 5
    windows = _windows(exported[0], rows=1, horizon=6)
    h, z = bundle.filter(windows)
    ahead = slice(windows.context_hours, None)
    action = np.random.default_rng(0).random((rows, 6, windows.action.shape[2]), dtype=np.float32)

    def shared(value: np.ndarray) -> np.ndarray:
        return np.broadcast_to(value, (rows, *value.shape[1:]))

    seen: list[int] = []
    session = bundle._rollout
    bundle._rollout = SimpleNamespace(
        get_inputs=session.get_inputs,
        run=lambda names, feeds: (seen.append(len(feeds["action"])), session.run(names, feeds))[1],
    )
    many = (*map(shared, (h, z, windows.known[:, ahead])), action, shared(windows.skip[:, ahead]))
    outputs, paths = bundle.imagine_outputs(*many), bundle.imagine(*many)
    assert max(seen) == ROWS_PER_RUN
    np.testing.assert_array_equal(outputs, paths.output)
    for row in (0, ROWS_PER_RUN - 1, ROWS_PER_RUN, rows - 1):
        alone = bundle.imagine(*(value[row : row + 1] for value in many))
        for whole, single in zip(paths, alone, strict=True):
            np.testing.assert_allclose(whole[row : row + 1], single, rtol=1e-5, atol=1e-5)


def test_no_noise_means_the_latent_means(exported: tuple[str, Path]) -> None:
    kind, folder = exported
    bundle, windows = Bundle.load(folder), _windows(kind, 2, 6)
    zeros = np.zeros((2, windows.observed.shape[1], 8), np.float32)
    with_zeros = _answer(bundle, windows, zeros)
    h, z = bundle.filter(windows)
    ahead = slice(windows.context_hours, None)
    path = bundle.imagine(h, z, windows.known[:, ahead], windows.action[:, ahead], windows.skip[:, ahead])
    np.testing.assert_array_equal(path.output, with_zeros["output"])


def test_each_graph_scans_the_hours_and_the_rollout_the_rows(exported: tuple[str, Path]) -> None:
    kind, folder = exported
    scans = {
        name: [node.op_type for node in onnx.load(folder / name).graph.node].count("Scan")
        for name in ("filter.onnx", "rollout.onnx")
    }
    assert scans == {"filter.onnx": 0 if kind == "reference" else 1, "rollout.onnx": 2}


@pytest.mark.slow
def test_a_fresh_process_without_torch_gives_the_identical_rollout(exported: tuple[str, Path]) -> None:
    _, folder = exported
    code = """
import sys, json, hashlib
from pathlib import Path
import numpy as np
from urbanwm.model.bundle import ROWS_PER_RUN, Bundle
from urbanwm.model.bundle_files import EXAMPLE, read_example
bundle = Bundle.load(Path(sys.argv[1]))
bundle.smoke_test()
example = read_example((Path(sys.argv[1]) / EXAMPLE).read_bytes())
c = example["context_hours"]
ahead = [example[name][:, c:] for name in ("known", "action", "skip", "noise")]
path = bundle.imagine(example["expected_h"], example["expected_z"], *ahead)
assert "torch" not in sys.modules
print(hashlib.sha256(path.output.tobytes()).hexdigest())
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].strip()) == 64


def test_the_weights_in_the_bundle_are_the_networks(exported: tuple[str, Path]) -> None:
    kind, folder = exported
    experiment = small_experiment(kind)
    spec, _ = small_series(experiment)
    model = random_model(experiment, spec)
    stored = load_file(folder / "weights.safetensors")
    model.load_state_dict(stored, strict=True)
    assert stored.keys() == model.state_dict().keys()


def test_a_bundle_carries_what_serving_needs(exported: tuple[str, Path]) -> None:
    kind, folder = exported
    bundle = Bundle.load(folder)
    assert bundle.spec.kind == bundle.experiment["model"]["kind"]
    assert bundle.experiment["name"] == ("base" if kind == "reference" else kind)
    assert (bundle.assumptions, bundle.provenance) == ({"name": "none"}, {"run_id": "test"})
    assert bundle.digest == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def test_exporting_twice_gives_the_same_bytes(exported: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = exported
    again = bundle_folder(tmp_path, kind)
    for name in (MANIFEST, *FILES):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_refused(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(bytes(content))
    with pytest.raises(BundleInvalid, match=name):
        Bundle.load(bundle)


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_a_missing_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleInvalid, match="missing"):
        Bundle.load(bundle)


def test_a_card_may_be_added_and_is_shown_but_changes_nothing(bundle: Path) -> None:
    before = Bundle.load(bundle)
    (bundle / CARD).write_text("# Card", encoding="utf-8")
    after = Bundle.load(bundle)
    assert (before.card, after.card) == (None, "# Card")
    assert after.digest == before.digest
    (bundle / CARD).unlink()
    (bundle / CARD).symlink_to(bundle / MANIFEST)
    with pytest.raises(BundleInvalid, match="plain file"):
        Bundle.load(bundle)


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "readme.txt"])
def test_an_unknown_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"\x80\x04.")
    with pytest.raises(BundleInvalid, match="not part of a bundle"):
        Bundle.load(bundle)


def test_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.onnx"
    (bundle / "filter.onnx").rename(elsewhere)
    (bundle / "filter.onnx").symlink_to(elsewhere)
    with pytest.raises(BundleInvalid, match="plain file"):
        Bundle.load(bundle)


def _rewrite(bundle: Path, **sections: object) -> None:
    """Replace sections of the manifest and make its own checksum right again."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    del manifest["checksum"]
    (bundle / MANIFEST).write_bytes(manifest_bytes({**manifest, **sections}))


def test_an_edited_manifest_is_refused(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text.replace('"run_id": "test"', '"run_id": "best"'))
    with pytest.raises(BundleInvalid, match="altered"):
        Bundle.load(bundle)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"format": 99}'])
def test_a_manifest_that_is_none_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(BundleInvalid):
        Bundle.load(bundle)


def test_a_manifest_cannot_name_files_elsewhere(bundle: Path) -> None:
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    _rewrite(bundle, files={**files, "../outside.onnx": "0" * 64})
    with pytest.raises(BundleInvalid, match="files"):
        Bundle.load(bundle)


def test_an_unknown_section_is_refused(bundle: Path) -> None:
    _rewrite(bundle, extra={})
    with pytest.raises(BundleInvalid, match="unknown sections"):
        Bundle.load(bundle)


def test_a_broken_feature_spec_is_refused(bundle: Path) -> None:
    _rewrite(bundle, spec={"kind": "urban"})
    with pytest.raises(BundleInvalid, match="feature spec"):
        Bundle.load(bundle)


def test_a_graph_that_does_not_fit_the_spec_is_refused(bundle: Path) -> None:
    spec = json.loads((bundle / MANIFEST).read_text())["spec"]
    _rewrite(bundle, spec={**spec, "observed_names": [*spec["observed_names"], "no2"]})
    with pytest.raises(BundleInvalid, match="does not fit"):
        Bundle.load(bundle)


def _replace_file(bundle: Path, name: str, content: bytes) -> None:
    (bundle / name).write_bytes(content)
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    _rewrite(bundle, files={**files, name: hashlib.sha256(content).hexdigest()})


def test_a_file_that_is_no_graph_is_refused(bundle: Path) -> None:
    _replace_file(bundle, "rollout.onnx", b"not a graph")
    with pytest.raises(BundleInvalid, match=r"rollout\.onnx"):
        Bundle.load(bundle)


def test_a_graph_that_answers_differently_fails_the_smoke_test(
    exported: tuple[str, Path], bundle: Path, tmp_path: Path
) -> None:
    kind, _ = exported
    other = bundle_folder(tmp_path / "other", kind, seed=1)
    _replace_file(bundle, "rollout.onnx", (other / "rollout.onnx").read_bytes())
    loaded = Bundle.load(bundle)
    with pytest.raises(BundleInvalid, match="answered wrongly"):
        loaded.smoke_test()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match="no bundle"):
        Bundle.load(tmp_path / "nowhere")


def test_a_nan_in_the_documents_cannot_be_exported(tmp_path: Path) -> None:
    experiment = small_experiment("urban")
    spec, _ = small_series(experiment)
    model = random_model(experiment, spec)
    with pytest.raises(ValueError, match="JSON"):
        export_bundle(model, experiment, spec, {"x": float("nan")}, {}, {}, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
