"""What happens around the steps of `fit`: history, progress, the best epoch, early stopping."""

import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lib.runtime.counters import count_epoch
from lib.storage.location import Location
from lib.training.fit.batches import Batches
from lib.training.fit.synchronous import SynchronousModel
from lib.training.workers.messages import EpochEnded, ImagesTrained, Note, Reporter

HISTORY_COLUMNS = (
    "epoch",
    "phase",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
    "images_per_s",
    "wait_share",
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
    """Keeps one row an epoch, and tells the driver of it. Adds to the logs what other callbacks may want to show.

    Attributes:
        rows: One dictionary an epoch with `HISTORY_COLUMNS`, of all phases; `val_*` are None without validation.
    """

    def __init__(self, phase: str, images: int, batches: Batches, reporter: Reporter | None) -> None:
        """Begin without rows.

        Args:
            phase: The name of the phase.
            images: Images an epoch, over all workers.
            batches: What knows how long steps waited for it.
            reporter: Tells the driver, on the worker that speaks for all.
        """
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self._phase, self._images, self._batches, self._reporter = phase, images, batches, reporter
        self._started = time.monotonic()
        self._share, self._trained_s, self._waited_s = 1.0, 0.0, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Have the batches of this epoch read, and start the clocks."""
        self._batches.epoch = epoch
        self._started, self._batches.waited_s = time.monotonic(), 0.0
        self._share = self.params["steps"] / self._batches.steps  # less than 1 after an interruption

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Say how far the training is."""
        if self._reporter is not None:
            images, steps = round(self._images * self._share), self.params["steps"]
            self._reporter.report(ImagesTrained(images * (batch + 1) // steps - images * batch // steps))

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Stop the clocks: validation is not training."""
        self._trained_s = time.monotonic() - self._started
        self._waited_s = self._batches.waited_s

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the row and say it."""
        if "val_loss" not in (logs or {}):
            self.on_test_begin()
        logs = {} if logs is None else logs
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        logs["images_per_s"] = self._images * self._share / self._trained_s
        logs["wait_share"] = min(self._waited_s / self._trained_s, 1.0)
        numbers = {name: float(value) for name, value in logs.items()}
        row = dict.fromkeys(HISTORY_COLUMNS) | {
            "epoch": len(self.rows) + 1,
            "phase": self._phase,
            **{name: numbers[name] for name in HISTORY_COLUMNS if name in numbers},
            "seconds": time.monotonic() - self._started,
        }
        self.rows.append(row)
        if self._reporter is not None:
            self._reporter.report(EpochEnded(row))
            count_epoch(round(self._images * self._share), numbers["images_per_s"], numbers["wait_share"])
            self._reporter.report(Note(_line(row, epoch + 1, self.params["epochs"])))


def _line(row: dict[str, Any], epoch: int, epochs: int) -> str:
    line = f"{row['phase']} epoch {epoch}/{epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.3f}"
    if row["val_loss"] is not None:
        line += f", validation loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.3f}"
    return f"{line}, {row['images_per_s']:.0f} images/s"


class Scalars(keras.callbacks.TensorBoard):
    """TensorBoard's files, written where TensorBoard can follow the training."""

    def __init__(self, folder: Location) -> None:
        """Write into a folder; what an interrupted run has written stays beside it."""
        self._folder = folder
        self._local = Path(folder.path if folder.is_local else tempfile.mkdtemp())
        self._has_graph = False
        super().__init__(str(self._local), write_graph=False)

    def set_model(self, model: SynchronousModel) -> None:
        """Write the graph of the network. Keras writes none of a model that is a class of its own."""
        super().set_model(model)
        if not self._has_graph:
            self._write_graph(model.network)
        self._has_graph = True

    def _write_graph(self, network: keras.Model) -> None:
        (examples,) = network.inputs
        specification = tf.TensorSpec(examples.shape, examples.dtype)
        graph = tf.function(network).get_concrete_function(specification, training=False).graph
        writer = tf.summary.create_file_writer(str(self._local / "train"))
        with writer.as_default():
            tf.summary.graph(graph)
        writer.close()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the numbers of the epoch."""
        super().on_epoch_end(epoch, logs)
        if not self._folder.is_local:
            self._folder.upload_folder(self._local)


class KeepBest(keras.callbacks.Callback):
    """Ends training when the watched loss stops falling, and leaves the network as it was after its best epoch.

    The watched loss is that of validation, or of training where there is no validation. Every worker sees the same
    reduced numbers, so that all of them stop together.

    Attributes:
        best_epoch: The best epoch so far, from 1; 0 before the first.
        best_loss: Its loss.
        weights: The weights after it.
        is_over: Whether patience is at its end.
    """

    def __init__(self, network: keras.Model, patience: int) -> None:
        """Watch.

        Args:
            network: What to keep.
            patience: Epochs without a better one before training stops.
        """
        super().__init__()
        self.best_epoch, self.best_loss = 0, float("inf")
        self.weights: list[np.ndarray] = []
        self.is_over = False
        self._network, self._patience = network, patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Judge an epoch."""
        numbers = logs or {}
        loss = float(numbers.get("val_loss", numbers["loss"]))
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch + 1
            self.weights = self._network.get_weights()
        elif epoch + 1 - self.best_epoch >= self._patience:
            self.is_over = self.model.stop_training = True

    def restore(self) -> None:
        """Go back to the best epoch, if there was one."""
        if self.weights:
            self._network.set_weights(self.weights)
