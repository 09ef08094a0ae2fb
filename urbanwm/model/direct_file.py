"""The direct forecast as a file of a bundle."""

from __future__ import annotations

import json

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from urbanwm.errors import BundleInvalid
from urbanwm.features import FeatureSpec
from urbanwm.features.calendar import HOURS_PER_DAY
from urbanwm.features.direct import DirectColumns, DirectForecast
from urbanwm.model.bundle_files import DIRECT

NAMES = "names"
BY_TARGET, SHARED = ("weights", "variance"), ("log_error", "error_weights")


def write_direct(direct: DirectForecast | None) -> bytes:
    """Return the file's content; without a direct forecast (the reference) it holds no arrays."""
    if direct is None:
        return save({})
    arrays = {name: getattr(direct, name) for name in SHARED}
    arrays |= {f"{name}.{i}": part for name in BY_TARGET for i, part in enumerate(getattr(direct, name))}
    names = np.frombuffer(json.dumps(direct.names).encode(), dtype=np.uint8)
    return save({NAMES: names, **{name: np.ascontiguousarray(array) for name, array in arrays.items()}})


def read_direct(content: bytes, spec: FeatureSpec) -> DirectForecast | None:
    """Return the direct forecast that a spec's windows need; None for the reference.

    Raises:
        BundleInvalid: It cannot be read, does not fit the spec, or holds a value that is not finite.
    """
    try:
        arrays = load(content)
        names = json.loads(arrays.pop(NAMES).tobytes()) if arrays else []
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleInvalid(f"the direct forecast cannot be read: {error}", field=DIRECT) from error
    if spec.kind == "reference":
        return None
    shapes = _shapes(len(names), spec)
    found = {name: array.shape for name, array in arrays.items()}
    if found != shapes or not names:
        raise BundleInvalid(
            "the direct forecast does not fit the feature spec", field=DIRECT, value=found, allowed=shapes
        )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise BundleInvalid("the direct forecast holds a value that is not finite", field=DIRECT)
    weights, variance = (tuple(arrays[f"{name}.{i}"] for i in range(len(spec.targets))) for name in BY_TARGET)
    return DirectForecast(tuple(names), weights, variance, *(arrays[name] for name in SHARED))


def _shapes(rows: int, spec: FeatureSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array."""
    columns, cells = DirectColumns(spec), (HOURS_PER_DAY, spec.horizon_hours)
    shapes: dict[str, tuple[int, ...]] = {
        "log_error": (rows, len(spec.targets), *cells),
        "error_weights": (len(spec.targets), columns.error_inputs),
    }
    for position, target in enumerate(spec.targets):
        width = sum(columns.groups(target))
        shapes |= {f"weights.{position}": (rows, *cells, width), f"variance.{position}": (rows, width, width)}
    return shapes
