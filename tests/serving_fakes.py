"""Stand-ins for the lake, the champion cache and the world model, and the application around them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from serving.answers import Answers
from serving.api import Api, create_app
from serving.champion import Champion, ChampionHolder
from serving.history import Histories
from serving.security import Guard
from urbanwm.cities import City, Location
from urbanwm.contracts.scenario import Forecast
from urbanwm.errors import BundleInvalid, DataUnavailable
from urbanwm.registry import CachedChampion
from urbanwm.settings import Settings, load_settings

with warnings.catch_warnings():
    # starlette announces that its test client will move from httpx to httpx2.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
API_KEY = "a-key-for-tests"


def city(name: str = "lahore", **more: object) -> City:
    stated = {"signals": {}, "renewable_share_status_quo": 0.3, **more}
    return City(
        name=name, timezone="Asia/Karachi", location=Location(latitude=31.5, longitude=74.3), **stated
    )


def history(end: datetime = NOW, days: int = 40) -> pd.DataFrame:
    """Return observed hours up to `end`, exclusive."""
    index = pd.date_range(
        end - timedelta(days=days), end, freq="h", inclusive="left", tz="UTC", name="timestamp"
    )
    hour = index.hour.to_numpy()
    noise = np.random.default_rng(1).normal(size=(len(index), 3))
    return pd.DataFrame(
        {
            "pm25": 60 + 20 * np.cos(hour / 24 * 2 * np.pi) + 3 * noise[:, 0],
            "energy_mwh": 900 + 200 * np.sin(hour / 24 * 2 * np.pi) + 10 * noise[:, 1],
            "traffic_index": 1 + 0.05 * noise[:, 2],
        },
        index=index,
    )


class FakeLake:
    """A lake in memory; `failure` makes every call raise it."""

    def __init__(self, frames: dict[str, pd.DataFrame]) -> None:
        self.frames = frames
        self.number = 7
        self.reads = 0
        self.failure: Exception | None = None

    def version(self) -> int:
        self._check()
        return self.number

    def last_timestamp(self, name: str) -> datetime | None:
        self._check()
        return self.frames[name].index[-1].to_pydatetime() if name in self.frames else None

    def read(self, name: str, *, start: datetime | None = None, version: int | None = None) -> pd.DataFrame:
        self._check()
        self.reads += 1
        if name not in self.frames:
            raise DataUnavailable("no rows")
        return self.frames[name]

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure


class FakeModel:
    """A world model whose every forecast is flat at `level`; records how often it was asked."""

    served_by = "world_model"

    def __init__(self, level: float = 50.0, reasons: tuple[str, ...] = ()) -> None:
        self.level = level
        self.reasons = reasons
        self.asked = 0
        self.failure: Exception | None = None

    def forecast(self, history, city, start, horizon_hours, samples, seed, initial_state=None) -> Forecast:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        generator = np.random.default_rng(seed)
        members = self.level * (1 + 0.1 * generator.random((samples, horizon_hours, 3)))
        members[..., 2] /= 50
        z = generator.normal(size=(horizon_hours + 1, 128)).astype(np.float32)
        h = generator.normal(size=(horizon_hours + 1, 256)).astype(np.float32)
        return Forecast(members, "world_model", z=z, h=h, reasons=list(self.reasons))


def cached(version: str = "1", **more: object) -> CachedChampion:
    entry = CachedChampion(Path("/nowhere"), version, f"run-{version}", "5", f"digest-{version}")
    return replace(entry, **more)


@dataclass
class FakeCache:
    """What the registry and the local cache would say."""

    now: CachedChampion | None = None
    before: CachedChampion | None = None
    failure: Exception | None = None
    asked: int = 0

    def current(self) -> CachedChampion | None:
        return self.now

    def previous(self) -> CachedChampion | None:
        return self.before

    def sync(self) -> CachedChampion | None:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.now


@dataclass
class FakeLoader:
    """Loads champions; versions in `bad` do not load."""

    bad: set[str] = field(default_factory=set)
    loaded: list[str] = field(default_factory=list)
    model: FakeModel = field(default_factory=FakeModel)

    def __call__(self, entry: CachedChampion) -> Champion:
        self.loaded.append(entry.version)
        if entry.version in self.bad:
            raise BundleInvalid("its example is answered wrongly")
        return Champion(
            self.model,
            entry.version,
            entry.run_id,
            entry.dataset_version,
            entry.digest,
            card=f"# Model card of {entry.version}\n",
        )


@dataclass
class World:
    """One service and everything that can break under it."""

    client: TestClient
    lake: FakeLake
    cache: FakeCache
    loader: FakeLoader
    holder: ChampionHolder
    histories: Histories
    answers: Answers

    @property
    def model(self) -> FakeModel:
        return self.loader.model

    def poll(self) -> None:
        """Let the service notice what changed: registry and lake."""
        self.holder.poll()
        self.answers.look()

    def simulate(self, **body: object) -> dict:
        response = self.client.post("/api/simulate", json={"city": "Lahore", "horizon_hours": 6, **body})
        assert response.status_code == 200, response.text
        return response.json()

    def meta(self, **body: object) -> dict:
        return self.simulate(**body)["meta"]


@contextmanager
def serving(
    tmp_path: Path,
    *,
    champion: CachedChampion | None = None,
    frame: pd.DataFrame | None = None,
    cities: tuple[City, ...] = (),
    **settings: object,
) -> Iterator[World]:
    """Run the application in this process, without threads of its own."""
    known = {item.name: item for item in (city(), *cities)}
    frames = {} if frame is None else dict.fromkeys(known, frame)
    lake, cache, loader = FakeLake(frames), FakeCache(champion), FakeLoader()
    holder = ChampionHolder(cache, poll_seconds=3600, load=loader)
    holder.poll()
    histories = Histories(lake, lambda: NOW)
    answers = Answers(known, histories, holder, lambda: NOW)
    configured: Settings = load_settings(home=tmp_path, **{"api_key": API_KEY, **settings})
    api = Api(configured, lambda _: answers)
    app = Guard(create_app(api), admit=api.admit)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield World(client, lake, cache, loader, holder, histories, answers)
