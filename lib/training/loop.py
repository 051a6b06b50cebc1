"""What each worker does: load its examples while TensorFlow starts, fit phase by phase, and, on rank 0, save."""

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import ray.train

from lib.config import TrainConfig
from lib.dataset.order import LaneOrder, balancing_weights
from lib.dataset.source import ImageSource
from lib.errors import DataError, DivergedError, TooManyBadImagesError
from lib.models.folder import CURVES_FILE, HISTORY_FILE, NETWORK_FILE
from lib.models.spec import ModelSpec
from lib.plots import curves
from lib.ray_data import prepare_context
from lib.storage.filesystem import Location
from lib.storage.tables import write_table
from lib.training.board import BoardClient
from lib.training.checkpoint import Checkpoint, CheckpointFolder
from lib.training.examples import FITTED_SPLITS, SplitExamples, load_features, load_images, split_order
from lib.training.failures import LostPeerError, lost_peers_named
from lib.training.features import FeatureSource
from lib.training.plan import Phase, plan_phases
from lib.training.preemption import checkpoint_wanted
from lib.training.stalls import Heartbeat

if TYPE_CHECKING:
    import keras

    from lib.models.registry import Network
    from lib.training.batches import Batches

HISTORY_SCHEMA = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),  # from 1, over all phases
        pa.field("phase", pa.string(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("accuracy", pa.float64(), nullable=False),
        pa.field("val_loss", pa.float64()),
        pa.field("val_accuracy", pa.float64()),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),  # validation included
        pa.field("images_per_s", pa.float64(), nullable=False),  # over all workers, validation not included
        pa.field("wait_share", pa.float64(), nullable=False),  # of the time of training, on rank 0
    ]
)
AGREE_KEY, COUNTS_KEY, LANES_KEY, FIRST_PHASE_KEY = 1, 2, 3, 10


@dataclass(frozen=True)
class TrainTask:
    """Everything a worker needs to know.

    Attributes:
        config: The settings of the run.
        spec: What to train.
        source: The images.
        features: Of the frozen base, if there is one.
        board: Where to report.
    """

    config: TrainConfig
    spec: ModelSpec
    source: ImageSource
    features: FeatureSource | None
    board: BoardClient

    @property
    def output(self) -> Location:
        """The model folder."""
        return Location(self.config.output)


def train_on_worker(loop_config: dict[str, TrainTask]) -> dict[str, Any]:
    """Train on this worker, in step with the others, from the newest checkpoint if there is one.

    Args:
        loop_config: The `task`, in the dictionary that Ray Train insists on.

    Returns:
        What `model.json` says of the training; the same on every worker.

    Raises:
        TooManyBadImagesError: If more images were refused than allowed.
        DataError: If a class has no usable training image, or images are to be kept in memory and do not fit.
        DivergedError: If the loss never was a number.
        LostPeerError: If another worker is gone.
    """
    task, context = loop_config["task"], ray.train.get_context()
    prepare_context(task.config.verbose)
    rank, world_size = context.get_world_rank(), context.get_world_size()
    with Heartbeat(task.board, rank) as heartbeat, ThreadPoolExecutor(max_workers=1) as loader, lost_peers_named():
        return Worker(task, rank, world_size, heartbeat, loader, checkpoint_wanted).train()


def train_alone(task: TrainTask) -> dict[str, Any]:
    """Train in this process without Ray Train, which cannot run inside a trial of Ray Tune.

    Args:
        task: Its settings state `cache_gib`, since Ray Train is not there to tell how many share this machine.

    Returns:
        What `model.json` says of the training.

    Raises:
        TissueError: See `train_on_worker`.
    """
    prepare_context(task.config.verbose)
    with Heartbeat(task.board, 0) as heartbeat, ThreadPoolExecutor(max_workers=1) as loader:
        return Worker(task, 0, 1, heartbeat, loader).train()


class Worker:
    """One worker, from its first image to the model folder."""

    def __init__(
        self,
        task: TrainTask,
        rank: int,
        world_size: int,
        heartbeat: Heartbeat,
        loader: ThreadPoolExecutor,
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take a place among the workers.

        Args:
            task: What to do.
            rank: Of this worker.
            world_size: Number of workers.
            heartbeat: Of this worker.
            loader: Its thread loads examples.
            is_leaving: Tells whether this worker is about to be ended; without Ray Train nobody ends it with notice.
        """
        self._is_leaving = is_leaving
        self._task, self._rank, self._world_size = task, rank, world_size
        self._heartbeat, self._loader = heartbeat, loader
        self._checkpoints = CheckpointFolder(task.output / "checkpoints")
        self._refused: dict[tuple[str, int], dict[str, Any]] = {}
        self._rows: list[dict[str, Any]] = []

    @property
    def _writes(self) -> bool:
        return self._rank == 0

    def train(self) -> dict[str, Any]:
        """Train all phases that are not done.

        Returns:
            What `model.json` says of the training.
        """
        config = self._task.config
        newest = self._checkpoints.newest()
        on_features = self._task.features is not None and (newest is None or newest.state.phase == 0)
        loading = self._loader.submit(self._load, on_features)
        with _precision(config.precision):
            network = self._start(newest)
            model = self._train_phases(network, newest, loading)
        if self._writes:
            self._write_results(self._as_float32(model))
        return self._results(network)

    def _start(self, newest: Checkpoint | None) -> "Network":
        """Import TensorFlow and build the network: the slow part of starting, so done while examples load."""
        from lib.models.registry import build_network
        from lib.training.synchronous import start_collectives

        if self._world_size > 1:
            start_collectives()
            self._agree_on(newest)
        return build_network(*self._network_arguments)

    @property
    def _network_arguments(self) -> tuple[Any, ...]:
        task = self._task
        return task.spec, len(task.source.class_names), task.source.image_size, task.config.seed, task.config.head_units

    def _agree_on(self, newest: Checkpoint | None) -> None:
        """Make sure that all workers go on from the same checkpoint: one may have been written in between."""
        place = [0.0, 0.0, 0.0] if newest is None else [newest.state.phase, newest.state.epoch, newest.state.step]
        if not np.array_equal(self._sum([1.0, *place], AGREE_KEY), np.multiply(self._world_size, [1.0, *place])):
            raise LostPeerError("the workers found different checkpoints")

    def _sum(self, numbers: list[float], key: int) -> npt.NDArray[np.float32]:
        import tensorflow as tf

        from lib.training.synchronous import all_reduce_sum

        return all_reduce_sum([tf.constant(numbers, tf.float32)], self._world_size, key)[0].numpy()  # type: ignore[no-any-return]

    # -- examples

    def _load(self, on_features: bool) -> dict[str, SplitExamples]:
        """This worker's examples of each split that has any."""
        task = self._task
        orders = {split: self._order(split) for split in FITTED_SPLITS if task.source.count(split)}
        if on_features and task.features is not None:
            return {split: load_features(task.features, split, order, self._hear) for split, order in orders.items()}
        return load_images(task.source, orders, task.config, self._hear)

    def _order(self, split: str) -> LaneOrder:
        config, count = self._task.config, self._task.source.count(split)
        return split_order(count, split, config, config.seed, self._rank, self._world_size)

    def _hear(self, split: str, refused: list[dict[str, Any]], checksums: dict[str, str]) -> None:
        """Remember and pass on which images were refused, and stop when they are too many already."""
        self._heartbeat.move(patient=True)
        new = {(split, row["position"]): row | {"split": split} for row in refused}
        new = {place: row for place, row in new.items() if place not in self._refused}
        self._refused |= new
        if new:
            self._task.board.tell("add_refused", list(new.values()))
        if checksums:
            self._task.board.tell("add_checksums", checksums)
        self._refuse_too_many(len(self._refused))

    def _refuse_too_many(self, refused: float) -> None:
        allowed, source = self._task.config.max_bad_fraction, self._task.source
        images = sum(source.count(split) for split in FITTED_SPLITS)
        if refused / images > allowed:
            raise TooManyBadImagesError(
                f"{refused:.0f} of {images} images are bad; --max-bad-fraction {allowed:g} does not "
                "allow that (`convert` lists them with their reasons)"
            )

    def _check(self, examples: dict[str, SplitExamples]) -> None:
        """Count images over all workers, so that all of them refuse together."""
        names, cache = self._task.source.class_names, examples["train"].cache
        labels = np.empty(0, np.int32) if cache is None else cache.labels
        here = np.bincount(labels[labels >= 0], minlength=len(names))
        *usable, refused, streaming = self._sum([*here, len(self._refused), float(cache is None)], COUNTS_KEY)
        self._refuse_too_many(refused)
        for name, count in zip(names, usable, strict=True):
            if not count and not streaming:
                raise DataError(f"class {name!r} has no usable training image left")

    # -- phases

    def _train_phases(
        self, network: "Network", newest: Checkpoint | None, loading: Future[dict[str, SplitExamples]]
    ) -> "keras.Model":
        from lib.training.phases import trained_network

        self._rows = list(newest.state.rows) if newest else []
        phases = plan_phases(self._task.spec, self._task.config)
        for phase in phases:
            if newest and newest.state.phase > phase.number:
                continue
            trained = trained_network(phase, network, self._task.config)
            if newest and newest.state.phase == phase.number and newest.state.finished:
                trained.set_weights(newest.best)
                loading = self._loader.submit(self._load, on_features=False) if phase is not phases[-1] else loading
                continue
            examples = loading.result()
            self._check(examples)
            if phase is not phases[-1]:
                loading = self._loader.submit(self._load, on_features=False)
            self._fit(
                phase, network, trained, examples, newest if newest and newest.state.phase == phase.number else None
            )
            self._check(examples)  # once more: streamed images have been seen only now
        return network.model

    def _fit(
        self,
        phase: Phase,
        network: "Network",
        trained: "keras.Model",
        examples: dict[str, SplitExamples],
        newest: Checkpoint | None,
    ) -> None:
        """Train one phase, and leave its network as it was after its best epoch."""
        from lib.models.augmentation import Augmentation
        from lib.training.callbacks import AverageStatistics, History, KeepBest, SaveCheckpoints, Scalars
        from lib.training.phases import phase_optimizer
        from lib.training.progress import FitProgress
        from lib.training.synchronous import SynchronousModel

        config, order = self._task.config, examples["train"].order
        change = Augmentation(config.augment) if config.augment and not phase.on_features else None
        model = SynchronousModel(
            trained,
            self._world_size,
            order.part_sizes(config.gradient_parts),
            change=change,
            first_key=FIRST_PHASE_KEY * (phase.number + 1),
        )
        rate = config.learning_rate or self._task.spec.learning_rate
        model.compile(optimizer=phase_optimizer(phase, network, config, rate, order.steps), jit_compile=False)
        model.optimizer.build(trained.trainable_variables)
        batches = {split: self._batches(split, some, change is not None) for split, some in examples.items()}
        history = History(phase.name, order.count, batches["train"], self._task.board if self._writes else None)
        history.rows = self._rows
        best = KeepBest(trained, config.patience)
        if self._rows:  # an earlier phase may have been better than any epoch of this one
            best.weights, best.best_loss = trained.get_weights(), min(map(watched_loss, self._rows))
        progress = FitProgress(phase.number, model, history, best, self._checkpoints if self._writes else None)
        if newest is not None:
            progress.restore(newest)
        callbacks = [AverageStatistics(model), history, best]
        if self._writes:
            callbacks.append(Scalars(self._task.output / "tensorboard" / phase.name))
        callbacks.append(SaveCheckpoints(progress, config.checkpoint_every, self._heartbeat, self._is_leaving))
        self._run_epochs(model, phase, progress, batches, examples, callbacks)
        if not best.weights:
            raise DivergedError(f"the loss of {self._task.spec.text} was never a number; try a lower --learning-rate")
        progress.save(phase.epochs, 0, finished=True, wait=True)
        best.restore()

    def _run_epochs(
        self,
        model: Any,
        phase: Phase,
        progress: Any,
        batches: "dict[str, Batches]",
        examples: dict[str, SplitExamples],
        callbacks: list[Any],
    ) -> None:
        """Call `fit`: once for the rest of an interrupted epoch, and once for all the others."""
        ends = [progress.epoch + 1, phase.epochs] if progress.step else [phase.epochs]
        for end in ends:
            if progress.epoch >= end or model.stop_training:
                continue
            batches["train"].epoch, batches["train"].first_step = progress.epoch, progress.step
            datasets = {split: some.dataset(*examples[split].shape) for split, some in batches.items()}
            with _original_error(batches):
                model.fit(
                    datasets["train"],
                    validation_data=datasets.get("validation"),
                    initial_epoch=progress.epoch,
                    epochs=end,
                    callbacks=callbacks,
                    shuffle=False,  # the order is ours
                    verbose=0,
                )
            progress.epoch = end

    def _batches(self, split: str, examples: SplitExamples, changed: bool) -> "Batches":
        from lib.training.batches import Batches

        config, is_train = self._task.config, split == "train"
        counts = np.array(self._task.source.class_counts("train"), np.int64)
        weights = np.ones(len(counts), np.float32)
        if is_train and config.class_weight == "balanced":
            weights = (counts.sum() / (len(counts) * np.maximum(counts, 1))).astype(np.float32)
        positions = None
        if is_train and config.sampling == "balanced" and examples.cache is not None:
            labels = examples.cache.labels
            here = examples.order.class_counts(labels, len(counts))
            chances = balancing_weights(self._sum(list(here.ravel()), LANES_KEY).reshape(here.shape).astype(np.float64))

            def positions(epoch: int) -> npt.NDArray[np.int64]:
                return examples.order.balanced_epoch(epoch, labels, chances)

        seed = config.seed if is_train and changed else None
        return Batches(examples.read, examples.order, weights, positions=positions, draw_seed=seed)

    # -- results

    def _as_float32(self, model: "keras.Model") -> "keras.Model":
        """The same network without mixed precision, which is for training."""
        if self._task.config.precision == "float32":
            return model
        from lib.models.registry import build_network

        plain = build_network(*self._network_arguments).model
        plain.set_weights(model.get_weights())
        return plain

    def _write_results(self, network: "keras.Model") -> None:
        output = self._task.output
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / NETWORK_FILE
            network.save(file)
            (output / NETWORK_FILE).write_bytes(file.read_bytes())
        write_table(pa.Table.from_pylist(self._rows, schema=HISTORY_SCHEMA), output / HISTORY_FILE)
        (output / CURVES_FILE).write_bytes(curves(pd.DataFrame(self._rows)))

    def _results(self, network: "Network") -> dict[str, Any]:
        rows = self._rows
        best = min(rows, key=watched_loss)
        return {
            "world_size": self._world_size,
            "parameters": int(network.model.count_params()),
            "metrics": {
                "best_epoch": best["epoch"],
                "epochs": len(rows),
                **{name: best[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")},
            },
            "images": self._task.source.count("train"),
            "fit_seconds": round(sum(row["seconds"] for row in rows), 3),
            "images_per_s": round(float(np.median([row["images_per_s"] for row in rows])), 1),
        }


def watched_loss(row: dict[str, Any]) -> float:
    """The loss by which epochs are judged; one that is no number is the worst."""
    loss = row["loss"] if row["val_loss"] is None else row["val_loss"]
    return float("inf") if np.isnan(loss) else float(loss)


@contextmanager
def _precision(name: str) -> Iterator[None]:
    """Have Keras build layers of a precision. It is set for the whole process, which may be the driver's."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextmanager
def _original_error(batches: "dict[str, Batches]") -> Iterator[None]:
    """Raise what went wrong while reading batches, instead of what TensorFlow makes of it."""
    try:
        yield
    except Exception as error:
        for some in batches.values():
            if some.error is not None:
                raise some.error from error
        raise
