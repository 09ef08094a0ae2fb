"""The training run: batches by index, one loss, open-loop validation, checkpoints that resume bit for bit."""

from urbanwm.training.run import TrainResult, train

__all__ = ["TrainResult", "train"]
