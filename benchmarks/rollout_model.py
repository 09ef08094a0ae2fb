"""The same rollout as an MLflow model from code, for `benchmarks.serving`; loaded by `mlflow models serve`.

Its configuration: `project` and `home` are folders, `city` a name; with `remember` the nowcast is kept
between calls, as the service does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlflow
import orjson
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext


class Rollout(PythonModel):  # type: ignore[misc]  # mlflow comes without types
    """Answers each row's `body`, a request of `/api/simulate`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load bundle and data once."""
        options = context.model_config
        sys.path.insert(0, options["project"])
        home = Path(options["home"])
        self.answer = _remembering(home) if options["remember"] else _plain(home, options["city"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: object = None
    ) -> list[Any]:
        """Return one answer per row."""
        return [self.answer(orjson.loads(body)) for body in model_input["body"]]


def _remembering(home: Path) -> Any:  # noqa: ANN401 - a function of a request body
    """Answer as the service does."""
    from serving.answers import Answers
    from urbanwm.settings import load_settings

    answers = Answers.from_settings(load_settings(home=home))
    return lambda body: answers.simulate(body).document


def _plain(home: Path, city_name: str) -> Any:  # noqa: ANN401 - a function of a request body
    """Filter and roll out at every call."""
    from urbanwm.cities import load_city
    from urbanwm.contracts.scenario import Scenario, parse_strict
    from urbanwm.ingest import city_now
    from urbanwm.lake import Lake
    from urbanwm.model.bundle import Bundle
    from urbanwm.settings import load_settings
    from urbanwm.simulator import WorldModelForecaster, simulate, to_response

    settings = load_settings(home=home)
    city, lake = load_city(city_name, settings), Lake(settings.lake_uri)
    history, now = lake.read(city_name), city_now(city, lake)
    forecaster = WorldModelForecaster(Bundle.load(home / "bundle"))
    return lambda body: to_response(
        simulate(parse_strict(Scenario, body), city, history, forecaster, now=now)
    )


mlflow.models.set_model(Rollout())
