"""The end of a training: its best network is run once more over some images, calibrated by them, and written.

Each worker runs its own validation images and its own of the chosen training images, each image once and unchanged; as
features, if those were trained on (then in the first variant, if there are several). All workers learn all results, so
that each comes to the same temperature and threshold, and one of them writes. Whoever is lost meanwhile starts again
from the checkpoint of the finished training.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.train
import tensorflow as tf

from lib.dataset.sampler import PADDING
from lib.folders.history import HistoryRow, best_row, history_table
from lib.folders.model import (
    NETWORK_FILE,
    TENSORBOARD,
    BestEpoch,
    Calibration,
    FitRecord,
    ReferenceRecord,
    write_epochs,
    write_reference,
)
from lib.models.calibration import fit_calibration, scale_last_layer
from lib.models.probabilities import softmax
from lib.models.reference import NEIGHBOURS, neighbour_distances, reference_record
from lib.models.registry import Network
from lib.plots import curves
from lib.projector import ProjectorPoints, choose_points, projector_files, unit_length
from lib.runtime.ray_data import stream_tables
from lib.training.fit.head_examples import LeftOut
from lib.training.fit.loader import SplitExamples
from lib.training.workers.lane_shards import REFERENCE
from lib.training.workers.peers import Collective, Peers, TrainTask
from lib.training.workers.watchdog import Heartbeat

FloatArray = npt.NDArray[np.float32]

BATCH_SIZE = 64
PROJECTOR_FOLDER = f"{TENSORBOARD}/projector"


class NetworkOutput(NamedTuple):
    """What a network makes of some images.

    Attributes:
        positions: Positions of the images in their split, int64 (n,).
        labels: Their classes, int32 (n,).
        embeddings: The input of the last layer, float32 (n, d).
        logits: Its output, float32 (n, classes).
    """

    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    embeddings: FloatArray
    logits: FloatArray


class _Forward:
    """A network in two steps, up to its last layer and through it."""

    def __init__(self, network: Network, examples: SplitExamples, heartbeat: Heartbeat, parts: int) -> None:
        """Take a network, and examples of the kind to run it on: features if it has a base and they have its width.

        Args:
            parts: Into how many parts a global batch is cut. Only images of one part are run together: what a network
                makes of an image differs in its last bits with the images beside it.
        """
        self.last = network.model.layers[-1]
        shape, dtype = examples.shape
        embed = self._after_base(network) if dtype == np.float32 else self._from_images(network)
        specification = tf.TensorSpec([None, *shape], tf.as_dtype(dtype))
        self._run = tf.function(lambda batch: self._both(embed(batch)), input_signature=[specification])
        self._heartbeat, self._parts = heartbeat, parts

    @staticmethod
    def _from_images(network: Network) -> Any:
        return keras.Model(network.model.input, network.model.layers[-1].input)

    @staticmethod
    def _after_base(network: Network) -> Any:
        hidden = network.head.layers[1:-1]
        return lambda features: reduce(lambda tensor, layer: layer(tensor), hidden, features)

    def _both(self, embeddings: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return embeddings, self.last(embeddings)

    def __call__(self, examples: SplitExamples, wanted: npt.NDArray[np.int64]) -> Iterator[NetworkOutput]:
        """What the network makes of this worker's images at some positions, in batches; none of refused images."""
        order = examples.order.epoch(0)
        order = np.where(np.isin(order, wanted), order, PADDING)
        order = order[(order != PADDING).any(axis=1)]
        cuts = np.cumsum(examples.order.part_sizes(self._parts))[:-1]
        waiting: list[list[tuple[npt.NDArray[Any], ...]]] = [[] for _ in range(len(cuts) + 1)]
        self._heartbeat.move(patient=True)
        for number, (positions, (batch, labels)) in enumerate(zip(order, examples.read(order, 0), strict=True)):
            self._heartbeat.move(patient=number == 0)  # the first one is compiled
            for rows, part in zip(waiting, np.split(np.arange(len(labels)), cuts), strict=True):
                usable = part[labels[part] != PADDING]
                rows.append((positions[usable], labels[usable], batch[usable]))
                if _count(rows) >= BATCH_SIZE:
                    yield self._outcome(rows)
                    rows.clear()
        for rows in waiting:
            if _count(rows):
                yield self._outcome(rows)

    def _outcome(self, rows: list[tuple[npt.NDArray[Any], ...]]) -> NetworkOutput:
        positions, labels, batch = (np.concatenate(column) for column in zip(*rows, strict=True))
        embeddings, logits = (tensor.numpy() for tensor in self._run(batch))
        return NetworkOutput(positions, labels, embeddings.astype(np.float32), logits.astype(np.float32))


def _count(rows: list[tuple[npt.NDArray[Any], ...]]) -> int:
    return sum(len(columns[0]) for columns in rows)


class Finish:
    """Measures a trained network, scales its last layer, and writes it with its history and its reference."""

    def __init__(
        self,
        task: TrainTask,
        peers: Peers,
        heartbeat: Heartbeat,
        network: Network,
        examples: Mapping[str, SplitExamples],
        left_out: LeftOut | None,
    ) -> None:
        """Begin.

        Args:
            task: Has the images and the model folder.
            peers: The workers, all of which do this at the same time.
            network: As it is after its best epoch, in float32; its last layer is scaled in place.
            examples: Examples of the last phase, by split.
            left_out: By what to calibrate, instead of validation images; None where they are all there is.
        """
        self._task, self._peers, self._heartbeat = task, peers, heartbeat
        self._network, self._examples, self._left_out = network, examples, left_out
        self._forward = _Forward(network, examples["train"], heartbeat, task.config.parts_of_batch)

    def write(self, rows: Sequence[HistoryRow]) -> FitRecord:
        """Calibrate the network, and write it if this is the worker that does.

        Args:
            rows: The history.

        Returns:
            The same on every worker.
        """
        if self._peers.is_writer:
            self._write_history(rows)
        calibration, reference = self._calibrate()
        return FitRecord(
            world_size=self._peers.world_size,
            precision=self._task.config.precision,
            parameters=int(self._network.model.count_params()),
            images=self._task.info.count("train"),
            calibration=calibration,
            reference=reference,
            metrics=_best_epoch(rows),
            taps=dict(self._network.taps),
            fit_seconds=round(sum(row.seconds for row in rows), 3),
            images_per_s=round(float(np.median([row.images_per_s for row in rows])), 1),
        )

    def _write_history(self, rows: Sequence[HistoryRow]) -> None:
        history = history_table(rows)
        picture = curves(history.to_pandas())
        write_epochs(history, picture.png, picture.svg, self._task.output)

    def _calibrate(self) -> tuple[Calibration | None, ReferenceRecord | None]:
        """Scale the last layer, and write the network and its reference; None where no image was set aside for it."""
        images, logits, embeddings = self._reference()
        if self._left_out is None:
            actual, unseen_logits, distances = self._validation(embeddings)
        else:
            actual, unseen_logits = self._left_out.labels, self._left_out.logits
            distances = self._left_out.distances(images["position"].to_numpy(), embeddings)
        calibration = fit_calibration(unseen_logits, actual)
        reference = reference_record(len(embeddings), distances)
        temperature = calibration.temperature if calibration else 1.0
        scale_last_layer(self._network.model, temperature)
        if self._peers.is_writer:
            self._heartbeat.move(patient=True)
            self._write_network()
            self._write_reference(images, softmax(logits / temperature), embeddings)
        return calibration, reference

    def _reference(self) -> tuple[pa.Table, FloatArray, FloatArray]:
        """The names, logits and embeddings (of unit length) of the reference images of all workers."""
        self._heartbeat.move(patient=True)
        images = pa.concat_tables(stream_tables(ray.train.get_dataset_shard(REFERENCE)))
        positions = images["position"].to_numpy()
        width, class_count = self._forward.last.kernel.shape
        here = np.zeros((len(positions), 1 + class_count + width), np.float32)
        for found in self._forward(self._examples["train"], positions):
            usable = np.ones((len(found.positions), 1), np.float32)
            rows = [usable, found.logits, unit_length(found.embeddings)]
            here[np.searchsorted(positions, found.positions)] = np.concatenate(rows, axis=1)
        usable, logits, embeddings = np.split(self._sum(here, Collective.REFERENCE), [1, 1 + class_count], axis=1)
        kept = usable[:, 0] > 0
        return images.filter(pa.array(kept)), logits[kept], embeddings[kept]

    def _validation(self, reference: FloatArray) -> tuple[npt.NDArray[np.int32], FloatArray, FloatArray]:
        """The classes, logits and distances to the reference of the validation images of all workers."""
        count = self._task.info.count("validation")
        here = np.zeros((count, 2 + self._forward.last.kernel.shape[1]), np.float32)
        for found in self._forward(self._examples["validation"], np.arange(count)) if count else ():
            here[found.positions, 0] = found.labels + 1  # 0 is no image
            if len(reference):
                here[found.positions, 1] = neighbour_distances(found.embeddings, reference, NEIGHBOURS)
            here[found.positions, 2:] = found.logits
        labels, distances, logits = np.split(self._sum(here, Collective.VALIDATION), [1, 2], axis=1)
        kept = labels[:, 0] > 0
        return labels[kept, 0].astype(np.int32) - 1, logits[kept], distances[kept, 0]

    def _sum(self, here: FloatArray, place: Collective) -> FloatArray:
        if self._peers.world_size > 1:  # so that who waits here is not taken for one that holds up the others
            self._heartbeat.step(patient=True)
        return self._peers.sum(here, place)

    def _write_network(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / NETWORK_FILE
            self._network.model.save(file)
            (self._task.output / NETWORK_FILE).write_bytes(file.read_bytes())

    def _write_reference(self, images: pa.Table, probabilities: FloatArray, embeddings: FloatArray) -> None:
        names, output = self._task.info.class_names, self._task.output
        write_reference(images, names, probabilities, embeddings, output)
        shown = choose_points(images["label"].to_pylist(), images["image_id"].to_pylist())
        if not len(shown):
            return
        some, predicted = images.take(shown), probabilities[shown].argmax(axis=1)
        points = ProjectorPoints(
            embeddings[shown],
            labels=some["label"].to_pylist(),
            predicted=[names[number] for number in predicted],
            confidence=probabilities[shown].max(axis=1),
            paths=some["path"].to_pylist(),
        )
        (output / PROJECTOR_FOLDER).write_many(projector_files(points))


def _best_epoch(rows: Sequence[HistoryRow]) -> BestEpoch:
    best = best_row(rows)
    return BestEpoch(
        best_epoch=best.epoch,
        epochs=len(rows),
        loss=best.loss,
        accuracy=best.accuracy,
        val_loss=best.val_loss,
        val_accuracy=best.val_accuracy,
        penalty=best.penalty,
        left_out_loss=best.left_out_loss,
        left_out_accuracy=best.left_out_accuracy,
        keeps_last=best.keeps_last,
    )
