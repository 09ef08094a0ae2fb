"""Every environment variable, its default and its unit; the only module that touches the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from urbanwm.errors import BadInput

PROJECT_ROOT = Path(__file__).resolve().parent.parent
BUILT_IN_CITIES = Path(__file__).resolve().parent / "city_files"


class Settings(BaseSettings):
    """The configuration of one process.

    Values come from the environment, then a `.env` file in the working directory, then the defaults.
    Keys are `SecretStr`: they show as `**********` in logs, reprs and tracebacks.
    """

    model_config = SettingsConfigDict(env_prefix="URBANWM_", env_file=".env", extra="ignore", frozen=True)

    home: Path = Field(default=PROJECT_ROOT / ".urbanwm")
    """All state: lake, raw archive, tracking database, artifacts, champion cache, Prefect's database."""
    cities_dir: Path = Field(default=BUILT_IN_CITIES, validation_alias="URBANWM_CITIES")
    """Folder of city YAML files, in place of the built-in ones."""
    nightly_cities: Annotated[list[str], NoDecode] = Field(default=[])
    """Cities of the nightly run, comma-separated; empty: `demo`, or every city of URBANWM_CITIES."""
    port: int = Field(default=3000, ge=1, le=65535)
    """TCP port of the service."""
    host: str = Field(default="127.0.0.1")
    """Address the service binds to; 0.0.0.0 inside a container."""
    lake_uri_override: str | None = Field(default=None, validation_alias="URBANWM_LAKE_URI")
    """URI of the observations table (s3://… or a path); default `<home>/lake/observations`."""
    s3_endpoint_url: str | None = Field(default=None, validation_alias="AWS_ENDPOINT_URL")
    """S3-compatible endpoint, when it is not AWS."""
    tracking_uri_override: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
    """MLflow tracking and registry; default SQLite under `<home>/mlflow`."""
    prefect_api_url: str | None = Field(default=None, validation_alias="PREFECT_API_URL")
    """Prefect server; unset: a flow starts an ephemeral one under `<home>/prefect`."""
    waqi_token: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("WAQI_TOKEN", "WAQI_API_TOKEN")
    )
    eia_api_key: SecretStr | None = Field(default=None, validation_alias="EIA_API_KEY")
    entsoe_api_key: SecretStr | None = Field(default=None, validation_alias="ENTSOE_API_KEY")
    openaq_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAQ_API_KEY")
    tomtom_api_key: SecretStr | None = Field(default=None, validation_alias="TOMTOM_API_KEY")
    api_key: SecretStr | None = Field(default=None)
    """Key of the service; required by /api/retrain, which is refused while no key is set."""
    protect_reads: bool = Field(default=False)
    """Whether every /api route, not only retrain, asks for the key."""
    experiment: str = Field(default="urban")
    """Experiment of the nightly run: a name under `urbanwm/configs` or a YAML path."""
    training_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps, in place of the experiment's."""
    candidates: Annotated[list[str], NoDecode] = Field(default=[])
    """What a night trains, comma-separated: `EXPERIMENT`, `EXPERIMENT@SEED`, `warm` (from the champion),
    `search` (the best of a search); empty: the experiment above and `warm`."""
    warm_start_steps: int = Field(default=50, ge=1)
    """Optimiser steps of a candidate that starts from the champion's weights."""
    search_minutes: float = Field(default=0.0, ge=0)
    """Time of the night's search for better settings, minutes; 0: none."""
    retrain_every_nights: int = Field(default=1, ge=1)
    """Nights from one training to the next; the nights between pull data, watch and report."""
    rollback_after_days: int = Field(default=3, ge=0)
    """Days in a row with live forecasts worse than the baseline's after which the previous champion returns;
    0: never."""
    night_workers: int = Field(default_factory=lambda: min(2, os.cpu_count() or 1), ge=1)
    """Candidates and backtests worked on at the same time, each in a process of its own that wants a core and
    1 to 2 GB; default: two, or one on a single core."""
    history_days: int = Field(default=400, ge=14)
    """Days fetched for a city that has no data yet."""
    poll_seconds: float = Field(default=10.0, gt=0)
    """How often the service looks for a new champion, seconds."""
    request_timeout_seconds: float = Field(default=30.0, gt=0)
    """Deadline of one simulation, seconds."""
    task_runner: Literal["threads", "dask"] = Field(default="threads")
    """What the flows run a night's cities on: threads of one process, or a Dask cluster (extra `dask`)."""
    workers: int = Field(default=4, ge=1, le=256)
    """Cities fetched at the same time: threads, or processes of a local Dask cluster."""
    dask_scheduler: str | None = Field(default=None)
    """Address of a running Dask scheduler (tcp://host:8786) whose workers have one thread each, since torch's
    random numbers belong to a process; unset: a local cluster for the run."""
    gate_margin: float = Field(default=0.02, ge=0, le=0.5)
    """Relative loss on one signal that still counts as "not worse" at promotion."""
    gate_confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence with which a challenger must be better."""
    alert_webhook_url: SecretStr | None = Field(default=None)
    """Where alerts are posted as JSON; secret, since such addresses carry their own token."""
    alert_repeat_days: float = Field(default=7.0, gt=0)
    """Days after which an alert that still holds is told again."""
    otlp_endpoint: str | None = Field(default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """OpenTelemetry collector (OTLP over HTTP) that the service's traces go to; unset: nothing is traced."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO")

    @field_validator("home", "cities_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        """Resolve against the working directory once, so that a later chdir cannot move the state."""
        return value.expanduser().resolve()

    @field_validator("nightly_cities", "candidates", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Read a comma-separated list."""
        if isinstance(value, str):
            return [name.strip() for name in value.split(",") if name.strip()]
        return value

    @property
    def lake_uri(self) -> str:
        """URI of the observations table."""
        return self.lake_uri_override or str(self.home / "lake" / "observations")

    @property
    def lake_forecasts_uri(self) -> str:
        """URI of the table of the upstreams' forecasts, beside that of the observations."""
        override = self.lake_uri_override
        return f"{override.rstrip('/')}-forecasts" if override else str(self.home / "lake" / "forecasts")

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking URI, always absolute."""
        return self.tracking_uri_override or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def artifacts_dir(self) -> Path:
        """Where MLflow keeps artifacts when it tracks into the local database."""
        return self.home / "mlflow" / "artifacts"

    @property
    def raw_dir(self) -> Path:
        """Raw archive: every upstream answer as received."""
        return self.home / "raw"

    @property
    def cache_dir(self) -> Path:
        """Champion cache of the service."""
        return self.home / "champion"

    @property
    def runs_dir(self) -> Path:
        """Working folders of training runs: checkpoints, bundles, reports."""
        return self.home / "runs"

    @property
    def forecasts_dir(self) -> Path:
        """Forecasts as they were made each night, for scoring when the hours have come."""
        return self.home / "forecasts"

    @property
    def reports_dir(self) -> Path:
        """Nightly reports, one folder per date."""
        return self.home / "reports"

    @property
    def locks_dir(self) -> Path:
        """Lock files: promotion, nightly lease, database set-up."""
        return self.home / "locks"

    @property
    def storage_options(self) -> dict[str, str]:
        """Options of the object store; empty for local disk. Credentials stay in the environment."""
        if not self.lake_uri.startswith("s3://"):
            return {}
        options = {"aws_conditional_put": "etag"}
        if self.s3_endpoint_url:
            options["AWS_ENDPOINT_URL"] = self.s3_endpoint_url
            if self.s3_endpoint_url.startswith("http://"):
                options["AWS_ALLOW_HTTP"] = "true"
        return options

    @property
    def uses_built_in_cities(self) -> bool:
        """Whether the city files are those of the package."""
        return self.cities_dir == BUILT_IN_CITIES

    def secret_values(self) -> list[str]:
        """Return the configured secrets in clear, for masking only."""
        found = [getattr(self, name) for name in type(self).model_fields]
        return [
            item.get_secret_value()
            for item in found
            if isinstance(item, SecretStr) and item.get_secret_value()
        ]


def _init_name(name: str) -> str:
    """Return the keyword under which `Settings` takes a field: its first alias, else its name."""
    alias = Settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        alias = alias.choices[0]
    return alias if isinstance(alias, str) else name


_KEYWORDS = {name.removesuffix("_override"): _init_name(name) for name in Settings.model_fields}


def load_settings(**overrides: Any) -> Settings:  # noqa: ANN401 - each field has its own type
    """Read the settings from the environment; keyword arguments win.

    Raises:
        BadInput: A variable has a value that is not allowed; the value of a secret is never echoed.
    """
    unknown = sorted(set(overrides) - set(_KEYWORDS))
    if unknown:
        raise BadInput(f"unknown setting '{unknown[0]}'", field=unknown[0], allowed=sorted(_KEYWORDS))
    try:
        return Settings(**{_KEYWORDS[name]: value for name, value in overrides.items()})
    except ValidationError as failure:
        first = failure.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise BadInput(f"{name}: {first['msg']}", field=name, allowed=first["msg"]) from None


def apply_environment(settings: Settings) -> None:
    """Point the frameworks at our state and switch their telemetry off; call before importing them.

    What the user has set stays, except telemetry, which is off unless switched on by name.
    """
    bin_dir = str(Path(sys.executable).parent)
    if bin_dir not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = bin_dir + os.pathsep + os.environ.get("PATH", "")
    defaults = {
        "DO_NOT_TRACK": "true",
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(settings.home / "bentoml"),
        "PROMETHEUS_MULTIPROC_DIR": str(settings.home / "prometheus"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "GIT_PYTHON_REFRESH": "quiet",
        "MPLBACKEND": "Agg",
    }
    if settings.otlp_endpoint:
        defaults["OTEL_EXPORTER_OTLP_ENDPOINT"] = settings.otlp_endpoint
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    for folder in (settings.home, Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]), settings.locks_dir):
        folder.mkdir(parents=True, exist_ok=True)


def replace_process(arguments: list[str]) -> NoReturn:
    """Become another program, so that signals and the exit code are its own."""
    sys.stdout.flush()
    os.execv(arguments[0], arguments)  # noqa: S606 - no shell, and the program is our own interpreter


def child_environment() -> dict[str, str]:
    """Return the environment for a process that we start."""
    return dict(os.environ)
