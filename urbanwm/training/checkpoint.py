"""Checkpoints: one safetensors file each, written atomically, with all that a continuation needs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = 1
BEST, FINAL = "best.safetensors", "final.safetensors"
PERIODIC = "step-*.safetensors"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by dotted name and a JSON document, from one file."""

    tensors: dict[str, Tensor]
    document: dict[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under `prefix.`, without it."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)
        }


def periodic_path(directory: Path, step: int) -> Path:
    """Return where the resumable checkpoint of a step lies."""
    return directory / f"step-{step:06d}.safetensors"


def write_checkpoint(
    path: Path, groups: Mapping[str, Mapping[str, Tensor]], document: Mapping[str, Any]
) -> None:
    """Write a checkpoint so that a reader, also after kill -9, sees the old file or the new one.

    Args:
        path: Target file; its folder is made.
        groups: Tensors by group and name; stored on the CPU under `group.name`.
        document: JSON-able state, stored in the header of the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{group}.{name}": value.detach().cpu().contiguous()
        for group, members in groups.items()
        for name, value in members.items()
    }
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial, metadata={"document": json.dumps({"format": FORMAT, **document})})
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; raises `ValueError` when it is not one or of another format."""
    try:
        with safe_open(path, framework="pt") as opened:
            document = json.loads((opened.metadata() or {})["document"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"not a checkpoint: {path.name}: {error}") from error
    if document.get("format") != FORMAT:
        raise ValueError(f"checkpoint {path.name} has format {document.get('format')}, expected {FORMAT}")
    return Checkpoint(tensors, document)


def latest_checkpoint(directory: Path) -> Checkpoint | None:
    """Return the newest readable periodic checkpoint; an unreadable one is logged and skipped."""
    for path in sorted(directory.glob(PERIODIC), reverse=True):
        try:
            return read_checkpoint(path)
        except ValueError as error:
            _LOG.warning("skipping %s", error)
    return None


def prune_periodic(directory: Path, keep: int) -> None:
    """Delete all but the newest periodic checkpoints."""
    for path in sorted(directory.glob(PERIODIC))[:-keep]:
        path.unlink()
