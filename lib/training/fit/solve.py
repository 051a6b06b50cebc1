"""The linear head on a frozen base is solved, not trained: its loss has one minimum, whoever looks for it.

Rank 0 chooses the penalty by cross-validation on all training images, or on as many as `--head-memory-gib` holds, while
the others wait. If those were all, its head is the result, the same bits for any number of workers. If there are more,
all workers together minimise the same loss over all images: each adds up loss and gradient of its own, from memory or
streamed from storage, and L-BFGS takes the same steps on all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.train
from scipy.special import log_softmax

from lib.dataset.memory import ExampleCache
from lib.dataset.sampler import PADDING
from lib.errors import DataError
from lib.folders.history import HistoryRow
from lib.models.registry import Network, set_head
from lib.models.softmax_regression import (
    Examples,
    LinearHead,
    PathStep,
    Standardisation,
    data_term,
    minimise,
    unflatten,
)
from lib.runtime.ray_data import stream_tables
from lib.training.feature_extraction import FeatureSource
from lib.training.fit.head_examples import HeadExamples, LeftOut, read_examples
from lib.training.fit.loader import SplitExamples
from lib.training.fit.plan import HEAD
from lib.training.workers.lane_shards import FOLDS
from lib.training.workers.messages import EpochEnded, ImagesTrained, Note
from lib.training.workers.peers import Collective, Peers, TrainTask
from lib.training.workers.watchdog import Heartbeat

Array = npt.NDArray[np.float64]
_Chunk = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]

CHUNK = 4096
"""Images whose features are held in float64 at one time."""
REFINING_ITERATIONS = 100


@dataclass(frozen=True)
class _Choice:
    """What rank 0 found.

    Attributes:
        head: Solved on the images of the choice.
        images: How many these were.
        rows: The path, as rows of the history.
        chosen: The place of the best in it.
        left_out: None where no image could be left out.
    """

    head: LinearHead
    images: int
    rows: list[HistoryRow]
    chosen: int
    left_out: LeftOut | None


class HeadSolver:
    """Solves the head of one training, on each of its workers at the same time."""

    def __init__(
        self,
        task: TrainTask,
        features: FeatureSource,
        peers: Peers,
        heartbeat: Heartbeat,
        class_weights: npt.NDArray[np.float32],
    ) -> None:
        """Take the features of the frozen base.

        Args:
            peers: The workers.
            class_weights: How much an image of each class counts, shape (classes,).
        """
        self._task, self._features, self._peers, self._heartbeat = task, features, peers, heartbeat
        self._class_weights = class_weights.astype(np.float64)
        self._class_count = len(class_weights)

    def solve(self, network: Network, examples: dict[str, SplitExamples]) -> tuple[list[HistoryRow], LeftOut | None]:
        """Solve the head and put it into the network.

        Args:
            network: Standardises its features; changed in place.
            examples: This worker's features.

        Returns:
            The rows of the history, and what there is to calibrate by; the same on every worker.

        Raises:
            DataError: If a class has no usable image.
        """
        self._heartbeat.step(patient=True)
        blocks = tuple(network.taps.values())
        choice = self._peers.share(self._choose(blocks) if self._peers.is_writer else None)
        head, rows = choice.head, choice.rows
        if choice.images < self._task.info.count("train"):
            head, rows[choice.chosen] = self._refine(
                choice, {split: some.caches for split, some in examples.items()}, blocks
            )
        set_head(network, head)
        if self._peers.is_writer:
            self._report(rows, rows[choice.chosen])
        return rows, choice.left_out

    def _report(self, rows: Sequence[HistoryRow], best: HistoryRow) -> None:
        for row in rows:
            self._task.reporter.report(EpochEnded(row))
        self._task.reporter.report(ImagesTrained(self._task.info.count("train")))
        text = f"head solved: penalty {best.penalty:.1e}, the best of {len(rows)}; loss {best.loss:.4f}"
        if best.left_out_accuracy is not None:
            text += f", cross-validated {best.left_out_loss:.4f}, accuracy {best.left_out_accuracy:.3f}"
        if best.val_accuracy is not None:
            text += f", validation {best.val_loss:.4f}, accuracy {best.val_accuracy:.3f}"
        if best.left_out_loss is None and best.val_loss is None:
            text += "; no image could be left out to choose the penalty by"
        self._task.reporter.report(Note(text))

    def _choose(self, blocks: Sequence[int]) -> _Choice:
        """Solve heads for all penalties on the images of the choice, and take the best."""
        folds = pa.concat_tables(stream_tables(ray.train.get_dataset_shard(FOLDS)))
        images = HeadExamples.read(self._features, folds, self._class_weights, self._be_patient)
        self._refuse_empty_classes(images.labels)
        # With fine-tuning, whose epochs the validation images judge, the head is judged by the same.
        judged_by_validation = self._task.config.fine_tune_epochs > 0 and self._task.info.count("validation") > 0
        solved = images.solve(
            self._class_count,
            blocks,
            self._validation(folds.num_rows),
            by_folds=not judged_by_validation,
            on_step=self._be_patient,
        )
        rows = [_row(number, step, len(images.labels)) for number, step in enumerate(solved.path, 1)]
        return _Choice(solved.head, folds.num_rows, rows, solved.chosen, images.left_out(solved))

    def _be_patient(self) -> None:
        self._heartbeat.move(patient=True)

    def _refuse_empty_classes(self, labels: npt.NDArray[np.int32]) -> None:
        for name, count in zip(
            self._task.info.class_names, np.bincount(labels, minlength=self._class_count), strict=True
        ):
            if not count:
                raise DataError(f"class {name!r} has no usable training image left")

    def _validation(self, most: int) -> Examples | None:
        """Validation images; of very many, as many as there are training images in the choice."""
        count = self._task.info.count("validation")
        every = np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)
        found = read_examples(self._features, "validation", every, on_chunk=self._be_patient)
        usable = found.labels != PADDING
        return found.where(usable) if usable.any() else None

    def _refine(
        self, choice: _Choice, caches: Mapping[str, Sequence[ExampleCache]], blocks: Sequence[int]
    ) -> tuple[LinearHead, HistoryRow]:
        """The head of the chosen penalty on all images, from the one that was solved on some of them, and its row."""
        train, row = caches["train"], choice.rows[choice.chosen]
        standardisation, total, weight = self._totals(train, blocks)
        # The penalty stands for what is believed of heads before any image is seen: it fades as images grow in number.
        penalty = (row.penalty or 0.0) * choice.images * len(caches["train"]) / total
        scale = np.sqrt(self._features.width)

        def objective(flat: Array) -> tuple[float, Array]:
            self._heartbeat.step(patient=True)
            kernel, bias = unflatten(flat, self._class_count)
            here = np.zeros(1 + flat.size)
            for features, labels in usable_chunks(train):
                columns = standardisation(features) / scale
                loss, gradient = data_term(columns, labels, self._class_weights[labels] / weight, kernel, bias)
                here += np.concatenate([[loss], gradient.ravel()])
            everywhere = self._peers.sum_exactly(here, Collective.HEAD_GRADIENT)
            gradient = everywhere[1:].reshape(-1, self._class_count)
            gradient[:-1] += penalty * kernel
            return float(everywhere[0] + penalty / 2 * (kernel**2).sum()), gradient.ravel()

        begun = choice.head.restated(standardisation)
        start = np.concatenate([begun.kernel * scale, begun.bias[None]])
        kernel, bias = unflatten(minimise(objective, start.ravel(), REFINING_ITERATIONS), self._class_count)
        head = LinearHead(standardisation, kernel / scale, bias)
        loss, accuracy = self._measured(head, usable_chunks(train), self._class_weights)
        row = replace(row, penalty=penalty, loss=loss, accuracy=accuracy)
        if "validation" in caches:
            loss, accuracy = self._measured(head, usable_chunks(caches["validation"]), np.ones(self._class_count))
            row = replace(row, val_loss=loss, val_accuracy=accuracy)
        return head, row

    def _totals(self, train: Sequence[ExampleCache], blocks: Sequence[int]) -> tuple[Standardisation, float, float]:
        """The standardisation of all images of all workers, how many they are, and how much they weigh."""
        width = self._features.width
        here = np.zeros(2 * width + 2)
        for features, labels in usable_chunks(train):
            exact, weight = features.astype(np.float64), self._class_weights[labels].sum()
            here += np.concatenate([exact.sum(axis=0), (exact**2).sum(axis=0), [len(labels), weight]])
        *sums, count, weight = self._peers.sum_exactly(here, Collective.FEATURE_SUMS)
        mean, square = np.array(sums).reshape(2, width) / count
        return Standardisation.from_moments(mean, square - mean**2, blocks), float(count), float(weight)

    def _measured(self, head: LinearHead, chunks: Iterable[_Chunk], class_weights: Array) -> tuple[float, float]:
        """Loss and accuracy over all images of all workers."""
        here = np.zeros(4)
        for features, labels in chunks:
            logits, weights = head.logits(features), class_weights[labels]
            losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
            hits = logits.argmax(axis=1) == labels
            here += [weights @ losses, weights.sum(), hits.sum(), len(labels)]
        self._heartbeat.step(patient=True)
        loss, weight, hits_in_all, count = self._peers.sum_exactly(here, Collective.HEAD_MEASURES)
        return float(loss / weight), float(hits_in_all / count)


def usable_chunks(caches: Iterable[ExampleCache]) -> Iterator[_Chunk]:
    """Features and labels of usable images, some at a time: kept by nobody, since together they may not fit."""
    for cache in caches:
        for start in range(0, len(cache.labels), CHUNK):
            labels = cache.labels[start : start + CHUNK]
            usable = labels != PADDING
            if usable.any():
                yield cache.examples[start : start + CHUNK][usable], labels[usable]


def _row(number: int, step: PathStep, images: int) -> HistoryRow:
    validation, left_out = step.validation, step.left_out
    return HistoryRow(
        epoch=number,
        phase=HEAD,
        loss=step.training.loss,
        accuracy=step.training.accuracy,
        val_loss=validation.loss if validation else None,
        val_accuracy=validation.accuracy if validation else None,
        learning_rate=None,
        seconds=step.seconds,
        images_per_s=images / step.seconds,
        wait_share=0.0,
        penalty=step.penalty,
        left_out_loss=left_out.loss if left_out else None,
        left_out_accuracy=left_out.accuracy if left_out else None,
    )
