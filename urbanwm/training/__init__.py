"""The training run: batches by index, one loss, open-loop validation, checkpoints that resume bit for bit."""

from urbanwm.training.run import train
from urbanwm.training.state import TrainResult

__all__ = ["TrainResult", "train"]
