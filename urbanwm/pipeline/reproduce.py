"""Doing a recorded training again: same data, same configuration, same seed; do the figures agree?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from urbanwm.clock import Clock, utc_now
from urbanwm.errors import BadInput
from urbanwm.model.config import parse_experiment
from urbanwm.pipeline.data import NightData, read_window
from urbanwm.pipeline.evaluation import CHALLENGER
from urbanwm.pipeline.fit import fit
from urbanwm.pipeline.forecasts import YARDSTICKS, held_out_tables
from urbanwm.pipeline.judge import RUN_PREFIX, score_metrics
from urbanwm.pipeline.plan import EXPERIMENT_FILE, KEY_TAG, Candidate, plan_candidate
from urbanwm.pipeline.progress import Progress, silent
from urbanwm.pipeline.training_log import WINDOW_FILE
from urbanwm.provenance import collect_provenance, document_hash
from urbanwm.registry import START_TAG, FoundRun, Registry, read_run
from urbanwm.settings import Settings
from urbanwm.spread import serial

TOLERANCE: Final = 0.01
"""Relative difference of a held-out score that still counts as the same result. On one machine, with the same
packages, a repetition gives the same bits; another CPU rounds otherwise, and 250 steps enlarge that."""
COMPARED: Final = "test/"
CODE_TAGS: Final = ("git_sha", "lock_hash", "python")


@dataclass(frozen=True)
class Reproduction:
    """What doing a training again showed.

    Attributes:
        run_id: The run that was done again.
        agrees: Whether the data are the same and every score agrees within the tolerance.
        tolerance: Relative difference that is allowed.
        reasons: Why not, or what differed without harm, one sentence each.
        data: "same", or what differs.
        code: What differs between the code that made the run and this one: name → then, now.
        metrics: Score → then, now, relative difference.
        worst: The largest relative difference.
        identical_weights: Whether the trained weights are the same to the bit.
    """

    run_id: str
    agrees: bool
    tolerance: float
    reasons: list[str]
    data: str
    code: dict[str, dict[str, str]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    worst: float | None = None
    identical_weights: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def reproduce(
    settings: Settings,
    run: str,
    *,
    tolerance: float = TOLERANCE,
    clock: Clock = utc_now,
    say: Progress = silent,
) -> Reproduction:
    """Rebuild a run's data, check the code, train again, and compare the held-out scores.

    Nothing is recorded: the training happens in a temporary folder.

    Args:
        settings: Where lake and registry are.
        run: Run id, `runs:/ID`, or a registered version's number.
        tolerance: Largest relative difference of a score.
        clock: Handed to the registry.
        say: Told each step as it begins.

    Raises:
        BadInput: There is no such run, or it trained nothing.
        DataUnavailable: That version of the lake is gone (vacuumed).
    """
    registry = Registry(settings, clock)
    found = _training_run(registry, run)
    code = _code_differences(found)
    reasons = [f"{name} was {both['then']}, is {both['now']}" for name, both in code.items()]
    with tempfile.TemporaryDirectory(prefix="urbanwm-reproduce-") as scratch:
        folder = Path(scratch)
        say("reading the data")
        window = _fetch_json(registry, found.run_id, WINDOW_FILE, folder)
        records = read_window(window, settings)
        data = NightData(settings.lake_uri, int(window["lake_version"]), records, {})
        digest = document_hash(data.digests)
        if digest != found.tags.get("data_digest"):
            sentence = f"the data differ: digest {digest}, was {found.tags.get('data_digest')}"
            return Reproduction(found.run_id, False, tolerance, [sentence, *reasons], sentence, code)
        say("training again")
        bundle = _train_again(registry, found, data, folder)
        say("forecasting from held-out origins")
        models = {CHALLENGER: str(bundle), **{name: name for name in YARDSTICKS}}
        now = score_metrics(held_out_tables(settings, window, models, folder / "tables", serial))
        identical = _same_weights(registry, found, bundle, folder)
    compared = _compare(found.metrics, now)
    worst = max((row["relative"] for row in compared.values()), default=float("inf"))
    beyond = [name for name, row in compared.items() if row["relative"] > tolerance]
    reasons = [
        *(f"{name}: {compared[name]['then']:.6g} then, {compared[name]['now']:.6g} now" for name in beyond),
        *reasons,
    ]
    agrees = bool(compared) and not beyond
    return Reproduction(found.run_id, agrees, tolerance, reasons, "same", code, compared, worst, identical)


def _training_run(registry: Registry, run: str) -> FoundRun:
    """Return the run that is meant."""
    run_id = run.removeprefix(RUN_PREFIX).partition("/")[0]
    registry.require_existing()
    if run_id.isdecimal():
        run_id = registry.version(run_id).run_id
    found = read_run(registry, run_id)
    if KEY_TAG not in found.tags:
        raise BadInput("this run trained no model", field="run", value=run, allowed="the run of a candidate")
    return found


def _code_differences(found: FoundRun) -> dict[str, dict[str, str]]:
    """Compare commit, lock file, Python and packages with those of the run."""
    present = collect_provenance().tags()
    names = [*CODE_TAGS, *(name for name in present if name.startswith("package."))]
    differing = {
        name: {"then": found.tags[name], "now": present[name]}
        for name in names
        if name in found.tags and found.tags[name] != present[name]
    }
    for moment, tags in (("then", found.tags), ("now", present)):
        if tags.get("git_dirty") == "true":
            differing.setdefault("uncommitted changes", {"then": "no", "now": "no"})[moment] = "yes"
    return differing


def _train_again(registry: Registry, found: FoundRun, data: NightData, folder: Path) -> Path:
    """Train with the run's configuration, seed and start, and return the folder of the bundle."""
    experiment = parse_experiment(_fetch_json(registry, found.run_id, EXPERIMENT_FILE, folder))
    start = found.tags.get(START_TAG)
    digest = "" if start is None else registry.version(start).digest
    plan = plan_candidate(Candidate(experiment.name, experiment, start, digest), data)
    return fit(plan, folder / "training", registry, found.run_id).bundle


def _fetch_json(registry: Registry, run_id: str, path: str, folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(registry.fetch(run_id, path, folder).read_text("utf-8"))
    return document


def _same_weights(registry: Registry, found: FoundRun, bundle: Path, folder: Path) -> bool:
    """Return whether the stored weights are those that were trained now, to the bit."""
    from urbanwm.model.bundle_files import WEIGHTS

    stored = registry.fetch(found.run_id, f"bundle/{WEIGHTS}", folder)
    return stored.read_bytes() == (bundle / WEIGHTS).read_bytes()


def _compare(then: Mapping[str, float], now: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Set the candidate's own scores beside each other."""
    return {
        name: {
            "then": then[name],
            "now": value,
            "relative": abs(value - then[name]) / max(abs(then[name]), 1e-12),
        }
        for name, value in now.items()
        if name.startswith(COMPARED) and name in then
    }
