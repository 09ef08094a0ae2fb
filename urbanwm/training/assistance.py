"""Idle processes that take parts of a running training's work; they may come and go at any moment.

A training listens and leaves word where. An assistant that finds it is sent the weights and a piece of a
batch, and sends back its gradient; or held-out windows, and sends back their forecasts. These are the same
whoever computes them, so the trained bits do not depend on whether anyone came: what an assistant does not
bring back is computed by the training.
Messages are JSON and tensors in the safetensors format; nothing is unpickled.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from urbanwm.memory import keep_freed_memory
from urbanwm.model.config import ModelConfig, ModelDims, TrainingConfig
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training.outlook import Outlook, outlook
from urbanwm.training.pieces import LossFunction, Piece, Slope, loss_function, slope
from urbanwm.training.team import Team, nothing
from urbanwm.whole_file import written_whole

LOOPBACK: Final = "127.0.0.1"
POLL_SECONDS: Final = 0.2
ANSWER_SECONDS: Final = 60.0
"""After which an assistant that does not answer is sent away."""
BEGIN_SECONDS: Final = 60.0
"""After which an assistant gives up a training that has not begun."""
IDLE_SECONDS: Final = 600.0
"""After which an assistant gives up a training that asks for nothing."""
WEIGHTS: Final = "weights."
LOST: Final = (OSError, EOFError, AuthenticationError)
"""What a connection raises whose other end is gone, or is not ours."""

Message = tuple[dict[str, Any], dict[str, Tensor]]
Found = TypeVar("Found")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ask(Generic[Found]):
    """Something to compute: as it is sent (without weights), as it is done here, and how answers are read."""

    request: Message
    here: Callable[[], Found]
    read: Callable[[dict[str, Any], dict[str, Tensor]], Found]


class Assistants(Team):
    """Those who offered to help a training, from its side."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._connections: list[Connection] = []

    @property
    def present(self) -> int:
        """Return how many there are."""
        return len(self._connections)

    def welcome(self, connection: Connection) -> None:
        """Take one more, from any thread."""
        self._connections.append(connection)

    def slopes(
        self,
        loss: LossFunction,
        model: UrbanWorldModel,
        pieces: Sequence[Piece],
        recipe: TrainingConfig,
        meanwhile: Callable[[], None] = nothing,
    ) -> list[Slope]:
        """As `Team.slopes`."""

        def ask(piece: Piece) -> _Ask[Slope]:
            request = _request(model, recipe, piece.batch, piece)
            return _Ask(request, lambda: slope(loss, model, piece, recipe), _read_slope)

        return self._shared_out(model, map(ask, pieces), meanwhile)

    def outlooks(
        self, model: UrbanWorldModel, batches: Iterable[Batch], recipe: TrainingConfig
    ) -> list[Outlook]:
        """As `Team.outlooks`."""

        def ask(batch: Batch) -> _Ask[Outlook]:
            return _Ask(_request(model, recipe, batch), lambda: outlook(model, batch), _read_outlook)

        return self._shared_out(model, map(ask, batches), nothing)

    def _shared_out(
        self, model: UrbanWorldModel, asks: Iterable[_Ask[Found]], meanwhile: Callable[[], None]
    ) -> list[Found]:
        """Return what is found, in the order asked; an assistant has one at a time, this process the rest."""
        found: dict[int, Found] = {}
        given: dict[Connection, tuple[int, _Ask[Found]]] = {}
        informed: set[Connection] = set()  # they have the weights, which are the same for all that is asked
        for place, ask in enumerate(asks):
            for connection in [one for one in given if _has_answered(one)]:
                back, theirs = given.pop(connection)
                found[back] = self._answer(connection, theirs)
            free = next((one for one in tuple(self._connections) if one not in given), None)
            if free is not None and self._sent(free, ask, {} if free in informed else _weights(model)):
                given[free] = place, ask
                informed.add(free)
            else:
                found[place] = ask.here()
        if given:
            meanwhile()
        for connection, (place, ask) in given.items():
            found[place] = self._answer(connection, ask)
        return [found[place] for place in range(len(found))]

    def close(self) -> None:
        """Send everyone away."""
        for connection in list(self._connections):
            self._dismiss(connection)

    def _sent(self, connection: Connection, ask: _Ask[Any], weights: dict[str, Tensor]) -> bool:
        document, tensors = ask.request
        try:
            _send(connection, document, tensors | weights)
        except LOST:
            self._dismiss(connection)
            return False
        return True

    def _answer(self, connection: Connection, ask: _Ask[Found]) -> Found:
        """Wait for what an assistant answers; where it does not, compute it here."""
        with suppress(*LOST):
            if connection.poll(ANSWER_SECONDS):
                return ask.read(*_receive(connection))
        _LOG.warning("an assistant is gone; what it was given is computed here")
        self._dismiss(connection)
        return ask.here()

    def _dismiss(self, connection: Connection) -> None:
        connection.close()
        self._connections.remove(connection)


def own_address() -> str:
    """Return the address under which this machine's name is known, for assistants on others."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return LOOPBACK


@contextmanager
def open_to_assistants(word: Path, host: str = LOOPBACK) -> Iterator[Assistants]:
    """Listen for assistants as long as the training lasts.

    Args:
        word: File that tells them where; only this user may read it. In the end it says that it is over.
        host: Address of this machine to listen on, a free port.
    """
    assistants, over, key = Assistants(), threading.Event(), secrets.token_bytes()
    with socket.create_server((host, 0)) as door:
        door.settimeout(POLL_SECONDS)
        porter = threading.Thread(target=_let_in, args=(door, key, assistants, over), daemon=True)
        porter.start()
        _leave(word, {"address": door.getsockname()[:2], "key": key.hex()})
        try:
            yield assistants
        finally:
            over.set()
            porter.join(ANSWER_SECONDS)
            assistants.close()
            _leave(word, {})


def _let_in(door: socket.socket, key: bytes, assistants: Assistants, over: threading.Event) -> None:
    """Welcome everyone who knows the key, until it is over."""
    while not over.is_set():
        with suppress(TimeoutError):
            caller = door.accept()[0]
            caller.setblocking(True)
            connection = Connection(caller.detach())
            try:
                deliver_challenge(connection, key)
                answer_challenge(connection, key)
            except LOST:
                connection.close()
                continue
            assistants.welcome(connection)


def assist(word: Path) -> int:
    """Compute for the training that left word there, until it is over; return how many times."""
    connection = _find(word)
    if connection is None:
        return 0
    keep_freed_memory()
    threads, done, made = torch.get_num_threads(), 0, None
    try:
        with connection, suppress(*LOST):
            while connection.poll(IDLE_SECONDS):
                document, tensors = _receive(connection)
                made = made or _made(document)
                _send(connection, *_computed(*made, document, tensors))
                done += 1
    finally:
        torch.set_num_threads(threads)
    return done


def _computed(
    model: UrbanWorldModel,
    loss: LossFunction,
    recipe: TrainingConfig,
    document: Mapping[str, Any],
    tensors: dict[str, Tensor],
) -> Message:
    """Return the answer to a request."""
    weights = {
        name.removeprefix(WEIGHTS): value for name, value in tensors.items() if name.startswith(WEIGHTS)
    }
    if weights:
        model.load_state_dict(weights)
    windows = {name: tensors[name] for name in Batch.names()}
    batch = Batch(**windows, context_hours=document["context_hours"])
    if "seed" not in document:
        return {}, outlook(model, batch)._asdict()
    piece = Piece(batch, tensors["noise"], document["seed"], document["step"])
    found = slope(loss, model, piece, recipe)
    return {"loss": found.loss, "parts": found.parts}, found.gradient


def _made(document: Mapping[str, Any]) -> tuple[UrbanWorldModel, LossFunction, TrainingConfig]:
    """Return the model of a training with any weights, and how its slopes are computed."""
    recipe = TrainingConfig.model_validate(document["recipe"])
    torch.set_num_threads(recipe.threads)
    model = UrbanWorldModel(ModelConfig.model_validate(document["model"]), ModelDims(**document["dims"]))
    return model.train(), loss_function(model, recipe), recipe


def _find(word: Path) -> Connection | None:
    """Return a connection to the training; None where it is over, or does not begin."""
    until = time.monotonic() + BEGIN_SECONDS
    while time.monotonic() < until:
        if word.is_file():
            document = json.loads(word.read_text("utf-8"))
            if not document:
                return None
            with suppress(*LOST):  # left by a training that was killed
                return Client(tuple(document["address"]), authkey=bytes.fromhex(document["key"]))
        time.sleep(POLL_SECONDS)
    return None


def _leave(word: Path, document: Mapping[str, Any]) -> None:
    with written_whole(word) as draft:
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(document), "utf-8")


def _request(
    model: UrbanWorldModel, recipe: TrainingConfig, batch: Batch, piece: Piece | None = None
) -> Message:
    """Return what a piece's slope depends on, or without a piece the windows' outlook, beside the weights."""
    document = {
        "model": model.config.model_dump(mode="json"),
        "dims": asdict(model.dims),
        "recipe": recipe.model_dump(mode="json"),
        "context_hours": batch.context_hours,
    }
    tensors = {name: getattr(batch, name) for name in Batch.names()}
    if piece is not None:
        document |= {"seed": piece.seed, "step": piece.step}
        tensors["noise"] = piece.noise
    return document, tensors


def _weights(model: UrbanWorldModel) -> dict[str, Tensor]:
    return {f"{WEIGHTS}{name}": value for name, value in model.state_dict().items()}


def _read_slope(document: dict[str, Any], tensors: dict[str, Tensor]) -> Slope:
    return Slope(document["loss"], document["parts"], tensors)


def _read_outlook(_: dict[str, Any], tensors: dict[str, Tensor]) -> Outlook:
    return Outlook(**tensors)


def _has_answered(connection: Connection) -> bool:
    """Return whether there is something to read, be it that the other end is gone."""
    try:
        return connection.poll()
    except LOST:
        return True


def _send(connection: Connection, document: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    connection.send_bytes(json.dumps(document).encode())
    connection.send_bytes(save(tensors))


def _receive(connection: Connection) -> Message:
    """Return a message; the tensors are copied to where the processor likes them, or sums would differ."""
    document = json.loads(connection.recv_bytes())
    return document, {name: value.clone() for name, value in load(connection.recv_bytes()).items()}
