"""One MLflow run being written: parameters, metrics, lineage, figures and files."""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from urbanwm.clock import Clock
from urbanwm.registry.connection import translated

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from pandas import DataFrame

MAX_TAG_CHARACTERS: Final = 5000
MAX_METRICS_PER_BATCH: Final = 1000


class RunLog:
    """A run that is open for writing; a context manager that ends it as finished, failed or killed.

    Metrics are sent in batches (a call costs 15 ms on SQLite, whatever its size). A metric that is not finite
    is left out: the city has no such signal, and MLflow's charts treat a NaN as a value.
    """

    def __init__(self, client: MlflowClient, run_id: str, tracking_uri: str, clock: Clock) -> None:
        """Write to the existing run `run_id`."""
        self._client = client
        self._tracking_uri = tracking_uri
        self._clock = clock
        self.run_id = run_id

    def _logging(self, what: str) -> AbstractContextManager[None]:
        """Name the failure of a store while `what` is logged."""
        return translated(self._tracking_uri, f"log {what}")

    def __enter__(self) -> RunLog:
        """Start writing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run; an error is noted on it and goes on to the caller."""
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """End the run: finished, or failed or killed by `error`, which is noted on it."""
        if error is None:
            status = "FINISHED"
        else:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            self.set_tags({"error": f"{type(error).__name__}: {error}"})
        with self._logging("the end of the run"):
            self._client.set_terminated(self.run_id, status=status)

    @contextmanager
    def ended_by_failure(self) -> Iterator[RunLog]:
        """Leave the run open for a later step, unless this one fails."""
        try:
            yield self
        except BaseException as error:
            # An interrupt too: a run that nobody works on must not stay "running".
            self.end(error)
            raise

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Note `tags` on the run; long values are cut to what every store accepts."""
        from mlflow.entities import RunTag

        entries = [RunTag(key, str(value)[:MAX_TAG_CHARACTERS]) for key, value in tags.items()]
        with self._logging("tags"):
            self._client.log_batch(self.run_id, tags=entries)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log flat parameters."""
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items()]
        with self._logging("parameters"):
            self._client.log_batch(self.run_id, params=entries)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log one set of metrics at `step`."""
        self.log_history([(step, metrics)])

    def log_history(self, history: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Log many steps in as few calls as possible."""
        from mlflow.entities import Metric

        stamp_ms = int(self._clock().timestamp() * 1000)
        entries = [
            Metric(key, float(value), stamp_ms, step)
            for step, metrics in history
            for key, value in metrics.items()
            if math.isfinite(value)
        ]
        with self._logging("metrics"):
            for start in range(0, len(entries), MAX_METRICS_PER_BATCH):
                batch = entries[start : start + MAX_METRICS_PER_BATCH]
                self._client.log_batch(self.run_id, metrics=batch)

    def log_dataset(
        self, frame: DataFrame, *, name: str, uri: str, version: int, digest: str, context: str = "training"
    ) -> None:
        """Record that the run read `frame` from version `version` of the Delta table at `uri`."""
        from mlflow.data.delta_dataset_source import DeltaDatasetSource
        from mlflow.data.pandas_dataset import from_pandas
        from mlflow.entities import Dataset, DatasetInput, InputTag

        with warnings.catch_warnings():
            # MLflow warns that integer columns cannot hold missing values; ours are floats and times.
            warnings.simplefilter("ignore")
            dataset = from_pandas(
                frame.reset_index(),
                source=DeltaDatasetSource(path=uri, delta_table_version=version),
                name=name,
                digest=digest,
            )
            entity = Dataset.from_dictionary(dataset.to_dict())
        tags = [InputTag("mlflow.data.context", context)]
        with self._logging("lineage"):
            self._client.log_inputs(self.run_id, [DatasetInput(entity, tags)])

    def log_figure(self, figure: Figure, path: str) -> None:
        """Store a matplotlib figure as an image under the run."""
        with self._logging(path):
            self._client.log_figure(self.run_id, figure, path)

    def log_json(self, document: Mapping[str, Any], path: str) -> None:
        """Store a document as JSON under the run."""
        text = json.dumps(document, indent=2, sort_keys=True, default=str)
        with self._logging(path):
            self._client.log_text(self.run_id, text, path)

    def log_text(self, text: str, path: str) -> None:
        """Store a text under the run."""
        with self._logging(path):
            self._client.log_text(self.run_id, text, path)

    def log_frame(self, frame: DataFrame, path: str) -> None:
        """Store a table as Parquet under the run."""
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / name
            frame.to_parquet(target, index=False)
            with self._logging(path):
                self._client.log_artifact(self.run_id, str(target), folder or None)

    def log_folder(self, folder: Path, path: str) -> None:
        """Store all files below `folder` under `path` of the run."""
        with self._logging(path):
            self._client.log_artifacts(self.run_id, str(folder), path)
