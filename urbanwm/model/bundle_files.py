"""The files of a bundle: which they are, how they are sealed, how they are verified."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from urbanwm.errors import BundleInvalid

FORMAT: Final = 2
MANIFEST: Final = "bundle.json"
WEIGHTS, DIRECT = "weights.safetensors", "direct.safetensors"
FILTER, ROLLOUT, EXAMPLE = "filter.onnx", "rollout.onnx", "example.json"
FILES: Final = (WEIGHTS, DIRECT, FILTER, ROLLOUT, EXAMPLE)
CARD: Final = "model_card.md"
"""May be added to a bundle once it has been judged; the registry's digest of the folder covers it."""
SECTIONS: Final = (
    "format",
    "experiment",
    "spec",
    "calibration",
    "assumptions",
    "provenance",
    "files",
    "checksum",
)
MAX_FILE_BYTES: Final = 256 * 2**20


def read_bundle_files(path: Path) -> tuple[dict[str, Any], dict[str, bytes], str]:
    """Read and verify a bundle's folder: manifest, contents by file name, digest of the manifest.

    Raises:
        BundleInvalid: A file is missing, unknown, no plain file, altered, or of another format.
    """
    _require_exact_files(path)
    raw = _read(path / MANIFEST)
    manifest = _parse_manifest(raw)
    contents = {name: _read(path / name) for name in FILES}
    for name, content in contents.items():
        expected = manifest["files"][name]
        if hashlib.sha256(content).hexdigest() != expected:
            raise BundleInvalid(
                f"{name} was altered: its checksum does not match", field=name, allowed=expected
            )
    if (path / CARD).exists():
        contents[CARD] = _read(path / CARD)
    return manifest, contents, hashlib.sha256(raw).hexdigest()


def manifest_bytes(sections: Mapping[str, Any]) -> bytes:
    """Return the manifest as bytes, with its own checksum; `sections` holds everything but that."""
    return canonical({**sections, "checksum": hashlib.sha256(canonical(sections)).hexdigest()})


def encode_array(values: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Return a float32 array as JSON: shape and base64 of little-endian bytes, exact to the bit."""
    array = np.ascontiguousarray(values, dtype="<f4")
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode("ascii")}


def read_example(content: bytes) -> dict[str, Any]:
    """Return the example's arrays and numbers by name; raises `BundleInvalid` when it cannot be read."""
    try:
        document = json.loads(content)
        return {
            name: np.frombuffer(base64.b64decode(value["float32"]), dtype="<f4").reshape(value["shape"])
            if isinstance(value, dict)
            else value
            for name, value in document.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleInvalid(f"the example cannot be read: {error}", field=EXAMPLE) from error


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return a document as bytes that depend on its values alone; NaN is refused."""
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode()


def _require_exact_files(path: Path) -> None:
    """Refuse links, folders, and missing or unknown files; the card may be there or not."""
    if not path.is_dir():
        raise BundleInvalid("there is no bundle here", field="path", value=str(path))
    expected = {MANIFEST, *FILES}
    found = {entry.name: entry for entry in path.iterdir()}
    wrong = sorted(expected ^ (set(found) - {CARD}))
    if wrong:
        state = "missing" if wrong[0] in expected else "not part of a bundle"
        raise BundleInvalid(f"{wrong[0]} is {state}", field=wrong[0], allowed=", ".join(sorted(expected)))
    for name, entry in found.items():
        if entry.is_symlink() or not entry.is_file():
            raise BundleInvalid(f"{name} is not a plain file", field=name)
        if entry.stat().st_size > MAX_FILE_BYTES:
            raise BundleInvalid(f"{name} is too large", field=name, allowed=f"{MAX_FILE_BYTES} bytes")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleInvalid(f"cannot read {path.name}: {error.strerror}", field=path.name) from error


def _parse_manifest(raw: bytes) -> dict[str, Any]:
    """Return the manifest after checking its format, its sections and its own checksum."""
    try:
        manifest = json.loads(raw)
    except ValueError as error:
        raise BundleInvalid(f"{MANIFEST} is not JSON: {error}", field=MANIFEST) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        value = manifest.get("format") if isinstance(manifest, dict) else None
        raise BundleInvalid("the bundle has another format", field="format", value=value, allowed=FORMAT)
    if set(manifest) != set(SECTIONS):
        wrong = sorted(set(manifest) ^ set(SECTIONS))
        raise BundleInvalid(
            f"{MANIFEST} has missing or unknown sections", field=wrong[0], allowed=list(SECTIONS)
        )
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    if hashlib.sha256(canonical(body)).hexdigest() != manifest["checksum"]:
        raise BundleInvalid(f"{MANIFEST} was altered: its checksum does not match", field="checksum")
    if not isinstance(manifest["files"], dict) or set(manifest["files"]) != set(FILES):
        raise BundleInvalid(
            f"{MANIFEST} does not list the files of a bundle", field="files", allowed=list(FILES)
        )
    return manifest
