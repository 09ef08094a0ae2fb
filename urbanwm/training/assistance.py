"""Idle processes that take pieces of a running training's batches; they may come and go at any moment.

A training listens and leaves word where. An assistant that finds it is sent the weights and a piece at every
step and sends back the piece's gradient. That is the same whoever computes it, so the trained bits do not
depend on whether anyone came: a piece that an assistant does not bring back is computed by the training.
Messages are JSON and tensors in the safetensors format; nothing is unpickled.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load, save
from torch import Tensor

from urbanwm.model.config import ModelConfig, ModelDims, TrainingConfig
from urbanwm.model.world_model import Batch, UrbanWorldModel
from urbanwm.training.memory import keep_freed_memory
from urbanwm.training.pieces import LossFunction, Piece, Slope, loss_function, slope
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

_LOG = logging.getLogger(__name__)


class Assistants:
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
        self, loss: LossFunction, model: UrbanWorldModel, pieces: Sequence[Piece], recipe: TrainingConfig
    ) -> list[Slope]:
        """Return the pieces' slopes in their order; each assistant takes one, this process the rest."""
        # From the second piece on, to as many assistants as there are; the list shrinks where one is lost.
        pairs = zip(range(1, len(pieces)), tuple(self._connections), strict=False)
        given = {
            place: connection
            for place, connection in pairs
            if self._sent(connection, model, pieces[place], recipe)
        }
        found = {
            place: slope(loss, model, piece, recipe)
            for place, piece in enumerate(pieces)
            if place not in given
        }
        for place, connection in given.items():
            found[place] = self._answer(connection) or slope(loss, model, pieces[place], recipe)
        return [found[place] for place in range(len(pieces))]

    def close(self) -> None:
        """Send everyone away."""
        for connection in list(self._connections):
            self._dismiss(connection)

    def _sent(
        self, connection: Connection, model: UrbanWorldModel, piece: Piece, recipe: TrainingConfig
    ) -> bool:
        try:
            _send(connection, *_request(model, piece, recipe))
        except LOST:
            self._dismiss(connection)
            return False
        return True

    def _answer(self, connection: Connection) -> Slope | None:
        with suppress(*LOST):
            if connection.poll(ANSWER_SECONDS):
                document, gradient = _receive(connection)
                return Slope(document["loss"], document["parts"], gradient)
        _LOG.warning("an assistant is gone; its piece of the batch is computed here")
        self._dismiss(connection)
        return None

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
    """Compute pieces for the training that left word there, until it is over; return how many."""
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
                model, loss, recipe = made
                found = slope(loss, model, _read_piece(model, document, tensors), recipe)
                _send(connection, {"loss": found.loss, "parts": found.parts}, found.gradient)
                done += 1
    finally:
        torch.set_num_threads(threads)
    return done


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
    model: UrbanWorldModel, piece: Piece, recipe: TrainingConfig
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return all that a slope depends on."""
    document = {
        "model": model.config.model_dump(mode="json"),
        "dims": asdict(model.dims),
        "recipe": recipe.model_dump(mode="json"),
        "seed": piece.seed,
        "step": piece.step,
        "context_hours": piece.batch.context_hours,
    }
    windows = {name: getattr(piece.batch, name) for name in Batch.names()}
    weights = {f"{WEIGHTS}{name}": value for name, value in model.state_dict().items()}
    return document, {"noise": piece.noise, **windows, **weights}


def _read_piece(model: UrbanWorldModel, document: Mapping[str, Any], tensors: dict[str, Tensor]) -> Piece:
    """Put the weights of a request into the model, and return its piece."""
    weights = {
        name.removeprefix("weights."): tensors[name] for name in tensors if name.startswith("weights.")
    }
    model.load_state_dict(weights)
    windows = {name: tensors[name] for name in Batch.names()}
    batch = Batch(**windows, context_hours=document["context_hours"])
    return Piece(batch, tensors["noise"], document["seed"], document["step"])


def _send(connection: Connection, document: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    connection.send_bytes(json.dumps(document).encode())
    connection.send_bytes(save(tensors))


def _receive(connection: Connection) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a message; the tensors are copied to where the processor likes them, or sums would differ."""
    document = json.loads(connection.recv_bytes())
    return document, {name: value.clone() for name, value in load(connection.recv_bytes()).items()}
