"""What explains the candidates' scores, stored under their runs: pictures, behaviour, model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from urbanwm.figures import error_by_lead, forecast_fan
from urbanwm.pipeline.evaluation import CHALLENGER, log_evaluation
from urbanwm.pipeline.forecasts import read_tables
from urbanwm.pipeline.outcome import Trained
from urbanwm.pipeline.train_job import TrainJob
from urbanwm.registry import Registry, RunLog
from urbanwm.spread import Spread, require_all

FANS_PER_CITY: Final = 2


@dataclass(frozen=True)
class ExplainJob:
    """What explains a candidate's scores, to be stored under its run; can be done in another process.

    Attributes:
        job: What was trained.
        trained: As `train_candidate` left it.
        folder: Holds the forecasts, see `held_out_tables`.
        tables: Name of each table for the candidate → its name in the folder.
        failures: What the behaviour suite found.
        champion: The version whose forecasts the table "champion" holds, or None.
    """

    job: TrainJob
    trained: Trained
    folder: Path
    tables: Mapping[str, str]
    failures: Sequence[str]
    champion: str | None = None

    def read(self, cities: Sequence[str]) -> dict[str, pd.DataFrame]:
        """Return the tables of some cities, by their name for the candidate."""
        return {name: read_tables(self.folder / stored, cities) for name, stored in self.tables.items()}

    @property
    def run(self) -> RunLog:
        """Return the candidate's run."""
        return Registry(self.job.settings).run_log(self.trained.run_id)


@dataclass(frozen=True)
class PicturesJob:
    """One city's pictures of a candidate's forecasts."""

    work: ExplainJob
    city: str


def explain(candidates: Sequence[ExplainJob], spread: Spread) -> None:
    """Store what explains the candidates' scores; the cities' pictures are pieces of their own."""
    # One set of pieces: while a worker writes the only candidate's card, the others draw.
    pieces: list[ExplainJob | PicturesJob] = list(candidates)
    pieces += [PicturesJob(work, city) for work in candidates for city in work.job.window["cities"]]
    require_all(spread("explain", explain_piece, pieces))


def explain_piece(piece: ExplainJob | PicturesJob) -> str:
    """Do one piece, whichever it is."""
    return explain_candidate(piece) if isinstance(piece, ExplainJob) else draw_city(piece)


def draw_city(picture: PicturesJob) -> str:
    """Store one city's pictures under the candidate's run, and return the city's name."""
    work, city = picture.work, picture.city
    run, tables = work.run, work.read([city])
    run.log_figure(error_by_lead(tables), f"figures/{city}/error_by_lead.png")
    origins = sorted(tables[CHALLENGER]["origin"].unique())
    for origin in map(pd.Timestamp, origins[:: max(1, len(origins) // FANS_PER_CITY)][:FANS_PER_CITY]):
        figure = forecast_fan(tables[CHALLENGER], city, origin, work.trained.experiment)
        run.log_figure(figure, f"figures/{city}/forecast_{origin:%Y-%m-%d}.png")
    return city


def explain_candidate(work: ExplainJob) -> str:
    """Store forecasts, behaviour and the card under the candidate's run, and return the run's id."""
    plan = work.job.plan()
    tables = work.read(list(plan.data.records))
    log_evaluation(plan, work.run, tables, work.trained, work.champion, work.failures)
    return work.trained.run_id
