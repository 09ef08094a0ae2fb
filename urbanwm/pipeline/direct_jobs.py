"""The direct forecast of a night: fitted once for all candidates, the cities spread over the workers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from urbanwm.features import CitySeries, FeatureSpec
from urbanwm.features.direct import DirectColumns
from urbanwm.pipeline.data import NightData, read_window
from urbanwm.pipeline.plan import Plan, training_series, training_spec
from urbanwm.provenance import document_hash
from urbanwm.settings import Settings
from urbanwm.spread import Spread, require_all
from urbanwm.whole_file import written_whole

if TYPE_CHECKING:
    from urbanwm.training.direct_error import DirectFit

GROUPS: Final = 8
"""Most parts in which the cities' sums are made, whatever the number of workers: one file of 300 MB each."""
CITIES_PER_GROUP: Final = 2
"""At least: writing and reading a part takes half as long as adding up a year of one city."""
SPEC_FILE: Final = "spec.json"
FIRST, SHARED = "first", "shared"
"""How files of what all cities have in common begin: at first sight, and for good."""


@dataclass(frozen=True)
class FitJob:
    """Some cities of a night, for a step of the fit on them; it names its data, and reads them where it runs.

    Attributes:
        settings: Where the lake is.
        window: As `NightData.window` describes it.
        cities: Which of its cities.
        folder: Of the spec and of what the steps leave.
        out: What this one leaves there.
        shared: Files of what all cities have in common, target by target, as far as it is known.
    """

    settings: Settings
    window: Mapping[str, Any]
    cities: tuple[str, ...]
    folder: Path
    out: str
    shared: tuple[Path, ...] = ()

    @property
    def path(self) -> Path:
        """Return the file that this step leaves."""
        return self.folder / self.out

    @property
    def columns(self) -> DirectColumns:
        """Return what the columns mean."""
        return _columns(self.folder)

    def series(self) -> dict[str, CitySeries]:
        """Return the training rows of its cities: the same version of the lake, the same hours."""
        return training_series(read_window(self.window, self.settings, self.cities), self.columns.spec)


@dataclass(frozen=True)
class ShareJob:
    """One target of a night's fit, for what all cities say together of it.

    Attributes:
        sums: The files of all groups.
        target: Its place in the spec.
        path: The file that this leaves, in the folder of the spec.
        chosen: Whether penalties are chosen.
    """

    sums: tuple[Path, ...]
    target: int
    path: Path
    chosen: bool


def fit_together(
    settings: Settings, data: NightData, plans: Sequence[Plan], folder: Path, spread: Spread
) -> dict[str, Path]:
    """Fit the direct forecast that several candidates share, or several cities make long.

    What is done already, also by a process that was killed, is not done again. One city's only candidate is
    left to its training.

    Args:
        settings: Where the lake is.
        data: The night's data.
        plans: Those of candidates that are to be trained.
        folder: Keeps the parts until the night is over.
        spread: Runs the pieces.

    Returns:
        Key of a plan → where `read_fit` finds its fit.
    """
    due = [plan for plan in plans if plan.experiment.model.kind == "urban"]
    if len(data.records) * len(due) < 2:
        return {}
    specs = {plan.key: training_spec(plan) for plan in due}
    folders = {key: folder / f"direct-{document_hash(spec.to_dict())}" for key, spec in specs.items()}
    for own, spec in {folders[key]: spec for key, spec in specs.items()}.items():
        with written_whole(own / SPEC_FILE) as draft:
            draft.write_text(json.dumps(spec.to_dict()), "utf-8")
        _fit(settings, data.window(), own, spread)
    return folders


def _fit(settings: Settings, window: Mapping[str, Any], folder: Path, spread: Spread) -> None:
    """Find what all cities have in common, roughly at first; then fit each city."""
    names, columns = tuple(window["cities"]), _columns(folder)
    groups = min(GROUPS, -(-len(names) // CITIES_PER_GROUP))
    first, shared = (_shared(folder, columns, stem) for stem in (FIRST, SHARED))
    due = not _whole(shared)
    for stem, known, paths in ((FIRST, (), first), (SHARED, first, shared)):
        parts = [
            FitJob(settings, window, names[group::groups], folder, f"{stem}-sums-{group}.safetensors", known)
            for group in range(groups)
        ]
        sums = tuple(job.path for job in parts)
        if due and not _whole(paths):
            require_all(spread("add up", add_up, parts))
            chosen = stem == SHARED
            shares = [ShareJob(sums, target, path, chosen) for target, path in enumerate(paths)]
            require_all(spread("share", share_out, shares))
        for file in sums:
            file.unlink(missing_ok=True)
    for file in first:
        file.unlink(missing_ok=True)
    jobs = [FitJob(settings, window, (name,), folder, _city(name), shared) for name in names]
    require_all(spread("fit", fit_one, jobs))


def _whole(paths: Sequence[Path]) -> bool:
    """Tell whether a step left all of its files."""
    return all(path.is_file() for path in paths)


def add_up(job: FitJob) -> Path:
    """Write the sums over some cities."""
    from urbanwm.training.direct_fit import add_sums, pooled_windows
    from urbanwm.training.direct_parts import read_shared, write_sums

    if not job.path.is_file():
        most = pooled_windows(len(job.window["cities"]))
        first = read_shared(job.shared) if job.shared else None
        write_sums(job.path, add_sums(job.series().values(), job.columns, most, first))
    return job.path


def share_out(job: ShareJob) -> Path:
    """Write what all the sums say together of one target."""
    from urbanwm.training.direct_fit import share
    from urbanwm.training.direct_parts import read_sums, write_shared
    from urbanwm.training.direct_sums import total_of

    if not job.path.is_file():
        (total,) = total_of([read_sums(file, job.target)] for file in job.sums)
        columns = _columns(job.path.parent)
        write_shared(job.path, share(total, columns, job.target, chosen=job.chosen))
    return job.path


def fit_one(job: FitJob) -> Path:
    """Write one city's fit."""
    from urbanwm.training.direct_fit import fit_city
    from urbanwm.training.direct_parts import read_shared, write_city

    if not job.path.is_file():
        (city,) = job.series().values()
        alone = len(job.window["cities"]) == 1
        write_city(job.path, fit_city(city, job.columns, read_shared(job.shared), alone=alone))
    return job.path


def read_fit(folder: Path, series: Mapping[str, CitySeries], spec: FeatureSpec) -> DirectFit:
    """Put together what `fit_together` left.

    Args:
        folder: As it named it.
        series: Training rows of every city.
        spec: What their columns mean.
    """
    from urbanwm.training.direct_fit import join
    from urbanwm.training.direct_parts import read_city, read_shared

    columns = DirectColumns(spec)
    fits = {name: read_city(folder / _city(name)) for name in series}
    return join(series, columns, read_shared(_shared(folder, columns, SHARED)), fits)


def _columns(folder: Path) -> DirectColumns:
    """Read what the columns mean."""
    return DirectColumns(FeatureSpec.from_dict(json.loads((folder / SPEC_FILE).read_text("utf-8"))))


def _shared(folder: Path, columns: DirectColumns, stem: str) -> tuple[Path, ...]:
    """Return the file of what all cities have in common, for each target."""
    return tuple(folder / f"{stem}-{target}.safetensors" for target in columns.spec.targets)


def _city(name: str) -> str:
    return f"city-{name}.safetensors"
