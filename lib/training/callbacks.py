"""What happens around the steps of `fit`: history, progress, the best epoch, early stopping."""

import time
from typing import Any

import keras
import numpy as np

from lib.training.board import BoardClient
from lib.training.synchronous import SynchronousModel

HISTORY_COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
    "images_per_s",
)


class AverageStatistics(keras.callbacks.Callback):
    """Brings batch normalisation statistics together before they are used for validation, and after the last epoch."""

    def __init__(self, model: SynchronousModel) -> None:
        super().__init__()
        self._synchronous = model

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Before validation."""
        self._synchronous.average_statistics()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Before the epoch is judged, should there be no validation."""
        self._synchronous.average_statistics()


class History(keras.callbacks.Callback):
    """Keeps one row an epoch, and tells the board of it.

    Attributes:
        rows: One dictionary an epoch with `HISTORY_COLUMNS`; `val_*` are None without validation.
    """

    def __init__(self, images: int, epochs: int, rank: int, board: BoardClient) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self._images, self._epochs, self._rank, self._board = images, epochs, rank, board
        self._started = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Say how far the training is."""
        if self._rank == 0:
            done = self._images * (batch + 1) // self.params["steps"] - self._images * batch // self.params["steps"]
            self._board.tell("add_images", done)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the row and say it."""
        seconds = time.monotonic() - self._started
        numbers = {name: float(value) for name, value in (logs or {}).items()}
        row = dict.fromkeys(HISTORY_COLUMNS) | {
            "epoch": epoch + 1,
            **{name: numbers[name] for name in HISTORY_COLUMNS if name in numbers},
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": seconds,
            "images_per_s": self._images / seconds,
        }
        self.rows.append(row)
        if self._rank == 0:
            self._board.tell("add_note", _line(row, self._epochs))


def _line(row: dict[str, Any], epochs: int) -> str:
    line = f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.3f}"
    if row["val_loss"] is not None:
        line += f", validation loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.3f}"
    return f"{line}, {row['images_per_s']:.0f} images/s"


class KeepBest(keras.callbacks.Callback):
    """Ends training when the watched loss stops falling, and leaves the network as it was after its best epoch.

    The watched loss is that of validation, or of training where there is no validation. Every worker sees the same
    reduced numbers, so that all of them stop together.

    Attributes:
        best_epoch: The best epoch so far, from 1; 0 before the first.
    """

    def __init__(self, network: keras.Model, patience: int, on_better: Any) -> None:
        """Watch.

        Args:
            network: What to keep.
            patience: Epochs without a better one before training stops.
            on_better: Called without arguments after each epoch that is better than all before.
        """
        super().__init__()
        self.best_epoch = 0
        self._network, self._patience, self._on_better = network, patience, on_better
        self._best_loss = np.inf
        self._weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Judge an epoch."""
        numbers = logs or {}
        loss = float(numbers.get("val_loss", numbers["loss"]))
        if loss < self._best_loss:
            self._best_loss, self.best_epoch = loss, epoch + 1
            self._weights = self._network.get_weights()
            self._on_better()
        elif epoch + 1 - self.best_epoch >= self._patience:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Go back to the best epoch."""
        if self._weights:
            self._network.set_weights(self._weights)
