"""The steps of a direct fit as files, so that several processes can share the cities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from urbanwm.training.direct_error import CityErrors, Excess
from urbanwm.training.direct_fit import CityFit, Shared, SharedTarget
from urbanwm.training.direct_sums import Sums
from urbanwm.training.regressions import Regression, Regressions
from urbanwm.whole_file import written_whole

Arrays = Mapping[str, NDArray[Any]]


def write_sums(path: Path, targets: list[Sums]) -> None:
    """Write each target's sums."""
    _write(path, {f"{name}.{i}": part for i, sums in enumerate(targets) for name, part in _fields(sums)})


def read_sums(path: Path, target: int) -> Sums:
    """Read one target's sums of what `write_sums` wrote, without the others'."""
    with safe_open(path, "np") as file:
        return Sums(*(file.get_tensor(f"{name}.{target}") for name in Sums._fields))


def write_shared(path: Path, shared: SharedTarget) -> None:
    """Write what all cities have in common in one target."""
    pooled = {f"pooled_{name}": part for name, part in _fields(shared.pooled)}
    unseen = {f"unseen_{name}": part for name, part in _fields(shared.unseen)}
    smoothing = np.array([shared.smoothing_hours])
    _write(path, {"penalty": shared.penalty, "smoothing_hours": smoothing, **pooled, **unseen})


def read_shared(paths: Iterable[Path]) -> Shared:
    """Read what `write_shared` wrote, one file per target."""
    return Shared.of([_shared(load_file(path)) for path in paths])


def write_city(path: Path, fit: CityFit) -> None:
    """Write one city's fit."""
    errors = {name: part for name, part in _fields(fit.errors) if name != "excess"}
    excess = {f"excess_{name}": part for name, part in _fields(fit.errors.excess)}
    _write(path, {**_of(fit.regressions), **errors, **excess})


def read_city(path: Path) -> CityFit:
    """Read what `write_city` wrote."""
    arrays = load_file(path)
    excess = Excess(*(arrays[f"excess_{name}"] for name in Excess._fields))
    errors = CityErrors(arrays["cells"], arrays["centre"], excess, arrays["strange"])
    return CityFit(_regressions(arrays, len(errors.cells)), errors)


def _shared(arrays: Arrays) -> SharedTarget:
    pooled, unseen = (
        Regression(*(arrays[f"{rows}_{name}"] for name in Regression._fields))
        for rows in ("pooled", "unseen")
    )
    return SharedTarget(arrays["penalty"], float(arrays["smoothing_hours"][0]), pooled, unseen)


def _fields(part: Sums | Regression | CityErrors | Excess) -> list[tuple[str, NDArray[Any]]]:
    return list(part._asdict().items())


def _of(regressions: Regressions) -> dict[str, NDArray[Any]]:
    return {
        f"{name}.{i}": part
        for name, of_targets in regressions._asdict().items()
        for i, part in enumerate(of_targets)
    }


def _regressions(arrays: Arrays, targets: int) -> Regressions:
    return Regressions(
        *(tuple(arrays[f"{name}.{i}"] for i in range(targets)) for name in Regressions._fields)
    )


def _write(path: Path, arrays: Arrays) -> None:
    """Write arrays; the file appears complete or not at all."""
    with written_whole(path) as draft:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, draft)
