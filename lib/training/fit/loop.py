"""What each worker does: load its examples while TensorFlow starts, fit phase by phase, and, on rank 0, save."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import ray.train

from lib.dataset.sampler import balancing_weights
from lib.errors import DivergedError
from lib.folders.model import CHECKPOINTS, TENSORBOARD
from lib.runtime.logs import join_stage
from lib.runtime.ray_data import prepare_context
from lib.training.fit.checkpoint import Checkpoint, CheckpointFolder, TrainState
from lib.training.fit.history import history_record, watched_loss, write_history
from lib.training.fit.loader import ExampleLoader, SplitExamples
from lib.training.fit.plan import Phase, plan_phases
from lib.training.workers.failures import LostPeerError, lost_peers_named
from lib.training.workers.peers import Collective, Peers, TrainTask, start_collectives
from lib.training.workers.preemption import checkpoint_wanted
from lib.training.workers.watchdog import Heartbeat

if TYPE_CHECKING:
    import keras

    from lib.models.registry import Network
    from lib.training.fit.batches import Batches


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
    join_stage("train")
    task, context = loop_config["task"], ray.train.get_context()
    prepare_context(task.config.verbose)
    peers = Peers(context.get_world_rank(), context.get_world_size())
    with (
        Heartbeat(task.reporter, peers.rank) as heartbeat,
        ThreadPoolExecutor(max_workers=1) as loader,
        lost_peers_named(),
    ):
        return Worker(task, peers, heartbeat, loader, checkpoint_wanted).train()


def train_alone(loop_config: dict[str, TrainTask]) -> dict[str, Any]:
    """Train as the only worker, inside a trial of Ray Tune, where Ray Train tells nothing of the workers.

    Args:
        loop_config: The `task`; its settings state `cache_gib`, since it is not known how many share this machine.

    Returns:
        What `model.json` says of the training.

    Raises:
        TissueError: See `train_on_worker`.
    """
    task = loop_config["task"]
    prepare_context(task.config.verbose)
    with Heartbeat(task.reporter, 0) as heartbeat, ThreadPoolExecutor(max_workers=1) as loader:
        return Worker(task, Peers(0, 1), heartbeat, loader).train()


class Worker:
    """One worker, from its first image to the model folder."""

    def __init__(
        self,
        task: TrainTask,
        peers: Peers,
        heartbeat: Heartbeat,
        loader: ThreadPoolExecutor,
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take a place among the workers.

        Args:
            task: What to do.
            peers: The workers.
            heartbeat: Of this worker.
            loader: Its thread loads examples.
            is_leaving: Tells whether this worker is about to be ended; without Ray Train nobody ends it with notice.
        """
        self._is_leaving = is_leaving
        self._task, self._peers = task, peers
        self._heartbeat, self._loader = heartbeat, loader
        self._examples = ExampleLoader(task, peers, heartbeat)
        self._checkpoints = CheckpointFolder(task.output / CHECKPOINTS)
        self._rows: list[dict[str, Any]] = []

    def train(self) -> dict[str, Any]:
        """Train all phases that are not done.

        Returns:
            What `model.json` says of the training.
        """
        newest = self._checkpoints.newest()
        on_features = self._task.features is not None and (newest is None or newest.state.phase == 0)
        loading = self._loader.submit(self._examples.load, on_features)
        with _precision(self._task.config.precision):
            network = self._start(newest)
            examples = self._train_phases(network, newest, loading)
        if self._peers.is_writer:
            write_history(self._rows, self._task.output)
        return self._close(self._in_float32(network), examples) | history_record(self._rows)

    def _close(self, network: "Network", examples: dict[str, SplitExamples]) -> dict[str, Any]:
        from lib.training.fit.finish import Closing

        return {
            "world_size": self._peers.world_size,
            "parameters": int(network.model.count_params()),
            "images": self._task.info.count("train"),
            **Closing(self._task, self._peers, self._heartbeat, network, examples).close(),
        }

    def _start(self, newest: Checkpoint | None) -> "Network":
        """Import TensorFlow and build the network: the slow part of starting, so done while examples load."""
        from lib.models.registry import build_network

        if self._peers.world_size > 1:
            start_collectives()
            self._agree_on(newest)
        return build_network(*self._network_arguments)

    @property
    def _network_arguments(self) -> tuple[Any, ...]:
        task = self._task
        return task.spec, len(task.info.class_names), task.info.image_size, task.config.seed, task.config.head_units

    def _agree_on(self, newest: Checkpoint | None) -> None:
        """Make sure that all workers go on from the same checkpoint: one may have been written in between."""
        state = newest.state if newest else TrainState()
        place = [float(newest is None), state.phase, state.epoch, state.step, float(state.finished)]
        if not np.array_equal(
            self._peers.sum(place, Collective.CHECKPOINT), np.multiply(self._peers.world_size, place)
        ):
            raise LostPeerError("the workers found different checkpoints")

    def _train_phases(
        self, network: "Network", newest: Checkpoint | None, loading: Future[dict[str, SplitExamples]]
    ) -> dict[str, SplitExamples]:
        """Leave the network as it was after its best epoch.

        Returns:
            The examples of the last phase.
        """
        from lib.training.fit.phases import trained_network

        self._rows = list(newest.state.rows) if newest else []
        phases = plan_phases(self._task.spec, self._task.config)
        for phase in phases:
            if newest and newest.state.phase > phase.number:
                continue
            trained = trained_network(phase, network, self._task.config)
            checkpoint = newest if newest and newest.state.phase == phase.number else None
            if checkpoint and checkpoint.state.finished:
                trained.set_weights(checkpoint.best)
                if phase is not phases[-1]:
                    loading = self._loader.submit(self._examples.load, on_features=False)
                continue
            examples = loading.result()
            self._examples.check(examples)
            if phase is not phases[-1]:
                loading = self._loader.submit(self._examples.load, on_features=False)
            self._fit(phase, network, trained, examples, checkpoint)
            self._examples.check(examples)  # once more: streamed images have been seen only now
        return loading.result()

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
        from lib.training.fit.callbacks import AverageStatistics, History, KeepBest, Scalars
        from lib.training.fit.phases import phase_optimizer
        from lib.training.fit.resume import FitProgress, SaveCheckpoints
        from lib.training.fit.synchronous import SynchronousModel

        config, order = self._task.config, examples["train"].order
        change = Augmentation(config.augment) if config.augment and not phase.on_features else None
        model = SynchronousModel(
            trained,
            self._peers.world_size,
            order.part_sizes(config.gradient_parts),
            change=change,
            phase=phase.number,
        )
        rate = config.learning_rate or self._task.spec.learning_rate
        model.compile(optimizer=phase_optimizer(phase, network, config, rate, order.steps), jit_compile=False)
        model.optimizer.build(trained.trainable_variables)
        batches = {split: self._batches(split, some, change is not None) for split, some in examples.items()}
        reporter = self._task.reporter if self._peers.is_writer else None
        history = History(phase.name, order.count, batches["train"], reporter)
        history.rows = self._rows
        best = KeepBest(trained, config.patience)
        if self._rows:  # an earlier phase may have been better than any epoch of this one
            best.weights, best.best_loss = trained.get_weights(), min(map(watched_loss, self._rows))
        progress = FitProgress(phase.number, model, history, best, self._checkpoints if self._peers.is_writer else None)
        if newest is not None:
            progress.restore(newest)
        callbacks = [AverageStatistics(model), history, best]
        if self._peers.is_writer:
            callbacks.append(Scalars(self._task.output / TENSORBOARD / phase.name))
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
        from lib.training.fit.batches import original_error

        ends = [progress.epoch + 1, phase.epochs] if progress.step else [phase.epochs]
        for end in ends:
            if progress.epoch >= end or model.stop_training:
                continue
            batches["train"].epoch, batches["train"].first_step = progress.epoch, progress.step
            datasets = {split: some.dataset(*examples[split].shape) for split, some in batches.items()}
            with original_error(batches):
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
        from lib.training.fit.batches import Batches

        config, is_train = self._task.config, split == "train"
        counts = np.array(self._task.info.counts["train"], np.int64)
        weights = np.ones(len(counts), np.float32)
        if is_train and config.class_weight == "balanced":
            weights = (counts.sum() / (len(counts) * np.maximum(counts, 1))).astype(np.float32)
        positions = None
        if is_train and config.sampling == "balanced" and examples.cache is not None:
            labels = examples.cache.labels
            here = examples.order.class_counts(labels, len(counts))
            chances = balancing_weights(self._peers.sum(here, Collective.LANE_COUNTS).astype(np.float64))

            def positions(epoch: int) -> npt.NDArray[np.int64]:
                return examples.order.balanced_epoch(epoch, labels, chances)

        seed = config.seed if is_train and changed else None
        return Batches(examples.read, examples.order, weights, positions=positions, draw_seed=seed)

    def _in_float32(self, network: "Network") -> "Network":
        """The same network without mixed precision, which is for training."""
        if self._task.config.precision == "float32":
            return network
        from lib.models.registry import build_network

        plain = build_network(*self._network_arguments)
        plain.model.set_weights(network.model.get_weights())
        return plain


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
