"""The training on one worker, from top to bottom: build, resume, and for each phase compile, fit, keep the best, save.

Every worker runs this at the same time on examples of its own. All of them see the same numbers, so all take the same
decisions; rank 0 writes. `SynchronousModel` has the steps, `callbacks.py` all that happens around them, and `finish.py`
what follows.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lib.dataset.sampler import LaneOrder, balancing_weights
from lib.errors import DivergedError
from lib.folders.history import HistoryRow, best_row
from lib.folders.model import TENSORBOARD, FitRecord
from lib.models.augmentation import Augmentation
from lib.models.registry import Network, build_network, set_weights
from lib.runtime.gpu_use import GpuMeter, NoGpuMeterError, open_gpu_meter
from lib.runtime.gpus import visible_gpus
from lib.training.fit.batch_statistics import BatchStatistics
from lib.training.fit.batches import Batches, Draws, original_error
from lib.training.fit.callbacks import (
    Hook,
    Hooks,
    JudgedWeights,
    KeepBest,
    RecordHistory,
    SaveCheckpoints,
    Scalars,
    TrainedWeights,
    write_scalars,
)
from lib.training.fit.checkpoint import Checkpoint, CheckpointFolder, TrainState
from lib.training.fit.compiled import compiled_model
from lib.training.fit.finish import Finish
from lib.training.fit.head_examples import LeftOut
from lib.training.fit.image_statistics import measure_channels
from lib.training.fit.loader import ExampleLoader, SplitExamples
from lib.training.fit.phase_fit import PhaseFit
from lib.training.fit.phases import layers_in, trained_network
from lib.training.fit.plan import FINE_TUNE, Phase, unfinished_phases
from lib.training.fit.solve import HeadSolver
from lib.training.workers.failures import LostPeerError
from lib.training.workers.messages import Note
from lib.training.workers.peers import Collective, Peers, TrainTask, start_collectives
from lib.training.workers.watchdog import Heartbeat

GPU = "/GPU:0"
"""TensorFlow's name of the one GPU of a worker."""


class TrainingLoop:
    """One worker, from its first image to the model folder."""

    def __init__(
        self,
        task: TrainTask,
        peers: Peers,
        heartbeat: Heartbeat,
        loader: ExampleLoader,
        checkpoints: CheckpointFolder,
        is_leaving: Callable[[], bool],
    ) -> None:
        """Take a place among the workers.

        Args:
            peers: The workers.
            loader: Has begun to load the examples of the first phase to train.
            checkpoints: Where rank 0 saves.
            is_leaving: Tells whether this worker is about to be ended.
        """
        self._task, self._peers, self._heartbeat = task, peers, heartbeat
        self._loader, self._is_leaving = loader, is_leaving
        self._checkpoints = checkpoints if peers.is_writer else None
        self._gpu = self._gpu_meter() if peers.is_writer and visible_gpus() else None

    def train(self, phases: Sequence[Phase], newest: Checkpoint | None) -> FitRecord:
        """Train the phases that are not finished, and write the model.

        Args:
            phases: All phases.
            newest: The checkpoint to go on from.

        Returns:
            The same on every worker.
        """
        config = self._task.config
        if self._peers.world_size > 1:
            start_collectives()
            self._agree_on(newest)
        with layers_in(config.precision):
            network = self._build_network()
            if newest and newest.state.finished:
                set_weights(trained_network(phases[newest.state.phase], network, config), newest.best)
            rows = list(newest.state.rows) if newest else []
            left_out: LeftOut | None = None
            for phase in unfinished_phases(phases, newest):
                examples = self._loader.result()
                self._loader.check(examples)
                if newest is None and phase is phases[0]:
                    measure_channels(network, examples["train"], self._peers, self._heartbeat)
                if phase is not phases[-1]:
                    self._loader.begin(on_features=False)  # of the next phase, while this one is trained
                if phase.is_solved:
                    left_out = self._solve(phase, network, examples, rows, keep=phase is not phases[-1])
                else:
                    left_out = None
                    self._fit(phase, network, examples, rows, newest)
                self._loader.check(examples)  # once more: streamed images have been seen only now
            examples = self._loader.result()
        if config.precision != "float32":  # mixed precision is for training alone
            trained, network = network, self._build_network()
            set_weights(network.model, trained.model.get_weights())
        return Finish(self._task, self._peers, self._heartbeat, network, examples, left_out).write(rows)

    def _gpu_meter(self) -> GpuMeter | None:
        try:
            return open_gpu_meter()
        except NoGpuMeterError as error:
            self._task.reporter.report(Note(f"the use of the GPU is not shown: {error}"))
            return None

    def _build_network(self) -> Network:
        task, info = self._task, self._task.info
        config, solves = task.config, task.config.head == "solved"
        return build_network(
            task.spec, len(info.class_names), info.image_size, config.seed, config.head_units, standardises=solves
        )

    def _agree_on(self, newest: Checkpoint | None) -> None:
        """Make sure that all workers go on from the same checkpoint: one may have been written in between."""
        state = newest.state if newest else TrainState()
        place = [float(newest is None), state.phase, state.epoch, state.step, float(state.finished)]
        sums = self._peers.sum(place, Collective.CHECKPOINT)
        if not np.array_equal(sums, np.multiply(self._peers.world_size, place)):
            raise LostPeerError("the workers found different checkpoints")

    def _solve(
        self,
        phase: Phase,
        network: Network,
        examples: dict[str, SplitExamples],
        rows: list[HistoryRow],
        *,
        keep: bool,
    ) -> LeftOut | None:
        """Solve the head of a network.

        Args:
            phase: Is over then.
            network: Changed in place.
            examples: Features of its base.
            rows: Rows of the history are added.
            keep: Whether to save a checkpoint, since more follows; otherwise solving again is as quick.
        """
        if self._task.features is None:
            raise ValueError("there are no features to solve a head on")
        weights = self._class_weights()
        solver = HeadSolver(self._task, self._task.features, self._peers, self._heartbeat, weights)
        found, left_out = solver.solve(network, examples)
        rows.extend(found)
        if self._peers.is_writer:
            write_scalars(found, self._task.output / TENSORBOARD / phase.name)
        if keep and self._checkpoints is not None:
            best = best_row(rows)
            state = TrainState(phase.number, phase.epochs, 0, True, best.epoch, best.watched_loss, list(rows))
            weights_now = network.head.get_weights()
            self._checkpoints.save(Checkpoint(state, weights_now, [], weights_now), wait=True)
        return left_out

    def _fit(
        self,
        phase: Phase,
        network: Network,
        examples: dict[str, SplitExamples],
        rows: list[HistoryRow],
        newest: Checkpoint | None,
    ) -> None:
        """Train one phase, and leave its network as it was after its best epoch."""
        config = self._task.config
        order = examples["train"].order
        model = compiled_model(phase, network, self._task.spec, config, self._peers, order)
        draws = self._draws(phase, model.takes_draws)
        batches = {split: self._batches(split, some, draws) for split, some in examples.items()}
        fit = PhaseFit(phase, model, batches["train"], rows, self._checkpoints)
        if newest and newest.state.phase == phase.number:
            fit.resume(newest)
        hooks: list[Hook] = [
            RecordHistory(
                fit,
                self._task.reporter if self._peers.is_writer else None,
                keeps_last=self._keeps_last(phase),
                gpu=self._gpu,
            ),
            JudgedWeights(fit, BatchStatistics(model, examples["train"], self._heartbeat)),
            KeepBest(fit, config.patience_in(phase.epochs)),
            TrainedWeights(fit),
            *([Scalars(fit, self._task.output / TENSORBOARD / phase.name)] if self._peers.is_writer else []),
            SaveCheckpoints(fit, config, self._heartbeat, self._is_leaving),
        ]
        for last_epoch in fit.calls():
            datasets = {split: some.dataset() for split, some in batches.items()}
            with original_error(batches):
                model.fit(
                    datasets["train"],
                    validation_data=datasets.get("validation"),
                    initial_epoch=fit.epoch,
                    epochs=last_epoch,
                    callbacks=Hooks(hooks, model, epochs=last_epoch, steps=batches["train"].steps_left),
                    shuffle=False,  # the order is ours
                    verbose=0,
                )
        if not fit.best_weights:
            raise DivergedError(
                f"training of {self._task.spec.text} diverged: the loss was NaN from the first epoch; "
                "try a lower --learning-rate"
            )
        fit.save(phase.epochs, 0, finished=True, wait=True)
        set_weights(model.network, fit.best_weights)

    def _keeps_last(self, phase: Phase) -> bool:
        """Whether too few validation images could choose an epoch; said by the worker that speaks for all.

        Fine-tuning is kept only if it is better, by however few: that is one choice and not one of many.
        """
        images = self._task.info.count("validation")
        keeps_last = phase.name != FINE_TUNE and self._task.config.keeps_last(images)
        if keeps_last and self._peers.is_writer:
            self._task.reporter.report(Note(f"{images} validation images: the last epoch is kept, not the best"))
        return keeps_last

    def _draws(self, phase: Phase, are_served: bool) -> Draws | None:
        """What is drawn for training images; features have been changed before."""
        config = self._task.config
        changes = config.changes(from_scratch=not self._task.spec.has_frozen_base) if not phase.on_features else ()
        if not changes and not are_served:
            return None
        return Draws(config.seed, Augmentation(changes) if changes else None, are_served)

    def _batches(self, split: str, examples: SplitExamples, draws: Draws | None) -> Batches:
        order, cache, device = examples.order, examples.cache, GPU if visible_gpus() else None
        if split != "train":
            return Batches(examples, np.ones(len(self._task.info.class_names), np.float32), device=device)
        positions = None
        if self._task.config.sampling == "balanced" and cache is not None:  # the loader refuses to stream them
            positions = self._balanced_positions(order, cache.labels)
        return Batches(examples, self._class_weights(), positions=positions, draws=draws, device=device)

    def _class_weights(self) -> npt.NDArray[np.float32]:
        """The weight of a training image of each class in the loss."""
        counts = np.array(self._task.info.counts["train"], np.float64)
        if self._task.config.class_weight == "none":
            return np.ones(len(counts), np.float32)
        return np.asarray(counts.sum() / (len(counts) * np.maximum(counts, 1)), np.float32)

    def _balanced_positions(
        self, order: LaneOrder, labels: npt.NDArray[np.int32]
    ) -> Callable[[int], npt.NDArray[np.int64]]:
        """Gives the positions of an epoch, in which all workers together draw each class as often as any other."""
        counts = order.class_counts(labels, len(self._task.info.class_names))
        chances = balancing_weights(self._peers.sum(counts, Collective.LANE_COUNTS).astype(np.float64))
        return lambda epoch: order.balanced_epoch(epoch, labels, chances)
