"""The hooks around the steps of a phase. Keras calls them in the order in which `loop.py` lists them."""

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from lib.config.fitting import FitConfig
from lib.folders.history import HistoryRow
from lib.runtime.counters import count_epoch, show_gpu
from lib.runtime.gpu_use import GpuMeter, GpuUse
from lib.storage.location import Location
from lib.training.fit.batch_statistics import BatchStatistics
from lib.training.fit.pace import PaceMeter
from lib.training.fit.phase_fit import PhaseFit
from lib.training.fit.synchronous import SynchronousModel
from lib.training.workers.failures import PreemptedError
from lib.training.workers.messages import EpochEnded, ImagesTrained, Note, Reporter, waiting
from lib.training.workers.watchdog import Heartbeat

Logs = dict[str, Any]
"""Numbers of a step or an epoch by name, as Keras passes them from one callback to the next."""


class Hook(keras.callbacks.Callback):
    """Something that happens around the steps of a phase.

    Attributes:
        fit: The phase. What one hook changes of it, the hooks after it see.
    """

    def __init__(self, fit: PhaseFit, *arguments: Any, **settings: Any) -> None:
        """Belong to a phase; what else is given is for a callback of Keras that a hook extends."""
        super().__init__(*arguments, **settings)
        self.fit = fit


class Hooks(keras.callbacks.CallbackList):
    """Calls hooks in turn. Loss and accuracy are read from the device when an epoch is over, and not before.

    Keras's own list reads them after each step to hand them to its hooks, and so has a GPU wait for the next step.
    """

    def __init__(self, hooks: Sequence[Hook], model: SynchronousModel, *, epochs: int, steps: int) -> None:
        """List hooks.

        Args:
            hooks: None looks at the numbers of a step.
            model: What is trained.
            epochs: The epoch, from 0, before which the call of `fit` ends.
            steps: Steps in each epoch of that call.
        """
        super().__init__(list(hooks), add_history=True, model=model, epochs=epochs, steps=steps)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a step, whose numbers stay where they are."""
        for hook in self.callbacks:
            hook.on_train_batch_end(batch)

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """The same in validation."""
        for hook in self.callbacks:
            hook.on_test_batch_end(batch)


class JudgedWeights(Hook):
    """Has the weights in place that an epoch is judged by: averages if wanted, with statistics that belong to them."""

    def __init__(self, fit: PhaseFit, statistics: BatchStatistics) -> None:
        """Prepare them."""
        super().__init__(fit)
        self._statistics, self._is_ready = statistics, False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """These weights have not been judged."""
        self._is_ready = False

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before validation."""
        self._prepare()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Before the epoch is judged, should there be no validation."""
        self._prepare()

    def _prepare(self) -> None:
        if not self._is_ready:
            self.fit.model.use_averages()
            self._statistics.estimate()
        self._is_ready = True


class TrainedWeights(Hook):
    """Puts the weights back that training goes on with, once the epoch is judged."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Go on."""
        self.fit.model.use_trained()


class RecordHistory(Hook):
    """Adds a row to the history after each epoch, and tells the driver of it and of each step."""

    def __init__(
        self, fit: PhaseFit, reporter: Reporter | None, *, keeps_last: bool = False, gpu: GpuMeter | None = None
    ) -> None:
        """Record.

        Args:
            fit: The phase.
            reporter: Tells the driver, on the worker that speaks for all.
            keeps_last: Whether no epoch is chosen.
            gpu: Of this worker, if it has one.
        """
        super().__init__(fit)
        self._reporter, self._keeps_last = reporter, keeps_last
        self._pace, self._gpu = PaceMeter(fit.batches, gpu), GpuUse(None, None)
        self._started, self._epoch = time.monotonic(), 0
        self._images, self._trained_s, self._waited_s = 0.0, 0.0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Have the batches of this epoch read, and start the clocks."""
        batches = self.fit.batches
        batches.epoch = epoch
        self._started, batches.waited_s = time.monotonic(), 0.0
        self._images = batches.images * self.params["steps"] / batches.steps  # fewer after an interruption
        self._pace.begin()
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Say how far the training is."""
        if self._reporter is not None:
            images, steps = round(self._images), self.params["steps"]
            trained = images * (batch + 1) // steps - images * batch // steps
            self._reporter.report(ImagesTrained(trained))
            if (pace := self._pace.step(trained, self._epoch + 1, self.params["epochs"])) is not None:
                self._reporter.report(pace)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Stop the clocks: validation is not training."""
        self._trained_s = time.monotonic() - self._started
        self._waited_s = self.fit.batches.waited_s
        self._gpu = self._pace.end()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add the row, and its numbers to what TensorBoard shows."""
        logs = {} if logs is None else logs
        if "val_loss" not in logs:
            self.on_test_begin()
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        logs["images_per_s"] = self._images / self._trained_s
        logs["wait_share"] = min(self._waited_s / self._trained_s, 1.0)
        logs |= self._gpu_numbers()
        row = self._row({name: float(value) for name, value in logs.items()})
        self.fit.rows.append(row)
        if self._reporter is not None:
            self._reporter.report(EpochEnded(row))
            count_epoch(round(self._images), row.images_per_s, row.wait_share)
            show_gpu(self._gpu.utilisation, self._gpu.memory_bytes)
            self._reporter.report(Note(f"{row.phase} epoch {epoch + 1}/{self.params['epochs']}: {_numbers(row)}"))

    def _gpu_numbers(self) -> dict[str, float]:
        """As the history calls them; those that are known."""
        use, numbers = self._gpu, dict[str, float]()
        if use.utilisation is not None:
            numbers["gpu_utilisation"] = use.utilisation
        if use.memory_bytes is not None:
            numbers["gpu_memory_gib"] = use.memory_bytes / 2**30
        return numbers

    def _row(self, numbers: dict[str, float]) -> HistoryRow:
        return HistoryRow(
            epoch=len(self.fit.rows) + 1,
            phase=self.fit.phase.name,
            loss=numbers["loss"],
            accuracy=numbers["accuracy"],
            val_loss=numbers.get("val_loss"),
            val_accuracy=numbers.get("val_accuracy"),
            learning_rate=numbers["learning_rate"],
            seconds=time.monotonic() - self._started,
            images_per_s=numbers["images_per_s"],
            wait_share=numbers["wait_share"],
            keeps_last=self._keeps_last,
            gpu_utilisation=numbers.get("gpu_utilisation"),
            gpu_memory_gib=numbers.get("gpu_memory_gib"),
        )


def _numbers(row: HistoryRow) -> str:
    text = f"loss {row.loss:.4f}, accuracy {row.accuracy:.3f}"
    if row.val_loss is not None:
        text += f", validation loss {row.val_loss:.4f}, accuracy {row.val_accuracy:.3f}"
    return f"{text}, {row.images_per_s:.0f} images/s, {waiting(row.wait_share)}"


class KeepBest(Hook):
    """Keeps the weights of the best epoch, and ends the phase when the watched loss has stopped falling.

    Every worker sees the same reduced numbers, so that all of them stop together.
    """

    def __init__(self, fit: PhaseFit, patience: int) -> None:
        """End after so many epochs without a better one."""
        super().__init__(fit)
        self._patience = patience

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Judge the epoch by its row."""
        self.fit.keep_if_best(self.fit.rows[-1], epoch + 1)
        if epoch + 1 - self.fit.best_epoch >= self._patience:
            self.fit.is_over = self.model.stop_training = True


class Scalars(Hook, keras.callbacks.TensorBoard):
    """TensorBoard's files, written where TensorBoard can follow the training."""

    def __init__(self, fit: PhaseFit, folder: Location) -> None:
        """Write into a folder; what an interrupted run has written stays beside it."""
        self._folder = folder
        self._local = Path(folder.path if folder.is_local else tempfile.mkdtemp())
        self._has_graph = False
        super().__init__(fit, str(self._local), write_graph=False)

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

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the numbers of the epoch."""
        super().on_epoch_end(epoch, logs)
        if not self._folder.is_local:
            self._folder.upload_folder(self._local)


def write_scalars(rows: Sequence[HistoryRow], folder: Location) -> None:
    """Write losses and accuracies of a solved head to TensorBoard, a step a penalty."""
    with tempfile.TemporaryDirectory() as local:
        for part, prefix in (("train", ""), ("validation", "val_"), ("left_out", "left_out_")):
            numbers = [asdict(row) for row in rows if getattr(row, f"{prefix}loss") is not None]
            if not numbers:
                continue
            with tf.summary.create_file_writer(str(Path(local) / part)).as_default():
                for step, row in enumerate(numbers):
                    for name in ("loss", "accuracy"):
                        tf.summary.scalar(f"penalty_{name}", row[f"{prefix}{name}"], step)
        folder.upload_folder(Path(local))


class SaveCheckpoints(Hook):
    """Saves a checkpoint after each epoch, every so many steps, in time, and when the workers are about to be ended.

    All workers come to the same decision at the same step; one of them writes. A wish to be saved is obeyed one step
    late within an epoch: a thread fetches the sum of the wishes from the device while that works at the next step. What
    the one that writes saves by its own clock needs no decision, since saving takes nothing from the others.
    """

    def __init__(self, fit: PhaseFit, config: FitConfig, heartbeat: Heartbeat, is_leaving: Callable[[], bool]) -> None:
        """Save.

        Args:
            fit: The phase.
            config: Has the steps and the minutes between checkpoints within an epoch.
            is_leaving: Tells, asked at each step, whether this worker is about to be ended.
        """
        super().__init__(fit)
        every = config.checkpoint_every
        self._every_s, self._saved = 60 * config.checkpoint_minutes, time.monotonic()
        self._every, self._heartbeat, self._is_leaving = every, heartbeat, is_leaving
        self._epoch, self._began_at, self._steps = 0, 0, 0
        self._wishes = False
        self._fetching: Future[float] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Have a thread to fetch with."""
        self._fetcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wishes")

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Go on with the sums of an epoch that was interrupted."""
        self._epoch, self._began_at = epoch, self.fit.begin_epoch()
        self._steps, self._fetching = self._began_at, None

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Count the step, and ask for a checkpoint if this worker was told to."""
        self._heartbeat.step(patient=batch == 0)
        if not self._wishes and self._is_leaving():
            self._wishes = True
            self.fit.model.wishes.assign(1.0)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Save if it is time."""
        self._steps = self._began_at + batch + 1
        if batch + 1 == self.params["steps"]:
            return  # the epoch is judged first, and then saved
        before, self._fetching = self._fetching, self._fetcher.submit(float, self.fit.model.wished.read_value())
        if before is not None and before.result() > 0:
            self._save(wait=True)
            self._leave()
        if (self._every and self._steps % self._every == 0) or time.monotonic() - self._saved >= self._every_s:
            self._save()

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Validation moves on."""
        self._heartbeat.move(patient=batch == 0)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save the state between two epochs."""
        self._heartbeat.move(patient=True)
        self._saved = time.monotonic()
        all_leave = float(self.fit.model.wished) > 0
        self.fit.save(epoch + 1, 0, wait=all_leave)
        if all_leave:
            self._leave()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Nothing is left to fetch."""
        self._fetcher.shutdown()

    def _leave(self) -> None:
        self.fit.model.meet()  # the first worker that leaves ends the others, and one of them has been writing
        raise PreemptedError(f"saved in epoch {self._epoch + 1}")

    def _save(self, *, wait: bool = False) -> None:
        self._heartbeat.move(patient=True)
        self._saved = time.monotonic()
        self.fit.save(self._epoch, self._steps, wait=wait)
