"""The direct forecast of a night: fitted once for all candidates, the cities spread over the workers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from urbanwm.features import CitySeries, FeatureSpec
from urbanwm.features.direct import DirectColumns
from urbanwm.pipeline.data import NightData, read_window
from urbanwm.pipeline.plan import Plan, training_series, training_spec, untrained
from urbanwm.pipeline.spread import Spread, require_all
from urbanwm.provenance import document_hash
from urbanwm.registry import Registry
from urbanwm.settings import Settings
from urbanwm.whole_file import written_whole

if TYPE_CHECKING:
    from urbanwm.training.direct_error import DirectFit

GROUPS: Final = 8
"""Parts in which the cities' sums are made, whatever the number of workers: one file of 300 MB each."""
SPEC_FILE: Final = "spec.json"
SHARED_FILE: Final = "shared.safetensors"


@dataclass(frozen=True)
class FitJob:
    """Some cities of a night, for one step of the fit; it names its data, and reads them where it runs.

    Attributes:
        settings: Where the lake is.
        window: As `NightData.window` describes it.
        cities: Which of its cities.
        folder: Of the spec and of what the steps leave.
        out: What this one leaves there.
    """

    settings: Settings
    window: Mapping[str, Any]
    cities: tuple[str, ...]
    folder: Path
    out: str

    @property
    def path(self) -> Path:
        """Return the file that this step leaves."""
        return self.folder / self.out

    @property
    def spec(self) -> FeatureSpec:
        """Return what the columns mean."""
        return FeatureSpec.from_dict(json.loads((self.folder / SPEC_FILE).read_text("utf-8")))

    def series(self) -> dict[str, CitySeries]:
        """Return the training rows of its cities: the same version of the lake, the same hours."""
        return training_series(read_window(self.window, self.settings, self.cities), self.spec)


def fit_together(
    settings: Settings,
    registry: Registry,
    data: NightData,
    plans: Sequence[Plan],
    folder: Path,
    spread: Spread,
) -> dict[str, Path]:
    """Fit the direct forecast that several candidates share, or several cities make long.

    What is done already, also by a process that was killed, is not done again. One city's only candidate is
    left to its training.

    Args:
        settings: Where everything is.
        registry: Knows which candidates are trained already.
        data: The night's data.
        plans: The candidates'.
        folder: Keeps the parts until the night is over.
        spread: Runs the pieces.

    Returns:
        Key of a plan → where `read_fit` finds its fit.
    """
    due = [plan for plan in untrained(settings, registry, plans) if plan.experiment.model.kind == "urban"]
    if len(data.records) * len(due) < 2:
        return {}
    specs = {plan.key: training_spec(plan) for plan in due}
    folders = {key: folder / f"direct-{document_hash(spec.to_dict())}" for key, spec in specs.items()}
    for own, spec in {folders[key]: spec for key, spec in specs.items()}.items():
        with written_whole(own / SPEC_FILE) as draft:
            draft.write_text(json.dumps(spec.to_dict()), "utf-8")
        _fit(FitJob(settings, data.window(), tuple(data.records), own, SHARED_FILE), spread)
    return folders


def _fit(everything: FitJob, spread: Spread) -> None:
    """Add the cities up in groups, share what that says, and fit each city."""
    names = everything.cities
    parts = [
        replace(everything, cities=names[group::GROUPS], out=out) for group, out in enumerate(_sums(names))
    ]
    if not everything.path.is_file():
        require_all(spread("add up", add_up, parts))
    require_all(spread("share", share_out, [everything]))
    require_all(
        spread("fit", fit_one, [replace(everything, cities=(name,), out=_city(name)) for name in names])
    )


def add_up(job: FitJob) -> Path:
    """Write the sums over some cities."""
    from urbanwm.training.direct_fit import add_sums, pooled_windows
    from urbanwm.training.direct_parts import write_sums

    if not job.path.is_file():
        most = pooled_windows(len(job.window["cities"]))
        write_sums(job.path, add_sums(job.series().values(), DirectColumns(job.spec), most))
    return job.path


def share_out(job: FitJob) -> Path:
    """Write what all the sums say together, and remove them."""
    from urbanwm.training.direct_fit import share
    from urbanwm.training.direct_parts import read_sums, write_shared
    from urbanwm.training.direct_sums import total_of

    files = [job.folder / name for name in _sums(job.cities)]
    if not job.path.is_file():
        write_shared(job.path, share(total_of(map(read_sums, files)), DirectColumns(job.spec)))
    for file in files:
        file.unlink(missing_ok=True)
    return job.path


def fit_one(job: FitJob) -> Path:
    """Write one city's fit."""
    from urbanwm.training.direct_fit import fit_city
    from urbanwm.training.direct_parts import read_shared, write_city

    if not job.path.is_file():
        shared = read_shared(job.folder / SHARED_FILE)
        (city,) = job.series().values()
        alone = len(job.window["cities"]) == 1
        write_city(job.path, fit_city(city, DirectColumns(job.spec), shared, alone=alone))
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

    fits = {name: read_city(folder / _city(name)) for name in series}
    return join(series, DirectColumns(spec), read_shared(folder / SHARED_FILE), fits)


def _sums(cities: Sequence[str]) -> list[str]:
    """Return the file of each group's sums."""
    return [f"sums-{group}.safetensors" for group in range(min(GROUPS, len(cities)))]


def _city(name: str) -> str:
    return f"city-{name}.safetensors"
